"""How the tables came to be what they are: one step after the other, by Alembic.

`upgrade` brings a database to what `tables.py` says, whatever version wrote it; the table
`alembic_version` keeps which step it is at. A new step is drafted by `make migration WHAT="..."`
and then read and corrected by a person. Steps only go up: a backup is the way back.
"""

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from tunestone.errors import ConfigError
from tunestone.jobs.tables import Base

_LOCK = 0x7475_6E65
"""Of PostgreSQL's advisory locks: "tune". Two servers that start at once migrate in turn."""


def upgrade(engine: Engine) -> None:
    """Take all steps that are missing, in one transaction.

    Raises ConfigError when a newer version has been at the database.
    """
    with engine.begin() as connection:
        _take_turn(connection)
        config = config_for(connection)
        script = ScriptDirectory.from_config(config)
        known = {step.revision for step in script.walk_revisions()}
        taken = MigrationContext.configure(connection).get_current_heads()
        if not known.issuperset(taken):
            raise ConfigError(
                f"The database was written by a newer version of Tunestone (step "
                f"{', '.join(taken)}; this version knows up to {script.get_current_head()}).",
                remedy="Install that version, or give another data folder.",
            )
        if taken != (script.get_current_head(),):
            command.upgrade(config, "head")


def config_for(connection: Connection) -> Config:
    """Alembic's settings for steps over this connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    return config


def differences(engine: Engine) -> list[object]:
    """What `tables.py` says and the database is not; empty after `upgrade`."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, Base.metadata))


def _take_turn(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    elif connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
