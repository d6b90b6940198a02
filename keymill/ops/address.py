"""Where the brokers of a data folder are: what `keymill up` wrote down, unless the settings name them."""

import json
from pathlib import Path
from typing import Any, Final

from keymill.config import Settings
from keymill.errors import Misconfigured

FILE: Final = "up.json"


def write_address(data: Path, line: dict[str, Any]) -> None:
    """Note where a running `keymill up` answers; no credential among it."""
    told = {name: value for name, value in line.items() if name != "credentials"}
    fresh = data / f"{FILE}.new"
    fresh.write_text(json.dumps(told, indent=1))
    fresh.replace(data / FILE)  # whoever reads meanwhile sees the former one or this, whole


def bootstrap_of(settings: Settings) -> str:
    """The brokers to ask. Raises `Misconfigured` when nothing names them."""
    if settings.bootstrap:
        return settings.bootstrap
    try:
        return str(json.loads((settings.data / FILE).read_text())["kafka"])
    except (OSError, ValueError, KeyError):
        raise Misconfigured(
            f"no brokers are named: give --bootstrap, or --data with the folder of `keymill up` (not {settings.data})"
        ) from None
