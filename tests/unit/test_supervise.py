"""Children of `keymill up`: tiny real programs that answer, die, hang and come back."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from starlette.applications import Starlette

from keymill.config import HttpSettings, UpSettings, load
from keymill.errors import Unavailable
from keymill.http.health import Readiness, health_routes
from keymill.http.server import ServingThread, listen, url_of
from keymill.ops import supervise
from keymill.ops.plan import children_of
from keymill.ops.supervise import Child
from keymill.ops.up import Up
from tests.certificates import self_signed

PROGRAM = """
import http.server, json, os, signal, sys, time
name, what, trace = sys.argv[1:4]
def note(text):
    with open(trace, "a") as file:
        file.write(f"{time.monotonic()} {name} {text}\\n")
note("start " + " ".join(sys.argv[4:]) + " " + os.environ.get("KEYMILL_GROUP", ""))
if what == "crash":
    sys.exit(7)
if what == "mute":
    time.sleep(60)
def stop(*_):
    if what == "stubborn":
        return
    note("asked")
    time.sleep(0.1)
    note("stopped")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
began = time.monotonic()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ready = self.path == "/readyz" and what != "unready" and time.monotonic() - began > 0.3
        self.send_response(200 if ready else 503)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(json.dumps({"listening": f"http://127.0.0.1:{server.server_port}"}), flush=True)
if what == "brief":
    sys.exit(3)
server.serve_forever(poll_interval=0.02)
"""
STOP_S = 5.0


class Family:
    """Makes children of the tiny program, and knows what they did."""

    def __init__(self, folder: Path) -> None:
        self._file, self._trace = folder / "program.py", folder / "trace"
        self._file.write_text(PROGRAM)
        self.children: list[Child] = []

    def child(self, what: str = "serve", name: str = "gateway", **environment: str) -> Child:
        command = [name, what, str(self._trace)]
        child = Child(name, command, environment, program=(sys.executable, "-S", str(self._file)))
        self.children.append(child)
        return child

    def did(self, what: str) -> list[tuple[float, str, str]]:
        lines = self._trace.read_text().splitlines() if self._trace.exists() else []
        found = [(float(at), name, text) for at, name, text in (line.split(" ", 2) for line in lines)]
        return [entry for entry in found if entry[2].startswith(what)]


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    family = Family(tmp_path)
    yield family
    for child in family.children:
        child.wait_stopped(time.monotonic())


def until(condition: Callable[[], object], step: Callable[[], None] = lambda: None, patience_s: float = 10.0) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline
        step()
        time.sleep(0.005)


def test_its_line_says_where_it_listens_and_readyz_when(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line comes before it is ready; no HTTP proxy of the environment is asked."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    child = family.child()
    assert 0 == child.pid
    child.start()
    child.wait_listening()
    assert child.url.startswith("http://127.0.0.1:")
    began = time.monotonic()
    child.wait_ready()
    assert time.monotonic() - began > 0.1
    assert child.pid


def test_a_child_that_speaks_tls_is_trusted_by_its_certificate(tmp_path: Path) -> None:
    """A certificate of one's own, for another name, is enough for our own child; without it nothing is believed."""
    certificate, key = self_signed(tmp_path)
    settings = load(HttpSettings, environ={}, tls_cert=certificate, tls_key=key)
    web = Starlette(routes=health_routes(Readiness()))
    with listen("127.0.0.1", 0) as bound, closing(ServingThread(web, settings=settings, bound=bound).start()):
        trusting, strict = (Child("proxy", [], {}, trusts=trusts) for trusts in (certificate, None))
        trusting.url = strict.url = url_of(bound, settings)
        trusting.wait_ready()
        with pytest.raises(Unavailable, match="is not ready"):
            strict.wait_ready()


