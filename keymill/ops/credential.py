"""`keymill credential`: what proves who asks."""

from typing import Annotated, Final

import typer

from keymill.config import Settings, load
from keymill.ops.address import bootstrap_of
from keymill.ops.credentials import BODIES, Kind, create_credential, existing, revoke_credential
from keymill.ops.listing import print_listing, print_result
from keymill.ops.options import Bootstrap, Data, File, Json, KeyFileOption

app = typer.Typer(help="Credentials of an organization.", no_args_is_help=True)
Organization = Annotated[str, typer.Option("--organization", help="whose it is")]
OfKind = Annotated[Kind | None, typer.Option("--kind", help="of this kind alone")]
COLUMNS: Final = ("credential", "kind", "label", "revoked")


@app.command("create")
def create(
    organization: Organization,
    kind: Annotated[Kind, typer.Option("--kind", help="what it is for")],
    name: Annotated[str, typer.Option("--name", help="a signer's name, or a label")] = "",
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    key_file: KeyFileOption = None,
    as_json: Json = False,
) -> None:
    """Make a credential and print it with its secret, which nothing shows again."""
    if kind is Kind.WIDEVINE_SIGNER and not name:
        raise typer.BadParameter("give --name, by which the packager names the signer")
    loaded = load(Settings, file=settings, data=data, bootstrap=bootstrap, key_file=key_file)
    made = create_credential(bootstrap_of(loaded), loaded.keys_path, organization, kind, name)
    print_result(made.told(), as_json=as_json)


@app.command("list")
def list_(
    organization: Organization,
    kind: OfKind = None,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """List an organization's credentials, never their secrets; `keymill token-key list` has its token keys."""
    loaded = load(Settings, file=settings, data=data, bootstrap=bootstrap)
    kinds = {body: each for each, body in BODIES.items() if kind in (None, each)}
    rows = [
        {
            "credential": credential,
            "kind": kinds[type(record.body)].value,
            "label": record.label,
            "revoked": record.revoked,
        }
        for credential, record in sorted(existing(bootstrap_of(loaded), organization).items())
        if type(record.body) in kinds
    ]
    print_listing(COLUMNS, rows, as_json=as_json)


@app.command("revoke")
def revoke(
    organization: Organization,
    credential: Annotated[str, typer.Argument(help="its id, as `list` shows it")],
    kind: OfKind = None,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Revoke a credential for ever."""
    loaded = load(Settings, file=settings, data=data, bootstrap=bootstrap)
    fresh = revoke_credential(bootstrap_of(loaded), organization, credential, kind)
    print_result({"credential": credential, "revoked": True, "changed": fresh}, as_json=as_json)
