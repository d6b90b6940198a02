"""`keymill org`: organizations."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from keymill.config import Settings, load
from keymill.ops import access
from keymill.ops.address import bootstrap_of
from keymill.ops.credentials import create_organization
from schemas.access import Credential, OrganizationCreated

app = typer.Typer(help="Organizations.", no_args_is_help=True)
File = Annotated[Path | None, typer.Option("--settings", envvar="KEYMILL_SETTINGS", help="TOML file")]
Data = Annotated[Path | None, typer.Option("--data", help="data folder")]
Bootstrap = Annotated[str | None, typer.Option("--bootstrap", help="Kafka brokers")]
KeyFileOption = Annotated[
    Path | None, typer.Option("--key-file", help="key file; keys.json in the data folder if absent")
]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object a line")]


@app.command("create")
def create(
    organization: Annotated[str, typer.Argument(help="1 to 63 characters of a-z, 0-9 and -")],
    name: Annotated[str, typer.Option("--name", help="name for people")] = "",
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    key_file: KeyFileOption = None,
) -> None:
    """Give an organization its roots, its KEK and its record. May be repeated."""
    loaded = load(Settings, file=settings, data=data, bootstrap=bootstrap, key_file=key_file)
    fresh = create_organization(bootstrap_of(loaded), loaded.keys_path, organization, name)
    typer.echo(msgspec.json.encode({"organization": organization, "created": fresh}).decode())


@app.command("list")
def list_(settings: File = None, data: Data = None, bootstrap: Bootstrap = None, as_json: AsJson = False) -> None:
    """List the organizations."""
    loaded = load(Settings, file=settings, data=data, bootstrap=bootstrap)
    for organization, record in sorted(access.organizations(bootstrap_of(loaded)).items()):
        told = {"organization": organization, "name": _display_name(record), "revoked": record.revoked}
        tell(told, as_json)


def tell(told: dict[str, object], as_json: bool) -> None:
    """Print one entry of a list."""
    typer.echo(msgspec.json.encode(told).decode() if as_json else "  ".join(map(str, told.values())))


def _display_name(record: Credential) -> str:
    return record.body.display_name if isinstance(record.body, OrganizationCreated) else ""
