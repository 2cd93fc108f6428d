"""Which weights a name stands for, on either door.

    smollm2-135m, a hub id, amazon.nova-2-lite-v1:0, us.amazon.nova-2-lite-v1:0    a base model
    arn:aws:bedrock:...::foundation-model/<name>, ...:inference-profile/<name>     the same
    ft:<base>:<org>:<suffix>:<id>                                                  a tuned model
    ft:<base>:<org>:<suffix>:<id>:ckpt-step-<n>                                    a checkpoint
    arn:aws:bedrock:...:custom-model/<base>/<id>                                   a tuned model
    arn:aws:bedrock:...:custom-model-deployment/<id>, or its id alone              its model
    arn:aws:bedrock:...:provisioned-model/<id>, or its id alone                    its model

A model answers on both doors, whichever its job came through. A name is looked up anew for each
request, so a deployment that is pointed elsewhere answers with the new model from then on.
"""

import re
from dataclasses import dataclass, replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from tunestone.api.services import Services
from tunestone.errors import ModelError, ModelNotReadyError, UnknownModelError
from tunestone.generation import ModelRef
from tunestone.jobs.tables import Deployment, Model

_ARN = re.compile(r"arn:aws[a-z-]*:bedrock:[a-z0-9-]*:[0-9]*:([a-z-]+)/(.+)")
_REGION_GROUP = re.compile(r"(us|eu|apac|jp|au|ca|sa|us-gov|global)\.(?=[a-z0-9-]+\.)")
_ID = re.compile(r"[a-z0-9]{12}")
_DEPLOYMENTS = frozenset({"custom-model-deployment", "provisioned-model"})
_BASES = frozenset({"", "foundation-model", "inference-profile"})


@dataclass(frozen=True, slots=True)
class Target:
    """The weights a name stands for."""

    ref: ModelRef
    """For the engine."""
    name: str
    """As the client asked, to be echoed."""
    base: str
    """The base model as clients name it, such as `qwen.qwen3-32b`."""
    note: str = ""
    """Says plainly that another model answers than the name says; empty where it is not so."""
    model_id: str = ""
    """Id of the tuned model or checkpoint in `models`; empty for a base."""


def resolve_target(services: Services, name: str) -> Target:
    """The weights that answer to `name`. Reads the database: call it off the event loop.

    Raises UnknownModelError, or ModelNotReadyError where one has to wait.
    """
    if not name.isprintable():  # PostgreSQL, for one, takes no zero character
        raise _unknown(repr(name), "A name has no control characters.")
    with services.store.session() as session:
        target = _find(services, session, name)
    return replace(target, name=name)


def _find(services: Services, session: Session, name: str) -> Target:
    """Of a deployment what it points to, else of the model itself."""
    kind, rest = _split(name)
    if kind in _DEPLOYMENTS:
        row = session.get(Deployment, rest)
        return _model(services, session, _pointed_to(row, name))
    if kind == "" and _ID.fullmatch(name) and (row := session.get(Deployment, name)):
        return _model(services, session, _pointed_to(row, name))
    return _model(services, session, name)


def _model(services: Services, session: Session, name: str) -> Target:
    kind, rest = _split(name)
    if kind == "custom-model":
        return _tuned(services, session.get(Model, rest.rpartition("/")[2]), name)
    if name.startswith("ft:"):
        return _tuned(services, session.scalar(select(Model).where(Model.alias == name)), name)
    if kind not in _BASES:
        raise _unknown(name, "An ARN of this kind is none of a model that answers.")
    return _base(services, _REGION_GROUP.sub("", rest, count=1), name)


def _split(name: str) -> tuple[str, str]:
    """(kind of ARN, what stands behind it), or ("", name) for anything but an ARN."""
    arn = _ARN.fullmatch(name)
    if arn:
        return arn[1], arn[2]
    return ("arn" if name.startswith("arn:") else ""), name


def _base(services: Services, bare: str, name: str) -> Target:
    try:
        found = services.names.resolve(bare)
    except ModelError as error:
        raise _unknown(name, str(error)) from error
    return Target(ModelRef(found.source), name, found.name, found.note)


def _tuned(services: Services, row: Model | None, name: str) -> Target:
    if row is None:
        raise _unknown(name, "It was deleted, or never was.")
    if row.status == "creating":
        raise ModelNotReadyError(f"The model '{name}' is still being made.", remedy="Try later.")
    if row.status != "active":
        raise _unknown(name, f"It is {row.status}.")
    # Without an adapter the whole model is the result, and its folder lies in the data folder.
    source = row.base if row.adapter else str(services.folder / row.base)
    adapter = str(services.folder / row.adapter) if row.adapter else ""
    plain = row.model.rpartition("foundation-model/")[2]
    return Target(ModelRef(source, adapter), name, plain, _note(services, row, plain), row.id)


def _note(services: Services, row: Model, base: str) -> str:
    if row.adapter:
        meant = f"{base} stands for {row.base} here: that is what the adapter was trained on."
        return "" if row.base == base else meant
    try:
        return services.names.resolve(base).note
    except ModelError:  # the table of base models has changed since
        return ""


def _pointed_to(row: Deployment | None, name: str) -> str:
    if row is None:
        raise _unknown(name, "It was deleted, or never was.")
    if row.status == "Creating":
        raise ModelNotReadyError(
            f"The deployment '{name}' is still being made.", remedy="Wait until it is Active."
        )
    if row.status != "Active":
        raise _unknown(name, f"The deployment is {row.status}: {row.failure}".rstrip(": "))
    return row.model_arn


def _unknown(name: str, why: str) -> UnknownModelError:
    return UnknownModelError(f"There is no model '{name}'. {why}")
