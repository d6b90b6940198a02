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
from keymill.ops.listing import print_listing
from keymill.ops.options import Bootstrap, Data, File, Json
from keymill.ops.results import WAIT_S
from schemas.events import PolicyCreated, PolicyUpdated
from schemas.records import PolicyRecord, PolicyState

EXIT_CODES = "Exit codes: 0 done, 1 refused or no such policy, 2 usage or document, 3 no broker or processor answers."
COLUMNS: Final = ("policy_id", "version", "state", "name", "created", "changed")
app = typer.Typer(help=f"Policies. {EXIT_CODES}", no_args_is_help=True)
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
    told = _summary(record) | {"policy": native.plain(record.policy)}
    if as_json:
        _print(told)
        return
    for name, value in told.items():
        typer.echo(f"{name:10} {value if isinstance(value, str | int) else msgspec.json.encode(value).decode()}")


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
) -> None:
    """Make a policy of a document, and print id, version and warnings as one line of JSON."""
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
    _print({"policy_id": record.policy_id, "version": record.version, "warnings": imported.warnings})


@app.command("export")
def export(
    policy_id: PolicyId,
    organization: Organization,
    format_name: Format = native.NAME,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Print a policy as a document; refused, naming the member, where the format cannot hold it."""
    record = policies.policy(_brokers(settings, data, bootstrap), organization, policy_id)
    document = export_policy(format_name, record.policy, record.name)
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
) -> None:
    """Give an asset another policy. Its next license is given under it."""
    record = policies.assign(_brokers(settings, data, bootstrap), organization, asset, policy_id, wait_s=wait)
    _print({"organization": organization, "asset": asset, "policy_id": record.policy_id})


def _brokers(settings: Path | None, data: Path | None, bootstrap: str | None) -> str:
    return bootstrap_of(load(Settings, file=settings, data=data, bootstrap=bootstrap))


def _summary(record: PolicyRecord) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(summary(record))
    return told


def _print(value: Any) -> None:
    typer.echo(msgspec.json.encode(value).decode())
