"""Whether a result can be written, found out before minutes of work and not after."""

from __future__ import annotations

import tempfile
from pathlib import Path

from led_sglang.common.terminal import CommandError


def writable_file(path: Path, flag: str) -> Path:
    """Make sure that the file which `flag` names can be written; what it holds already stays.

    Its folder is made where it is missing.

    Raises:
        CommandError: it cannot be written; one sentence.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder: name a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.open("ab").close()
        else:
            with path.open("xb") as probe:
                probe.write(b"\0")
            path.unlink()
    except (OSError, ValueError) as error:
        raise _refused(path, flag, error) from None
    return path


def writable_folder(path: Path, flag: str) -> Path:
    """Make the folder which `flag` names, and make sure that files can be written in it.

    Raises:
        CommandError: it cannot be; one sentence.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path) as probe:
            probe.write(b"\0")
    except (OSError, ValueError) as error:
        raise _refused(path, flag, error) from None
    return path


def _refused(path: Path, flag: str, error: Exception) -> CommandError:
    why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    if isinstance(error, FileExistsError | NotADirectoryError):
        why = "a file stands where a folder has to be"
    return CommandError(f"{flag} {path} cannot be written ({why}): name another place with {flag}")
