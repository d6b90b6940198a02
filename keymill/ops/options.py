"""Options that commands share."""

from pathlib import Path
from typing import Annotated

import typer

File = Annotated[
    Path | None, typer.Option("--settings", envvar="KEYMILL_SETTINGS", help="TOML file, see docs/settings.md")
]
Data = Annotated[Path | None, typer.Option("--data", help="data folder")]
Bootstrap = Annotated[str | None, typer.Option("--bootstrap", help="Kafka brokers, host:port[,host:port…]")]
KeyFileOption = Annotated[
    Path | None, typer.Option("--key-file", help="key file; keys.json in the data folder if absent")
]
Host = Annotated[str | None, typer.Option("--host", help="address to listen on")]
Json = Annotated[bool, typer.Option("--json", help="print the result as one line of JSON")]
