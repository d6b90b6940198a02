"""The schema registry: what is waited out, what refuses the event; and time and memory have bounds."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from keymill.errors import InvalidRecord, Misconfigured, Reject, Unavailable, UnknownKey
from keymill.kms.keyring import Keyring
from schemas import framing, topics
from schemas.codec import HEADER_SIZE, decode, encode
from schemas.framing import schema_id_of
from schemas.ids import is_key_set
from schemas.records import DeadLetter
from streams import registry
from streams.decide import Decider
from streams.provision import Provisioner
from streams.registry import SchemaMissing, SchemaRegistry, registry_lookup
from streams.runs import RawRecord
from tests.agent_rig import PARTITIONS
from tests.builders import ingest
from tests.fakes import MemoryKms
from tests.unit.test_provision import Rig, handle, run_of

GOOD = (200, b'{"schema": "\\"string\\""}')
Answer = tuple[int, bytes] | Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """Gives the answers of `answers`, the last one again and again, and keeps what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[Answer] = [GOOD]
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("authorization")))
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if callable(answer):
            answer(self)
            return
        status, body = answer
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second in place of five, and hardly a pause."""
    monkeypatch.setattr(registry, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(registry, "PAUSE_S", 0.01)


def framed(schema_id: int, *headers: tuple[str, bytes]) -> RawRecord:
    return RawRecord("drm.assets.v1", 0, 0, 1, 1, b"demo/x", b"\0" + schema_id.to_bytes(4, "big") + b"body", headers)


def prepared(client: SchemaRegistry, *schema_ids: int) -> SchemaRegistry:
    asyncio.run(asyncio.wait_for(client.prepare([framed(each) for each in schema_ids]), 10))
    return client


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then, for ever: no single read ever takes long."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    try:
        while True:
            handler.wfile.write(b" ")
            time.sleep(0.1)
    except OSError:
        return


def endless(handler: BaseHTTPRequestHandler) -> None:
    """No length, no end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    try:
        while True:
            handler.wfile.write(b" " * 65_536)
    except OSError:
        return


@pytest.mark.parametrize(
    "answer",
    [(500, b""), (503, b"x"), (401, b""), (403, b""), (407, b""), (429, b""), (302, b""), drip],
    ids=lambda each: getattr(each, "__name__", None) or str(each[0]),
)
def test_what_says_nothing_of_the_id_is_waited_out(server: Server, answer: Answer) -> None:
    """The run waits, says why, and goes on when the registry answers; nothing ends, and nothing is refused."""
    client, said = SchemaRegistry(server.url), []

    def answer_once(handler: BaseHTTPRequestHandler) -> None:
        said.append(client.trouble)
        handler.send_error(502)

    server.answers = [answer, answer_once, GOOD]
    assert '"string"' == prepared(client, 7).cached(7)
    assert 3 == len(server.asked) and client.trouble is None
    assert said[0] and said[0].startswith("asset events wait: the schema registry")
    server.answers = [answer]
    with pytest.raises(Unavailable):
        SchemaRegistry(server.url).ask(7)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, b""), "has no schema 7"),
        ((400, b""), "answers 400"),
        ((422, b"x"), "answers 422"),
        ((200, b"<html>"), "holds no schema"),
        ((200, b"{}"), "holds no schema"),
        ((200, b'{"schema": 5}'), "holds no schema"),
        ((200, b"[" * 500_000), "holds no schema"),
        ((200, b'{"schema": "' + b"x" * registry.ANSWER_MAX + b'"}'), "more than 1048576 bytes"),
        (endless, "more than 1048576 bytes"),
    ],
    ids=["404", "400", "422", "html", "empty", "number", "deep", "large", "endless"],
)
def test_what_the_registry_says_for_good_refuses_the_event(server: Server, answer: Answer, words: str) -> None:
    """A dead letter, and no second question for the next event of that id."""
    server.answers = [answer]
    client = prepared(SchemaRegistry(server.url), 7)
    for _ in range(2):
        with pytest.raises(Reject, match=words) as refused:
            client.cached(7)
        assert isinstance(refused.value, UnknownKey if words == "has no schema 7" else InvalidRecord)
        prepared(client, 7)
    assert 1 == len(server.asked)


