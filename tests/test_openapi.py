"""The description of the API: whole, sound, and what schemathesis makes of it is never our fault.

schemathesis draws requests that fit the description and requests that do not; neither may be
answered by a 5xx, whatever else the answer is.
"""

import json
import urllib.request

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from live_server import running, services_in
from tunestone.api import bedrock
from tunestone.api.http import Route
from tunestone.api.openapi import describe
from tunestone.api.server import RENDER_ERROR, ROUTES

EXAMPLES = 5
CHECKED = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openapi")
    services = services_in(folder, requests_per_minute=0, local_aws=True)
    with running(services, ROUTES, RENDER_ERROR) as address:
        yield address


@pytest.fixture(scope="module")
def document(url):
    with urllib.request.urlopen(f"{url}/openapi.json") as answer:
        return json.load(answer)


def test_every_route_is_described(document):
    told = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert told == {(route.method, route.path) for route in ROUTES}


def test_all_references_lead_somewhere(document):
    text = json.dumps(document)
    named = set(text.split('"#/components/schemas/')[1:])
    names = {name.partition('"')[0] for name in named}
    assert names and names <= set(document["components"]["schemas"])


def test_bedrocks_bodies_are_botocores(document):
    create = document["paths"]["/model-customization-jobs"]["post"]
    body = create["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["required"]) >= {"jobName", "customModelName", "roleArn", "trainingDataConfig"}
    assert body["properties"]["customizationType"]["enum"][:1] == ["FINE_TUNING"]
    shown = {
        parameter["name"]: parameter["in"]
        for parameter in document["paths"]["/model-customization-jobs"]["get"]["parameters"]
    }
    assert shown["statusEquals"] == "query" and shown["maxResults"] == "query"


def test_a_route_of_openais_is_described_by_its_model():
    from pydantic import BaseModel

    class Inner(BaseModel):
        size: int

    class Body(BaseModel):
        name: str
        inner: Inner

    document = describe([Route("openai", "x", "POST", "/v1/x/{id}", None, body=Body)])
    operation = document["paths"]["/v1/x/{id}"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["name", "inner"]
    assert schema["properties"]["inner"] == {"$ref": "#/components/schemas/Inner"}
    assert document["components"]["schemas"]["Inner"]["required"] == ["size"]
    assert operation["parameters"][0]["name"] == "id"


def operations_of(document, dialect):
    refused = {f"bedrock.{name}" for name in bedrock.REFUSED}
    for result in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = result.ok()
        name = operation.definition.raw["operationId"]
        twice = operation.path.startswith("/openai/v1")  # the same handlers as /v1
        if dialect in operation.tags and name not in refused and not twice:
            yield operation


@pytest.mark.parametrize("dialect", ["bedrock", "openai", "lambda"])
def test_nothing_that_schemathesis_draws_is_our_fault(url, document, dialect):
    tried = 0
    for operation in operations_of(document, dialect):
        drawn = st.one_of(
            operation.as_strategy(generation_mode=mode)
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        )

        @CHECKED
        @given(case=drawn)
        def ask(case):
            nonlocal tried
            answer = case.call(base_url=url)
            tried += 1
            assert answer.status_code < 500, f"{case.as_curl_command()}\n{answer.text}"

        ask()
    assert tried > 20


JUNK = st.one_of(
    st.binary(max_size=40),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)


def test_nor_is_any_body_that_is_none(url):
    posts = [
        route
        for route in ROUTES
        if route.method in ("POST", "PUT") and route.operation not in bedrock.REFUSED
        and not route.path.startswith("/openai/v1")
    ]  # fmt: skip

    @settings(CHECKED, max_examples=150)
    @given(route=st.sampled_from(posts), body=JUNK)
    def ask(route, body):
        path = route.path.replace("{", "").replace("}", "")
        request = urllib.request.Request(f"{url}{path}", body, method=route.method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request) as answer:
                status, text = answer.status, ""
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        assert status < 500, f"{route.method} {path} {body!r}: {text}"

    ask()
