"""Empty a folder that hostile code has filled: too deep to walk, too wide, without permissions."""

import os


def empty(folder: str) -> None:
    """Remove everything in it. Raises OSError when something cannot be removed.

    What lies deeper is moved up before it is emptied, so neither the stack nor the number of open
    files grows with the depth, and each folder is listed once.
    """
    unused, count = os.urandom(8).hex(), 0
    while below := _remove_files(folder):
        for path in below:
            for deeper in _remove_files(path):
                os.rename(deeper, os.path.join(folder, f"{unused}-{count}"))
                count += 1
            os.rmdir(path)


def _remove_files(folder: str) -> list[str]:
    """The folders in it; all else is removed."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.stat(follow_symlinks=False).st_mode & 0o700 != 0o700:
                    os.chmod(entry.path, 0o700)
                found.append(entry.path)
            else:
                os.unlink(entry.path)
    return found