def test_a_refusal_is_forgotten_after_a_minute(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The schema may have been registered since."""
    monkeypatch.setattr(registry, "REFUSED_FOR_S", 0.0)
    server.answers = [(404, b""), GOOD]
    client = prepared(SchemaRegistry(server.url), 7)
    assert '"string"' == prepared(client, 7).cached(7)


def test_the_loop_goes_on_while_the_registry_is_silent(server: Server) -> None:
    """Heartbeats and health are of the same loop."""
    server.answers = [drip]
    client = SchemaRegistry(server.url)

    async def longest_gap() -> float:
        waiting = asyncio.ensure_future(client.prepare([framed(7)]))
        gaps, before = [], time.monotonic()
        while len(gaps) < 60:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            gaps.append(now - before)
            before = now
        waiting.cancel()
        return max(gaps)

    assert asyncio.run(longest_gap()) < 0.3


def test_what_is_kept_is_bounded_and_never_what_the_run_needs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever needs a forgotten one prepares it again."""
    monkeypatch.setattr(registry, "ENTRIES_MAX", 3)
    client = prepared(prepared(SchemaRegistry(server.url), 1, 2, 3), 3, 4, 5, 6, 7)
    assert ['"string"'] * 5 == [client.cached(each) for each in (3, 4, 5, 6, 7)]
    for forgotten in (1, 2):
        with pytest.raises(SchemaMissing):
            client.cached(forgotten)


def test_the_password_of_the_address_is_sent_and_never_said(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in a reason nor in a log."""
    client = SchemaRegistry(f"http://reader:s3cret-word@127.0.0.1:{server.server_port}")
    prepared(client, 7)
    assert [("/schemas/ids/7", "Basic cmVhZGVyOnMzY3JldC13b3Jk")] == server.asked
    for wrong in ("http://reader:s3cret-word@127.0.0.1:1", "http://reader:s3cret-word@[bad"):
        with pytest.raises(Unavailable) as refused:
            SchemaRegistry(wrong).ask(7)
        assert "s3cret" not in str(refused.value) + repr(refused.value) and "127" not in str(refused.value)
    assert "s3cret" not in caplog.text
    with pytest.raises(Misconfigured) as wrong_scheme:
        SchemaRegistry("ftp://reader:s3cret-word@x")
    assert "s3cret" not in str(wrong_scheme.value)


def test_only_the_confluent_frame_names_a_schema() -> None:
    """By the same rule as the decoder's."""
    value = b"\0\0\0\0\7body"
    assert (7, 7) == (schema_id_of(value), schema_id_of(value, [("content-type", b"avro/binary")]))
    other = schema_id_of(b"\0\0\0\0"), schema_id_of(b"\xc3\x01abcdef")
    assert (None, None, None) == (*other, schema_id_of(value, [("content-type", b"application/json")]))
    assert None is registry_lookup("")


def test_a_run_waits_for_its_schema_and_loses_nothing(server: Server, tmp_path: Path) -> None:
    """A registry that fails ends no processor; an id that it does not have is a dead letter, and the rest goes on."""
    text = files("schemas").joinpath("asset_event.avsc").read_text()
    server.answers = [(500, b""), (200, json.dumps({"schema": text}).encode()), (404, b"")]
    client, rig = SchemaRegistry(server.url), Rig(tmp_path / "view")
    decode_event = partial(framing.decode_event, registry=client.cached)
    rig.provisioner = Provisioner(
        decider=Decider(Keyring(MemoryKms()), decode_event, partitions=PARTITIONS, generation=0),
        owner=rig.owner_by(topics.ASSETS),
        partitions=PARTITIONS,
        claimant=rig.claimant(),
        schemas=client,
    )
    body = encode(ingest("SD"))[HEADER_SIZE:]
    handle(rig, run_of(b"\0\0\0\0\7" + body, b"\0\0\0\0\x08" + body))
    assert [True, False] == [is_key_set(each.record_key) for each in rig.sent()]
    (letter,) = [decode(each.value or b"", DeadLetter) for each in rig.sent(topics.DEAD_LETTERS.name)]
    assert (1, "invalid_record") == (letter.offset, letter.reason) and "schema id 8" in letter.message
    rig.close()
