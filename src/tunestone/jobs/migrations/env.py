"""What Alembic runs to take steps: over the connection it is given, in that transaction."""

from typing import Any, Literal

from alembic import context

from tunestone.jobs.tables import Base, UtcTime, Words


def _render_item(kind: str, item: Any, autogenerating: Any) -> str | Literal[False]:
    """Steps name no types of ours, which may change after them."""
    if kind == "type" and isinstance(item, UtcTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, Words):
        return f"sa.{item.impl!r}"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    render_item=_render_item,
    compare_type=True,
)
context.run_migrations()
