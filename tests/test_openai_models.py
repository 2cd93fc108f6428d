"""Models through the real openai client: bases, what came of jobs, and what cannot be deleted."""

import openai
import pytest

from openai_server import serving
from test_openai_jobs import EMBEDDED, add_model, create, row_of
from tunestone.jobs.names import KNOWN
from tunestone.jobs.store import new_id, now
from tunestone.jobs.tables import Deployment, Model


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("models")) as both:
        yield both


@pytest.fixture
def client(served):
    return served[1]


@pytest.fixture
def services(served):
    return served[0]


def weights_of(services, alias):
    """The folder of a model's weights, made here with a file in it."""
    with services.store.session() as session:
        row = session.query(Model).filter_by(alias=alias).one()
    folder = services.folder / row.adapter
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def refusal(kind, call):
    with pytest.raises(kind) as caught:
        call()
    return caught.value


def test_bases_and_tuned_models_are_listed(services, client):
    job = create(client)
    tuned = add_model(services.store, job, step=0, kind="tuned")
    checkpoint = add_model(services.store, job, step=10)
    bedrocks = add_model(services.store, job, step=20, dialect="bedrock")
    listed = {model.id: model for model in client.models.list()}
    assert {*KNOWN, EMBEDDED, tuned, checkpoint} <= listed.keys()
    assert bedrocks not in listed
    assert (listed[tuned].owned_by, listed[tuned].object) == ("tunestone", "model")
    assert listed[tuned].model_extra["parent"] == EMBEDDED
    assert listed[EMBEDDED].model_extra == {}
    note = listed["openai.gpt-oss-20b"].model_extra["note"]
    assert "openai.gpt-oss-20b stands for the embedded model" in note


def test_a_model_is_retrieved_by_any_name_it_answers_to(services, client):
    tuned = add_model(services.store, create(client), step=0, kind="tuned")
    assert client.models.retrieve(tuned).id == tuned
    assert client.models.retrieve("qwen.qwen3-32b-v1:0").id == "qwen.qwen3-32b-v1:0"
    assert client.models.retrieve("someone/some-model").model_extra == {}
    error = refusal(openai.NotFoundError, lambda: client.models.retrieve("ft:none"))
    assert (error.param, error.code) == ("model", "model_not_found")


def test_deleting_takes_the_weights_too(services, client):
    alias = add_model(services.store, create(client), step=10)
    folder = weights_of(services, alias)
    gone = client.models.delete(alias)
    assert (gone.id, gone.deleted, gone.object) == (alias, True, "model")
    assert not folder.exists()
    refusal(openai.NotFoundError, lambda: client.models.retrieve(alias))
    refusal(openai.NotFoundError, lambda: client.models.delete(alias))


def test_weights_that_another_model_has_stay(services, client):
    job = create(client)
    tuned = add_model(services.store, job, step=0, kind="tuned")
    folder = weights_of(services, tuned)
    shared = str(folder.relative_to(services.folder))
    add_model(services.store, job, step=30, adapter=shared)
    client.models.delete(tuned)
    assert folder.is_dir()


def test_a_whole_model_outside_the_data_folder_is_never_touched(services, client, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    alias = add_model(services.store, create(client), step=1, adapter="", base=str(tmp_path))
    client.models.delete(alias)
    assert (tmp_path / "config.json").is_file()


def test_a_model_in_use_is_not_deleted(services, client):
    alias = add_model(services.store, create(client), step=10)
    with services.store.session() as session:
        model_id = session.query(Model).filter_by(alias=alias).one().id
        deployment = Deployment(
            id=new_id(),
            kind="deployment",
            name="mine",
            model_arn=f"arn:aws:bedrock:us-east-1:123456789012:custom-model/a.b/{model_id}",
            status="Active",
            region="us-east-1",
            request={},
            created_at=now(),
            updated_at=now(),
        )
        session.add(deployment)
    error = refusal(openai.ConflictError, lambda: client.models.delete(alias))
    assert error.code == "model_in_use"
    assert "in use by the deployment 'mine'" in error.message
    with services.store.session() as session:
        session.delete(session.get_one(Deployment, deployment.id))
    going_on = create(client, alias)
    error = refusal(openai.ConflictError, lambda: client.models.delete(alias))
    assert f"is what the job {going_on.id} starts from" in error.message
    client.fine_tuning.jobs.cancel(going_on.id)
    assert row_of(services.store, going_on).start_adapter == model_id
    assert client.models.delete(alias).deleted


def test_a_base_model_cannot_be_deleted(client):
    error = refusal(openai.PermissionDeniedError, lambda: client.models.delete(EMBEDDED))
    assert error.code == "model_not_deletable"
    assert f"The model '{EMBEDDED}' is a base model and cannot be deleted here." in error.message
