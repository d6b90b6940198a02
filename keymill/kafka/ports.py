"""Ports on loopback for brokers: chosen so that nothing else is likely to take them."""

import json
import random
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from keymill.durable import replace_own
from keymill.errors import Misconfigured
from keymill.kafka.layout import HOST, Ports

LOWEST = 20000  # below lie the well-known ports of other servers
EPHEMERAL = 32768  # the kernel's lowest for outgoing connections, where it does not say


def choose(note: Path, nodes: int, fixed: Sequence[int]) -> list[Ports]:
    """
    Choose the ports of every node: *fixed* for clients if given, else those in *note* if still free, else fresh ones.

    The choice is written to *note*, so that a cluster that is started again is found where it was.
    """
    require_free(fixed)
    known = [] if fixed else _remembered(note)
    if len(known) != nodes or not all(is_free(port) for ports in known for port in (ports.client, ports.controller)):
        fresh = (port for port in free_ports() if port not in fixed)
        known = [Ports(client=fixed[i] if fixed else next(fresh), controller=next(fresh)) for i in range(nodes)]
        replace_own(note, (json.dumps([[ports.client, ports.controller] for ports in known]) + "\n").encode("ascii"))
    return known


def _remembered(note: Path) -> list[Ports]:
    try:
        return [
            Ports(int(client), int(controller)) for client, controller in json.loads(note.read_text(encoding="ascii"))
        ]
    except (OSError, ValueError, TypeError):
        return []  # never written, or torn: they are a convenience only


def free_ports() -> Iterator[int]:
    """
    Give free ports, each once.

    They lie below the range from which the kernel takes ports for outgoing connections: inside it, a client that
    retries a stopped broker can be given the broker's own port, connect to itself, and keep the broker out.
    """
    candidates = list(range(LOWEST, max(LOWEST + 1000, min(_ephemeral(), EPHEMERAL))))
    random.shuffle(candidates)
    return filter(is_free, candidates)


def is_free(port: int) -> bool:
    """Say whether a server could listen on *port* now."""
    with socket.socket() as probe:
        # As Java binds: connections of the last run that linger in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def require_free(ports: Iterable[int]) -> None:
    """
    Raises:
        Misconfigured: a port is taken, names the first.
    """
    for port in ports:
        if not is_free(port):
            raise Misconfigured(
                f"port {port} on {HOST} is taken, Kafka cannot have it: stop the program there, or choose another port"
            )


def _ephemeral() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return EPHEMERAL
