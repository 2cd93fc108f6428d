"""The table of what is covered, held against the routes and the page."""

from botocore.loaders import Loader
from botocore.model import ServiceModel

from tunestone.api import bedrock, bedrock_runtime
from tunestone.api.coverage import FURTHER, read_rows
from tunestone.api.server import ROUTES

REFUSED = {**bedrock.REFUSED, **bedrock_runtime.REFUSED}
OPERATIONS = {route.operation for route in ROUTES}
NAMED = {name for row in read_rows() for name in row.operations}


def test_every_row_of_the_acceptance_table_is_there_once() -> None:
    assert [row.number for row in read_rows()] == list(range(1, 117))
    assert {row.number for row in read_rows() if row.state != "done"} == {20, 41, 74, 95, 111}
    assert all(row.how for row in read_rows())


def test_every_operation_of_the_table_has_a_route() -> None:
    assert NAMED <= OPERATIONS
    assert set(FURTHER) <= OPERATIONS


def test_every_route_belongs_to_a_row_or_says_what_it_is_for_or_why_it_is_refused() -> None:
    assert NAMED | set(FURTHER) | set(REFUSED) == OPERATIONS
    assert not NAMED & set(REFUSED)
    assert not set(FURTHER) & (NAMED | set(REFUSED))


def test_no_operation_of_bedrock_is_forgotten() -> None:
    for service in ("bedrock", "bedrock-runtime"):
        model = ServiceModel(Loader().load_service_model(service, "service-2"), service)
        assert set(model.operation_names) <= OPERATIONS
