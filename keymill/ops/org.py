"""`keymill org`: organizations."""

from enum import StrEnum
from typing import Annotated, Final

import typer

from keymill.config import Settings, load
from keymill.ops import access
from keymill.ops.address import bootstrap_of
from keymill.ops.credentials import create_organization, revoke_organization, set_organization
from keymill.ops.listing import print_listing, print_result
from keymill.ops.options import Bootstrap, Data, File, Json, KeyFileOption
from schemas.access import Credential, OrganizationCreated


class Rule(StrEnum):
    """Whether something is needed."""

    REQUIRED = "required"
    OPTIONAL = "optional"


app = typer.Typer(help="Organizations.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="organization id")]
COLUMNS: Final = ("organization", "name", "revoked", "entitlements", "provider")


@app.command("create")
def create(
    organization: Annotated[str, typer.Argument(help="1 to 63 characters of a-z, 0-9 and -")],
    name: Annotated[str, typer.Option("--name", help="name for people")] = "",
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    key_file: KeyFileOption = None,
    as_json: Json = False,
) -> None:
    """Give an organization its roots, its KEK and its record. May be repeated."""
    loaded = load(Settings, file=settings, data=data, bootstrap=bootstrap, key_file=key_file)
    fresh = create_organization(bootstrap_of(loaded), loaded.keys_path, organization, name)
    print_result({"organization": organization, "created": fresh}, as_json=as_json)


@app.command("set")
def set_(
    organization: Name,
    entitlements: Annotated[
        Rule | None, typer.Option("--entitlements", help="whether a license needs the user's entitlement")
    ] = None,
    provider: Annotated[
        str | None, typer.Option("--provider", help="its name at Widevine's license server; empty for none")
    ] = None,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Change what holds for all licenses of an organization; what is not given stays as it is."""
    if entitlements is None and provider is None:
        raise typer.BadParameter("give --entitlements, --provider or both")
    loaded = load(Settings, file=settings, data=data, bootstrap=bootstrap)
    required = None if entitlements is None else entitlements is Rule.REQUIRED
    body = set_organization(bootstrap_of(loaded), organization, entitlements_required=required, provider=provider)
    print_result({"organization": organization} | _rules(body), as_json=as_json)


@app.command("list")
def list_(settings: File = None, data: Data = None, bootstrap: Bootstrap = None, as_json: Json = False) -> None:
    """List the organizations."""
    loaded = load(Settings, file=settings, data=data, bootstrap=bootstrap)
    rows = [
        {"organization": organization, "name": _display_name(record), "revoked": record.revoked} | _rules(record.body)
        for organization, record in sorted(access.organizations(bootstrap_of(loaded)).items())
    ]
    print_listing(COLUMNS, rows, as_json=as_json)


@app.command("revoke")
def revoke(
    organization: Name, settings: File = None, data: Data = None, bootstrap: Bootstrap = None, as_json: Json = False
) -> None:
    """Refuse an organization's licenses and requests until it is restored; nothing of it is deleted."""
    loaded = load(Settings, file=settings, data=data, bootstrap=bootstrap)
    fresh = revoke_organization(bootstrap_of(loaded), organization)
    print_result({"organization": organization, "revoked": True, "changed": fresh}, as_json=as_json)


@app.command("restore")
def restore(
    organization: Name, settings: File = None, data: Data = None, bootstrap: Bootstrap = None, as_json: Json = False
) -> None:
    """Take a revocation back."""
    loaded = load(Settings, file=settings, data=data, bootstrap=bootstrap)
    fresh = revoke_organization(bootstrap_of(loaded), organization, revoked=False)
    print_result({"organization": organization, "revoked": False, "changed": fresh}, as_json=as_json)


def _display_name(record: Credential) -> str:
    return record.body.display_name if isinstance(record.body, OrganizationCreated) else ""


def _rules(body: object) -> dict[str, object]:
    if not isinstance(body, OrganizationCreated):
        return {"entitlements": None, "provider": None}
    rule = Rule.REQUIRED if body.entitlements_required else Rule.OPTIONAL
    return {"entitlements": rule.value, "provider": body.provider}
