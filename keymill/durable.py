"""What has to survive the machine: a file's name is on disk only when its folder is."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Return when every name that was made, changed or removed in *folder* is on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
