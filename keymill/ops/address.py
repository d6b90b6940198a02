"""
Where the brokers of a data folder are, and what authenticates their records.

What `keymill up` wrote down holds, unless the settings name brokers.
"""

import json
from pathlib import Path
from typing import Any, Final

import typer

from keymill.config import Settings
from keymill.durable import replace_own
from keymill.errors import Misconfigured
from keymill.kafka.authentication import go_without, install
from keymill.kms.record_keys import record_keys_of

FILE: Final = "up.json"
UNVERIFIED: Final = (
    "keymill: what is read from the brokers is not verified, since there is no key file {path}: name it "
    "(KEYMILL_KEY_FILE), or its folder with --data"
)


def write_address(data: Path, line: dict[str, Any]) -> None:
    """Note where a running `keymill up` answers; no credential among it."""
    told = {name: value for name, value in line.items() if name != "credentials"}
    replace_own(data / FILE, json.dumps(told, indent=1).encode(), sync=False)


def bootstrap_of(settings: Settings) -> str:
    """
    Return the brokers to ask, whose records the key file of the settings authenticates from now on.

    Without a key file nothing can be written that others trust, and what is read is not verified: a line on stderr
    says so at the first such record, and `keymill.ops.listing` in what is printed as JSON.

    Raises `Misconfigured` when nothing names the brokers.
    """
    if settings.keys_path.exists():
        install(record_keys_of(settings.keys_path))
    else:
        go_without(lambda: typer.echo(UNVERIFIED.format(path=settings.keys_path), err=True))
    if settings.bootstrap:
        return settings.bootstrap
    try:
        return str(json.loads((settings.data / FILE).read_text())["kafka"])
    except (OSError, ValueError, KeyError):
        raise Misconfigured(
            f"no brokers are named: give --bootstrap, or --data with the folder of `keymill up` (not {settings.data})"
        ) from None
