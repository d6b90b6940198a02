"""Exit codes of the `keymill` command."""

import os
from typing import Final

from keymill.errors import Corrupt, InvalidRecord, KeymillError, Misconfigured, Retry

HELP: Final = """
Exit codes: 0 done or clean, 1 differences found or the work failed, 2 usage or settings, 3 unavailable, 4 corrupt.
"""


def exit_code_of(error: KeymillError) -> int:
    """The documented exit code of an error; what breaks its format was given by the caller of the command."""
    match error:
        case Misconfigured() | InvalidRecord():
            return 2
        case Retry():
            return 3
        case Corrupt():
            return 4
        case _:
            return 1


def worded(error: KeymillError | OSError) -> KeymillError:
    """
    The error as it is told; a path of the command line or of the settings that cannot be used is `Misconfigured`.

    Raises *error* itself when it names no path: then it is no mistake of the caller's.
    """
    if isinstance(error, KeymillError):
        return error
    if error.filename is None:
        raise error
    reason = "is no folder" if isinstance(error, FileExistsError) else error.strerror
    return Misconfigured(f"{os.fsdecode(error.filename)}: {reason}: name another path, or make this one usable")
