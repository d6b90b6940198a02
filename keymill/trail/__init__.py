"""The audit trail of a program: from the request through a bounded spool on disk to the audit topic."""

from pathlib import Path


def spool_folder(data: Path, program: str) -> Path:
    """Where a program's audit events wait to be sent."""
    return data / "spool" / program
