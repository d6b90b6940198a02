"""`keymill policy`: an organization's policies."""

from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from keymill.config import Settings, load
from keymill.core.formats import native
from keymill.core.formats.table import export_policy, format_of
from keymill.gateway.policy_answers import summary
from keymill.ops import policies
from keymill.ops.address import bootstrap_of
from keymill.ops.credential import Organization
from keymill.ops.listing import print_json, print_listing, print_result
from keymill.ops.options import Bootstrap, Data, File, Json
from keymill.ops.results import WAIT_S
from schemas.events import PolicyCreated, PolicyUpdated
from schemas.records import PolicyRecord, PolicyState

COLUMNS: Final = ("policy_id", "version", "state", "name", "created", "changed")
app = typer.Typer(help="Policies.", no_args_is_help=True)
PolicyId = Annotated[int, typer.Argument(min=0, help="its id; 0 is the default policy")]
Format = Annotated[str, typer.Option("--format", help="native, azure-widevine or naver")]
Wait = Annotated[float, typer.Option("--wait", min=0, help="seconds that the processor may take")]
Document = Annotated[typer.FileBinaryRead, typer.Argument(help="the document; - reads stdin")]


@app.command("list")
def list_(
    organization: Organization,
    deleted: Annotated[bool, typer.Option("--deleted", help="deleted policies too")] = False,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """List the policies."""
    every = policies.policies(_brokers(settings, data, bootstrap), organization)
    rows = [_summary(record) for record in every if deleted or record.state is PolicyState.READY]
    print_listing(COLUMNS, rows, as_json=as_json)


@app.command("show")
def show(
    policy_id: PolicyId,
    organization: Organization,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Show a policy with its content, in keymill's own words."""
    record = policies.policy(_brokers(settings, data, bootstrap), organization, policy_id)
    print_result(_summary(record) | {"policy": native.plain(record.policy)}, as_json=as_json)


@app.command("import")
def import_(
    document: Document,
    organization: Organization,
    format_name: Format = native.NAME,
    name: Annotated[str, typer.Option("--name", help="its name; else the document's, else the format's")] = "",
    policy_id: Annotated[
        int | None, typer.Option("--policy-id", min=0, help="replace this policy instead of making one")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", help="with it a repeated import has no second effect")
    ] = None,
    wait: Wait = WAIT_S,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Make a policy of a document, and print its id and version; what the format cannot say is a warning."""
    imported = format_of(format_name).read(document.read())
    brokers, given = _brokers(settings, data, bootstrap), name or imported.name
    if policy_id is None:
        body: PolicyCreated | PolicyUpdated = PolicyCreated(name=given or format_name, policy=imported.policy)
    else:
        kept = given or policies.policy(brokers, organization, policy_id).name
        body = PolicyUpdated(policy_id=policy_id, name=kept, policy=imported.policy)
    record = policies.change(brokers, organization, body, idempotency_key, wait_s=wait)
    for warning in imported.warnings:
        typer.echo(f"warning: {warning}", err=True)
    told = {"policy_id": record.policy_id, "version": record.version}
    print_result(told | {"warnings": imported.warnings} if as_json else told, as_json=as_json)


@app.command("export")
def export(
    policy_id: PolicyId,
    organization: Organization,
    format_name: Format = native.NAME,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """
    Print a policy as a document; refused, naming the member, where the format cannot hold it.

    With --json the document stands in an object beside the policy's id and version.
    """
    record = policies.policy(_brokers(settings, data, bootstrap), organization, policy_id)
    document = export_policy(format_name, record.policy, record.name)
    if as_json:
        told = {"policy_id": policy_id, "version": record.version, "format": format_name}
        print_json(told | {"document": msgspec.json.decode(document)})
    else:
        typer.echo(document, nl=False)


@app.command("assign")
def assign(
    policy_id: PolicyId,
    organization: Organization,
    asset: Annotated[str, typer.Option("--asset", help="the asset that it is for")],
    wait: Wait = WAIT_S,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Give an asset another policy. Its next license is given under it."""
    record = policies.assign(_brokers(settings, data, bootstrap), organization, asset, policy_id, wait_s=wait)
    told = {"organization": organization, "asset": asset, "policy_id": record.policy_id}
    print_result(told, as_json=as_json)


def _brokers(settings: Path | None, data: Path | None, bootstrap: str | None) -> str:
    return bootstrap_of(load(Settings, file=settings, data=data, bootstrap=bootstrap))


def _summary(record: PolicyRecord) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(summary(record))
    return told