def test_a_wait_ends_when_the_start_is_stopped(family: Family) -> None:
    """Ctrl-C while a program starts, or before it is ready, waits for neither."""
    began = time.monotonic()
    mute, unready = family.child("mute"), family.child("unready")
    mute.start()
    mute.wait_listening(lambda: time.monotonic() > began + 0.3)
    unready.start()
    unready.wait_listening()
    unready.wait_ready(lambda: True)
    assert time.monotonic() - began < STOP_S
    for child in (mute, unready):
        child.signal_stop()
        child.wait_stopped(time.monotonic() + STOP_S)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"port_base": 9000}, (9002, 9003, [9004, 9005])),
        ({"port_base": 9000, "gateway_port": 8080, "processor_port": 8082}, (8080, 9002, [8082, 9003])),
        ({"gateway_port": 8080, "proxy_port": 8081, "processor_port": 8082}, (8080, 8081, [8082, None])),
        ({}, (None, None, [None, None])),
    ],
)
def test_a_port_that_is_given_is_taken(
    given: dict[str, int], expected: tuple[int | None, int | None, list[int | None]]
):
    """By the program it is meant for; the others follow `port_base` or take free ones, never a default."""
    settings = load(UpSettings, environ={}, processors=2, instance_id="site", **given)
    children = children_of(settings, "127.0.0.1:9", None)
    ports = [
        int(child.environment[f"KEYMILL_{name.upper()}_PORT"])
        for name in ("gateway", "proxy", "processor")
        for child in children[name]
    ]
    assert len(set(ports)) == 4
    wanted = [expected[0], expected[1], *expected[2]]
    assert all(
        port == want or (want is None and port not in (8080, 8081)) for port, want in zip(ports, wanted, strict=True)
    )
    names = [child.environment["KEYMILL_INSTANCE_ID"] for child in children["processor"]]
    assert names == ["site-0", "site-1"]


