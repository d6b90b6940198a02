"""`keymill service set|list`: what `/getlicense` means by a service and a version."""

from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from keymill.config import Settings, load
from keymill.core.formats import native
from keymill.errors import Misconfigured
from keymill.ops import access
from keymill.ops.address import bootstrap_of
from keymill.ops.credentials import existing
from keymill.ops.listing import print_listing, print_result
from keymill.ops.options import Bootstrap, Data, File, Json
from schemas.access import Service
from schemas.policy import Policy
from schemas.values import DrmSystem

app = typer.Typer(help="Service configurations, which /getlicense names.", no_args_is_help=True)
Organization = Annotated[str, typer.Option("--organization", help="whose it is")]
COLUMNS: Final = ("service", "version", "drm", "upstream", "retired", "limits")


@app.command("set")
def set_(
    name: Annotated[str, typer.Argument(help="the service")],
    version: Annotated[str, typer.Argument(help="version of its configuration, such as 1.0")],
    organization: Organization,
    drm: Annotated[DrmSystem, typer.Option("--drm", help="DRM system of its licenses")],
    upstream: Annotated[str | None, typer.Option("--upstream", help="license server; its own if absent")] = None,
    limits: Annotated[Path | None, typer.Option("--limits", help="JSON file: a policy that only tightens")] = None,
    retired: Annotated[bool, typer.Option("--retired", help="no longer known to players")] = False,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """Set a service configuration, all of it; proxies know within a second."""
    brokers = bootstrap_of(load(Settings, file=settings, data=data, bootstrap=bootstrap))
    wanted = Service(
        organization=organization,
        service=name,
        version=version,
        drm_system=drm,
        upstream=upstream,
        retired=retired,
        limits=None if limits is None else _limits(limits),
    )
    existing(brokers, organization)
    held = access.service(brokers, organization, name, version)
    if held is not None:
        wanted = msgspec.structs.replace(wanted, sequence=held.sequence)
    if held != wanted:
        access.publish(brokers, [wanted])
    print_result(told(wanted), as_json=as_json)


@app.command("list")
def list_(
    organization: Organization,
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    as_json: Json = False,
) -> None:
    """List an organization's service configurations."""
    brokers = bootstrap_of(load(Settings, file=settings, data=data, bootstrap=bootstrap))
    existing(brokers, organization)
    print_listing(COLUMNS, [told(found) for found in access.services(brokers, organization)], as_json=as_json)


def told(service: Service) -> dict[str, object]:
    """A service configuration as it is shown."""
    limits = None if service.limits is None else native.plain(service.limits)
    return {
        "service": service.service,
        "version": service.version,
        "drm": service.drm_system.value,
        "upstream": service.upstream,
        "retired": service.retired,
        "limits": limits,
    }


def _limits(file: Path) -> Policy:
    try:
        return native.read(file.read_bytes()).policy
    except OSError as error:
        raise Misconfigured(f"limits file {file}: {error.strerror}") from None
