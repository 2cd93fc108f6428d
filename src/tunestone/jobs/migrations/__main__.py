"""`python -m tunestone.jobs.migrations "what it does"`: draft the next step from `tables.py`."""

import sys
import tempfile
from pathlib import Path

from alembic import command
from sqlalchemy import create_engine

from tunestone.jobs.migrations import config_for, upgrade

with tempfile.TemporaryDirectory() as folder:
    engine = create_engine(f"sqlite:///{Path(folder) / 'empty.db'}")
    upgrade(engine)
    with engine.begin() as connection:
        config = config_for(connection)
        number = len(list((Path(__file__).parent / "versions").glob("[0-9]*.py"))) + 1
        command.revision(config, sys.argv[1], autogenerate=True, rev_id=f"{number:04d}")
