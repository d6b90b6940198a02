"""The commands that run a program until SIGTERM."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

from keymill import telemetry
from keymill.config import (
    ConnectSettings,
    GatewaySettings,
    ProcessorSettings,
    ProxySettings,
    Settings,
    UpSettings,
    load,
)
from keymill.durable import keep_private
from keymill.errors import KeymillError
from keymill.ops.address import bootstrap_of
from keymill.ops.exits import exit_code_of, worded
from keymill.ops.options import Bootstrap, Data, File, Host
from keymill.process import end_with_parent

Port = Annotated[int | None, typer.Option("--port", help="port to listen on, 0 takes a free one")]
AdminPort = Annotated[
    int | None, typer.Option("--admin-port", help="port of /metrics, /docs and /openapi.json, 0 takes a free one")
]
Cert = Annotated[Path | None, typer.Option("--tls-cert", help="PEM certificate chain")]
Key = Annotated[Path | None, typer.Option("--tls-key", help="PEM private key")]
BehindTls = Annotated[bool | None, typer.Option("--behind-tls-proxy", help="a TLS proxy stands in front")]
Parent = Annotated[int | None, typer.Option("--parent", hidden=True)]
T = TypeVar("T", bound=Settings)
NAMES: Final = ("up", "processor", "gateway", "proxy", "connect")
"""They have no `--json`: on stdout each says where it answers, in JSON, and nothing else."""

log = telemetry.logger("ops.programs")


def register(app: typer.Typer) -> None:
    """Add the commands to the `keymill` command."""
    app.command(rich_help_panel="Programs")(up)
    for command in (processor, gateway, proxy, connect):
        app.command(rich_help_panel="Programs")(_logged(command))


def up(
    settings: File = None,
    data: Data = None,
    port_base: Annotated[int | None, typer.Option(help="first of the ports taken; free ones if absent")] = None,
    processors: Annotated[int | None, typer.Option(help="how many processors")] = None,
    bootstrap: Bootstrap = None,
    parent: Parent = None,
) -> int:
    """Run Kafka and every program on this machine; prints one line of JSON when everything answers."""
    from keymill.ops.up import run

    given = {"port_base": port_base, "processors": processors}
    return run(_load(UpSettings, settings, parent, data=data, bootstrap=bootstrap, **given), settings)


def processor(
    settings: File = None, data: Data = None, bootstrap: Bootstrap = None, port: Port = None, parent: Parent = None
) -> int:
    """Turn asset events into keys: a Faust worker; run several to share the partitions."""
    from streams.main import run

    return run(_load(ProcessorSettings, settings, parent, data=data, bootstrap=bootstrap, processor_port=port))


def gateway(
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    host: Host = None,
    port: Port = None,
    admin_port: AdminPort = None,
    tls_cert: Cert = None,
    tls_key: Key = None,
    behind_tls_proxy: BehindTls = None,
    parent: Parent = None,
) -> int:
    """Serve the control plane: asset intake, packager key delivery."""
    from keymill.gateway.main import run

    given = {
        "host": host,
        "gateway_port": port,
        "gateway_admin_port": admin_port,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "behind_tls_proxy": behind_tls_proxy,
    }
    return run(_load(GatewaySettings, settings, parent, data=data, bootstrap=bootstrap, **given))


def proxy(
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    host: Host = None,
    port: Port = None,
    admin_port: AdminPort = None,
    workers: Annotated[int | None, typer.Option(help="HTTP worker processes")] = None,
    tls_cert: Cert = None,
    tls_key: Key = None,
    behind_tls_proxy: BehindTls = None,
    parent: Parent = None,
) -> int:
    """Answer players from a local copy of the key topic."""
    from keymill.proxy.main import run

    given = {
        "host": host,
        "proxy_port": port,
        "proxy_admin_port": admin_port,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "behind_tls_proxy": behind_tls_proxy,
    }
    return run(_load(ProxySettings, settings, parent, data=data, bootstrap=bootstrap, workers=workers, **given))


def connect(
    name: Annotated[str, typer.Argument(help="manifest, sql-outbox or sql-archive")],
    settings: File = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    manifest_dir: Annotated[Path | None, typer.Option(help="folder of *.jsonl files")] = None,
    once: Annotated[bool, typer.Option("--once", help="end when there is nothing more to move")] = False,
    parent: Parent = None,
) -> int:
    """Run a source or sink connector."""
    from connectors.main import run

    loaded = _load(ConnectSettings, settings, parent, data=data, bootstrap=bootstrap, manifest_dir=manifest_dir)
    return run(name, loaded.model_copy(update={"bootstrap": bootstrap_of(loaded)}), once=once)


def _logged(command: Callable[..., int]) -> Callable[..., int]:
    """The program whose log is JSON to its last line, which says why it ended."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> int:
        telemetry.configure(command.__name__)  # until its settings say how
        try:
            return command(*arguments, **options)
        except (KeymillError, OSError) as raised:
            error = worded(raised)
            code = exit_code_of(error)
            log.critical("program_failed", error=str(error), exit_code=code)
            return code

    return run


def _load(kind: type[T], file: Path | None, parent: int | None, **given: Any) -> T:
    keep_private()
    if parent is not None:
        end_with_parent(parent)
    return load(kind, file=file, **given)
