"""The drill's players notice what a player would: each answer that is no license, or not the same, is a failure."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from keymill.errors import Unavailable
from keymill.ops.drill.players import Players
from keymill.ops.drill.run import drill

GOOD = {"keys": [{"kid": "a", "k": "1"}, {"kid": "b", "k": "2"}], "type": "temporary"}


class Server(ThreadingHTTPServer):
    """A license server that answers the n-th request with `answers(n)`: a status and a body."""

    answers: Callable[[int], tuple[int, Any]]
    numbers: Iterator[int]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """One license."""
        server: Any = self.server
        status, body = server.answers(next(server.numbers))
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    """On loopback."""
    made = Server(("127.0.0.1", 0), Handler)
    made.numbers = count()
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def play(server: Server, *, known: dict[str, str], least: int = 10) -> Players:
    """Players who have asked at least so often."""
    url = f"http://127.0.0.1:{server.server_port}/clearkey/demo/film"
    with Players([(url, b"{}", known)], rate=200) as players:
        deadline = time.monotonic() + 20
        while players.asked < least and time.monotonic() < deadline:
            time.sleep(0.01)
    assert players.asked >= least
    return players


def test_licenses_that_are_right_are_no_failures(server: Server) -> None:
    """The key that is known beforehand, and the one that is known since the first answer."""
    server.answers = lambda _: (200, GOOD)
    assert Counter() == play(server, known={"a": "1", "b": ""}).failures


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ((503, b""), "HTTP 503"),
        ((200, {"keys": [{"kid": "a", "k": "1"}]}), "a key is missing"),
        ((200, {"keys": [{"kid": "a", "k": "1"}, {"kid": "b", "k": "3"}]}), "a key has changed"),
        ((200, {"keys": [{"kid": "a", "k": "3"}, {"kid": "b", "k": "2"}]}), "a key has changed"),
        ((200, b"<html>"), "JSONDecodeError"),
        ((200, {}), "no license"),
        ((200, []), "no license"),
        ((200, None), "no license"),
    ],
)
def test_an_answer_that_is_no_license_is_a_failure(server: Server, answer: tuple[int, Any], verdict: str) -> None:
    """Once among good ones; it is counted under its name, told, and the players go on."""
    server.answers = lambda number: answer if number == 5 else (200, GOOD)
    players = play(server, known={"a": "1", "b": ""})
    assert ({verdict: 1}, 1) == (players.failures, players.failed)
    assert [f"{verdict}: http://127.0.0.1:{server.server_port}/clearkey/demo/film"] == players.examples


def test_players_who_give_up_fail_the_drill(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends them early, what nobody asked for was not granted."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with pytest.raises(Unavailable, match="gave up"), Players([], rate=200):
        time.sleep(0.5)


def test_a_drill_begins_with_nothing(tmp_path: Path) -> None:
    """A folder of an earlier one is refused and stays as it is."""
    app = typer.Typer()
    app.command()(drill)
    (tmp_path / "before.ledger").write_text("old")
    done = CliRunner().invoke(app, ["--data", str(tmp_path)])
    assert (2, True) == (done.exit_code, "is not empty" in done.output)
    assert ["before.ledger"] == [path.name for path in tmp_path.iterdir()]
