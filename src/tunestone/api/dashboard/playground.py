"""The playground: two models answer the same prompt side by side, through OpenAI's door."""

from sqlalchemy import select
from starlette.requests import Request
from starlette.routing import BaseRoute

from tunestone.api.services import Services
from tunestone.jobs.tables import Deployment, Model
from tunestone.pages.app import Data, page

_MOST = 200
"""Models of a kind to choose from, the newest first."""

_TUNED = "Tuned models"

Choice = dict[str, str]


def playground_routes(services: Services) -> list[BaseRoute]:
    """`/playground`; its query may name the models, as `left` and `right`."""

    def show(request: Request) -> Data:
        groups = _models(services)
        names = [choice["name"] for group in groups for choice in group["models"]]
        tuned = next((group["models"][0] for group in groups if group["title"] == _TUNED), None)
        given = {"left": names[0], "right": names[0]}
        if tuned is not None:
            given = {"left": tuned["base"], "right": tuned["name"]}
        sides = {side: request.query_params.get(side, name) for side, name in given.items()}
        return {
            "title": "Playground",
            "groups": groups,
            **sides,
            "others": [name for name in dict.fromkeys(sides.values()) if name not in names],
        }

    return page("/playground", "playground.html.j2", show)


def _models(services: Services) -> list[Data]:
    """What answers here, by kind; kinds of which there is nothing are left out."""
    tuned = select(Model).where(Model.status == "active").order_by(Model.created_at.desc())
    active = select(Deployment).where(Deployment.status == "Active")
    with services.store.session() as session:
        results, checkpoints = (
            list(session.scalars(tuned.where(Model.kind == kind).limit(_MOST)))
            for kind in ("tuned", "checkpoint")
        )
        named = list(session.scalars(active.order_by(Deployment.created_at.desc()).limit(_MOST)))
    groups = {
        "Base models": [_base(services, name) for name in services.names.listed()],
        _TUNED: [{**_choice(m.alias, m.name), "base": m.model} for m in results],
        "Checkpoints": [_choice(model.alias, model.name) for model in checkpoints],
        "Deployments": [_choice(row.id, row.name) for row in named],
    }
    return [{"title": title, "models": models} for title, models in groups.items() if models]


def _base(services: Services, name: str) -> Choice:
    source = services.names.resolve(name).source
    return _choice(name, "" if source == name else f"here {source}")


def _choice(name: str, about: str) -> Choice:
    return {"name": name, "label": f"{name} ({about})" if about else name}
