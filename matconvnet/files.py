"""Writing files so that a reader finds the old one or the new one, never a part of it."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def write_atomic(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Replace the file `path` by what `write` writes, at once and for good, or not at all.

    Args:
        path: the file.
        write: is given the path of a new file in the same folder, and fills it.

    Raises: whatever `write` raises, and OSError; `path` then is what it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # that of any new file, whatever the writer prefers
        write(temporary)
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a renaming survive a loss of power, where the system can open folders."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