def test_it_is_told_its_parent_and_its_settings(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings go before the environment's own; Ctrl-C in the terminal does not reach it."""
    monkeypatch.setenv("KEYMILL_GROUP", "outer")
    child = family.child(KEYMILL_GROUP="inner")
    child.start()
    child.wait_listening()
    (started,) = family.did("start")
    assert f"start --parent {os.getpid()} inner" == started[2]
    assert child.pid == os.getsid(child.pid) != os.getsid(0)


def test_one_that_ends_before_its_line_is_named_with_its_status(family: Family) -> None:
    """And one that has nothing to say in time."""
    child = family.child("crash", "proxy")
    child.start()
    with pytest.raises(Unavailable, match=r"proxy did not start \(exit status 7\)"):
        child.wait_listening()


def test_one_that_says_nothing_in_time_is_not_waited_for(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """It still runs, and is stopped with the others."""
    monkeypatch.setattr(supervise, "START_DEADLINE_S", 0.4)
    child = family.child("mute")
    child.start()
    with pytest.raises(Unavailable, match="gateway did not start"):
        child.wait_listening()
    assert child.pid


def test_one_that_never_gets_ready_is_named(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alive but unready until the deadline, or dead."""
    brief = family.child("brief", "proxy")
    began = time.monotonic()
    brief.start()
    brief.wait_listening()
    with pytest.raises(Unavailable, match=r"proxy at http://.* is not ready"):
        brief.wait_ready()
    assert time.monotonic() - began < supervise.START_DEADLINE_S / 2
    monkeypatch.setattr(supervise, "START_DEADLINE_S", 1.0)
    unready = family.child("unready")
    unready.start()
    unready.wait_listening()
    with pytest.raises(Unavailable, match=r"gateway at http://.* is not ready"):
        unready.wait_ready()


def test_one_that_is_killed_comes_back(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, as another process; one that runs is left alone."""
    monkeypatch.setattr(supervise, "HEALTHY_S", 0.0)
    child = family.child()
    child.start()
    child.wait_listening()
    first = child.pid
    child.watch()
    assert first == child.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: child.pid not in (0, first), child.watch)
    child.wait_listening()
    child.wait_ready()
    assert 2 == len(family.did("start"))


def test_one_that_keeps_dying_is_started_ever_more_slowly(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pause is at least the next of the table, and the last one is for ever."""
    monkeypatch.setattr(supervise, "BACKOFF_S", (0.0, 0.1, 0.25, 0.5))
    child = family.child("crash")
    child.start()
    until(lambda: len(family.did("start")) >= 6, child.watch)
    times = [at for at, *_ in family.did("start")]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert [True] * 5 == [pause >= least for pause, least in zip(pauses, (0.1, 0.25, 0.5, 0.5, 0.5), strict=True)]


def test_one_that_has_lived_starts_again_at_once(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its earlier failures are forgotten."""
    monkeypatch.setattr(supervise, "BACKOFF_S", (0.0, 0.05, 60.0))
    monkeypatch.setattr(supervise, "HEALTHY_S", 0.4)
    child = family.child()
    child.start()
    child.wait_listening()
    first = child.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: child.pid not in (0, first), child.watch)
    child.wait_listening()
    time.sleep(0.5)
    os.kill(child.pid, signal.SIGKILL)
    until(lambda: 3 == len(family.did("start")), child.watch)


def test_a_stop_is_asked_for_and_waited_for(family: Family) -> None:
    """It ends in its own time; asking twice, or one that does not run, does no harm."""
    child = family.child()
    child.signal_stop()
    child.wait_stopped(time.monotonic())
    child.start()
    child.wait_listening()
    child.signal_stop()
    child.wait_stopped(time.monotonic() + STOP_S)
    child.signal_stop()
    child.wait_stopped(time.monotonic())
    assert (0, 1) == (child.pid, len(family.did("stopped")))


def test_one_that_does_not_stop_is_killed_at_the_deadline(family: Family) -> None:
    """Not before."""
    child = family.child("stubborn")
    child.start()
    child.wait_listening()
    pid, began = child.pid, time.monotonic()
    child.signal_stop()
    child.wait_stopped(began + 0.4)
    assert 0.4 <= time.monotonic() - began < STOP_S
    assert 0 == child.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_stop_during_the_backoff_starts_nothing(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to stop, and it stays so."""
    monkeypatch.setattr(supervise, "BACKOFF_S", (60.0,))
    child = family.child("crash")
    child.start()
    until(lambda: not child.pid, child.watch)
    child.watch()
    child.signal_stop()
    child.wait_stopped(time.monotonic())
    child.watch()
    assert (0, 1) == (child.pid, len(family.did("start")))


def test_up_stops_its_children_in_the_reverse_order(family: Family, tmp_path: Path) -> None:
    """Each group has ended before the next is asked: players first, keys last; those of one group end together."""
    up = Up(UpSettings(data=tmp_path, stop_timeout_s=5))
    up._children = {
        "processor": [family.child(name="processor 0"), family.child(name="processor 1")],
        "gateway": [family.child(name="gateway")],
        "proxy": [family.child(name="proxy")],
    }
    for child in family.children:
        child._command = [part.replace(" ", "-") for part in child._command]
        child.start()
    for child in family.children:
        child.wait_listening()
    up._stop_all()
    told = [f"{name} {what}" for _, name, what in family.did("")[len(family.children) :]]
    assert ["proxy asked", "proxy stopped", "gateway asked", "gateway stopped"] == told[:4]
    assert {"processor-0 asked", "processor-1 asked"} == set(told[4:6])
    assert {"processor-0 stopped", "processor-1 stopped"} == set(told[6:])


def test_a_child_that_stands_still_is_killed_and_started_again(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped, it neither ends nor answers; one that answers slowly, or with an error, is left alone."""
    monkeypatch.setattr(supervise, "FROZEN_S", 1.0)
    monkeypatch.setattr(supervise, "ASK_EVERY_S", 0.05)
    monkeypatch.setattr(supervise, "ANSWER_S", 0.2)
    frozen, well = family.child(name="proxy"), family.child(name="gateway")
    for child in (frozen, well):
        child.start()
        child.wait_listening()
    before = well.pid

    def watch() -> None:
        frozen.watch()
        well.watch()

    os.kill(frozen.pid, signal.SIGSTOP)
    until(lambda: 2 == len([entry for entry in family.did("start") if entry[1] == "proxy"]), watch)
    assert before == well.pid
