"""A Lambda deployment package, found and laid out: a handler file or a zip -> folder and handler.

Lambda names a handler `module.function`, the module relative to the package's top folder. A single
file is a package whose top folder is the file's own, so that it can import its siblings.

A zip is unpacked here, in the trainer's process and into a folder of the trainer's, not in the
sandbox: what the sandbox unpacks it could also change, and one call could rewrite the grader of the
next. Unpacking runs nothing of what is inside. Left out: layers, container images, and handlers
that are not Python.
"""

import shutil
import stat
import tempfile
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tunestone.errors import RewardError

UNPACKED_BYTES = 250 * 2**20
"""Lambda's own limit for an unpacked package."""
_MOST_ENTRIES = 50_000
_FUNCTION = "lambda_handler"
_ZIP_MODULE = "lambda_function"


@dataclass(frozen=True, slots=True)
class Package:
    """Where a handler's code lies and what it is called."""

    root: Path
    """The task root: first on the handler's `sys.path`, and all of the package there is to read."""
    module: str
    """Dotted, relative to the root."""
    function: str
    source: Path
    """The file or zip that it was opened from."""

    @property
    def handler(self) -> str:
        """As in Lambda's settings: `module.function`."""
        return f"{self.module}.{self.function}"


def open_package(path: Path, handler: str, stack: ExitStack) -> Package:
    """The package at `path`: a `.py` file or a `.zip`, unpacked until the stack is closed.

    `handler` is `module.function`, `function`, or empty. Empty means `lambda_handler` in the given
    file; in a zip, of `lambda_function.py` or else of the only module at its top.
    Raises RewardError when there is no such file, module, or readable zip.
    """
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise RewardError(
            f"the Lambda package {path} {state}.",
            remedy="Name a handler file ending in .py or a deployment package ending in .zip.",
        )
    if path.suffix == ".py":
        return _read_file(path.resolve(), handler)
    if path.suffix == ".zip":
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tunestone-lambda-"))
        root = Path(folder).resolve()
        unpack(path, root)
        return _read_folder(root, handler, source=path)
    raise RewardError(
        f"the Lambda package {path} is neither a .py file nor a .zip.",
        remedy="Zip it as for Lambda, with the handler's module at the top.",
    )


def _read_file(path: Path, handler: str) -> Package:
    module, _, function = handler.rpartition(".")
    if module and module != path.stem:
        raise RewardError(
            f"the handler {handler!r} is in the module {module}, but the file is {path.name}.",
            remedy=f"Write {path.stem}.{function}, or name the other file.",
        )
    if "." in path.stem:
        raise RewardError(
            f"{path.name} cannot be imported as a module.", remedy="Take the dots out of its name."
        )
    return Package(path.parent, path.stem, function or _FUNCTION, path)


def _read_folder(root: Path, handler: str, *, source: Path) -> Package:
    module, _, function = handler.replace("/", ".").rpartition(".")
    modules = sorted(file.stem for file in root.glob("*.py"))
    if not module:
        module = modules[0] if len(modules) == 1 else _ZIP_MODULE
    stem = root.joinpath(*module.split("."))
    if not stem.with_name(f"{stem.name}.py").is_file() and not (stem / "__init__.py").is_file():
        has = ", ".join(f"{name}.py" for name in modules) or "no .py file"
        raise RewardError(
            f"{source} has no module {module}; at its top there is {has}.",
            remedy='Set `handler = "module.function"` as in the settings of the Lambda.',
        )
    return Package(root, module, function or _FUNCTION, source)


def unpack(path: Path, folder: Path) -> None:
    """Write the zip's files into the folder, none outside of it. Raises RewardError."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_entries(path, entries)
            for entry in entries:
                _write_entry(archive, entry, folder)
    # RuntimeError: encrypted. NotImplementedError: a compression Python does not know.
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError) as error:
        raise RewardError(
            f"the Lambda package {path} cannot be unpacked: {error}.",
            remedy="Build the zip anew, unencrypted.",
        ) from error


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    for entry in entries:
        place = PurePosixPath(entry.filename.replace("\\", "/"))
        is_link = stat.S_ISLNK(entry.external_attr >> 16)
        if place.is_absolute() or ".." in place.parts or ":" in entry.filename or is_link:
            raise RewardError(
                f"the Lambda package {path} has an entry that could lead outside of it: "
                f"{entry.filename!r}.",
                remedy="Build the zip from plain files with paths below its top.",
            )
    if len(entries) > _MOST_ENTRIES:
        raise RewardError(
            f"the Lambda package {path} has {len(entries):,} entries; at most {_MOST_ENTRIES:,} "
            "are unpacked.",
            remedy="Leave out what the handler does not need.",
        )
    size = sum(entry.file_size for entry in entries)
    if size > UNPACKED_BYTES:
        raise RewardError(
            f"the Lambda package {path} is {size / 2**20:.0f} MiB unpacked; Lambda takes at most "
            f"{UNPACKED_BYTES // 2**20}.",
            remedy="Leave out what the handler does not need.",
        )


def _write_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    """One entry with its permissions, which `ZipFile.extract` would forget."""
    target = folder / entry.filename
    if entry.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # zipfile stops at the size the entry declares, which has been counted above.
    with archive.open(entry) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file)
    if (entry.external_attr >> 16) & stat.S_IXUSR:
        target.chmod(0o755)
