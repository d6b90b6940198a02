"""Which programs `keymill up` runs, each with its settings as environment and a port of its own."""

from collections.abc import Iterator
from pathlib import Path

from keymill.config import GatewaySettings, ProcessorSettings, ProxySettings, UpSettings
from keymill.kafka.ports import free_ports
from keymill.ops.supervise import Child
from keymill.settings_text import as_environment

PORTS = ("kafka", "controller", "gateway", "proxy")
"""In this order from `port_base` on; the processors follow, the admin ports of gateway and proxy, and our own."""


def children_of(settings: UpSettings, bootstrap: str, file: Path | None) -> dict[str, list[Child]]:
    """
    The children by kind, in the order in which they start.

    A port that is given is taken, of several processors by the first; else one from `port_base` on, else a free one.
    The proxy reads its license servers from *file* itself.
    """
    ports = _ports(settings)
    gateway_port = _given(settings, "gateway_port") or next(ports)
    proxy_port = _given(settings, "proxy_port") or next(ports)
    processors = [
        Child(
            f"processor {index}",
            ["processor"],
            as_environment(
                settings,
                ProcessorSettings,
                bootstrap=bootstrap,
                instance_id=f"{settings.instance_id or 'up'}-{index}",
                processor_port=(index == 0 and settings.processor_port) or next(ports),
            ),
        )
        for index in range(settings.processors)
    ]
    gateway = as_environment(
        settings, GatewaySettings, bootstrap=bootstrap, gateway_port=gateway_port,
        gateway_admin_port=_given(settings, "gateway_admin_port") or next(ports),
    )  # fmt: skip
    proxy = as_environment(
        settings, ProxySettings, bootstrap=bootstrap, proxy_port=proxy_port,
        proxy_admin_port=_given(settings, "proxy_admin_port") or next(ports),
    )  # fmt: skip
    tables = {"KEYMILL_SETTINGS": str(file.absolute())} if file else {}
    return {
        "processor": processors,
        "gateway": [Child("gateway", ["gateway"], gateway, trusts=settings.tls_cert)],
        "proxy": [Child("proxy", ["proxy"], proxy | tables, trusts=settings.tls_cert)],
    }


def own_port(settings: UpSettings) -> int:
    """Return the port of `keymill up` itself: the one that is given, else the next from `port_base` on, else 0."""
    after = len(PORTS) + settings.processors + 2
    return settings.up_port or (settings.port_base + after if settings.port_base else 0)


def _given(settings: UpSettings, name: str) -> int:
    """A port that was given; the default of a program that runs alone is no wish."""
    return getattr(settings, name) if name in settings.model_fields_set else 0


def _ports(settings: UpSettings) -> Iterator[int]:
    first = settings.port_base + PORTS.index("gateway")
    return iter(range(first, settings.port_base + 100)) if settings.port_base else free_ports()
