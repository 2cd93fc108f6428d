"""Pages that stand alone: one file each, with no script, font or picture from elsewhere.

Every value is escaped: what a model wrote is shown and never obeyed.
"""

import os
from functools import cache
from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup

from tunestone.errors import StorageError
from tunestone.runlog import storage_errors


@cache
def open_template(package: str, name: str) -> jinja2.Template:
    """A template of one of our packages, `style` being the look all such pages share."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = files("tunestone.reports").joinpath("standalone.css").read_text(encoding="utf-8")
    environment.globals["style"] = Markup(style)
    return environment.from_string(files(package).joinpath(name).read_text(encoding="utf-8"))


def write_text(path: Path, text: str) -> None:
    """Replace a text file whole. Raises StorageError when it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with storage_errors(path):
        try:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def refuse_unwritable(folder: Path) -> None:
    """Raise StorageError when the report could not be written there; makes nothing.

    For before the work: what can only fail while writing (a full disk) still does.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        reason = f"'{nearest}' is a file, not a folder"
    elif not os.access(nearest, os.W_OK | os.X_OK):
        reason = f"nothing may be written into '{nearest}'"
    else:
        return
    raise StorageError(
        f"The report cannot be written to '{folder}': {reason}.",
        remedy="Name another folder with --out.",
    )
