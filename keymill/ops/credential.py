"""`keymill credential`: what proves who asks."""

from typing import Annotated

import msgspec
import typer

from keymill.config import Settings, load
from keymill.ops.address import bootstrap_of
from keymill.ops.credentials import Kind, create_credential, existing, revoke_credential
from keymill.ops.org import AsJson, Bootstrap, Data, File, KeyFileOption, tell

app = typer.Typer(help="Credentials of an organization.", no_args_is_help=True)
Organization = Annotated[str, typer.Option("--organization", help="whose it is")]


@app.command("create")
def create(
    organization: Organization,
    kind: Annotated[Kind, typer.Option("--kind", help="what it is for")],
    name: Annotated[str, typer.Option("--name", help="a signer's name, or a label")] = "",
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    key_file: KeyFileOption = None,
) -> None:
    """Make a credential and print it, this once, as one line of JSON."""
    loaded = load(Settings, file=settings, data=data, bootstrap=bootstrap, key_file=key_file)
    typer.echo(create_credential(bootstrap_of(loaded), loaded.keys_path, organization, kind, name).line())


@app.command("list")
def list_(
    organization: Organization,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    as_json: AsJson = False,
) -> None:
    """List an organization's credentials, never their secrets."""
    loaded = load(Settings, file=settings, data=data, bootstrap=bootstrap)
    for credential, record in sorted(existing(bootstrap_of(loaded), organization).items()):
        kind = type(record.body).__name__
        told = {"credential": credential, "kind": kind, "label": record.label, "revoked": record.revoked}
        tell(told, as_json)


@app.command("revoke")
def revoke(
    organization: Organization,
    credential: Annotated[str, typer.Argument(help="its id, as `list` shows it")],
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Revoke a credential for ever."""
    loaded = load(Settings, file=settings, data=data, bootstrap=bootstrap)
    fresh = revoke_credential(bootstrap_of(loaded), organization, credential)
    typer.echo(msgspec.json.encode({"credential": credential, "revoked": True, "changed": fresh}).decode())
