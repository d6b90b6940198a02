"""
The order of an upgrade, proxies, processors, gateway, against every schema that was ever released.

docs/runbook.md, "Upgrading": readers of a topic go before its writers, but for what the gateway's view reads.
"""

import io
import json
import re
from importlib.resources import files
from pathlib import Path

import avro.schema
import fastavro
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import HEADER_SIZE, SCHEMA_FILES, decode, encode, load, readable, schema_of
from schemas.topics import ASSETS, BY_NAME, CATALOGUE, ENTITLEMENTS, STATUS, Program
from schemas.values import Record
from tests.property.strategies import RECORDS

KINDS = {kind.__name__: kind for kind in SCHEMA_FILES}
ORDER = (Program.PROXY, Program.PROCESSOR, Program.GATEWAY)
RUNBOOK = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text()
SECTION = RUNBOOK[RUNBOOK.index("## Upgrading") :].split("\n## ")[0]
BACKWARD = {
    (Program.GATEWAY, Program.PROCESSOR, "drm.keys.v1"),
    (Program.GATEWAY, Program.PROCESSOR, "drm.policies.v1"),
    (Program.GATEWAY, Program.PROCESSOR, "drm.dlq.v1"),
}
"""(old reader, new writer, topic) that the order cannot avoid: the gateway reads what its events become."""


def history(kind: type[Record]) -> list[str]:
    """The texts of a record's released schemas, oldest first."""
    entries = files("schemas").joinpath("history", SCHEMA_FILES[kind]).iterdir()
    return [entry.read_text() for entry in sorted(entries, key=lambda entry: int(entry.name.partition(".")[0]))]


def meetings() -> set[tuple[Program, Program, str]]:
    """Who, not yet upgraded, reads during an upgrade what who, upgraded already, writes."""
    found = set()
    for step in range(1, len(ORDER)):
        new, old = ORDER[:step], ORDER[step:]
        for topic in CATALOGUE:
            found |= {(r, w, topic.name) for w in new if w in topic.writers for r in old if r in topic.readers}
    return found


def test_readers_go_before_writers() -> None:
    """No old processor or proxy meets a new record; the status topic's unreadable reports are passed over."""
    assert BACKWARD == {meeting for meeting in meetings() if meeting[2] != STATUS.name}
    assert all(f"`{topic}`" in SECTION for _, _, topic in BACKWARD)


def test_the_gateway_writes_only_what_was_upgraded_before_it_reads() -> None:
    """Asset events, policy changes, entitlements: processors and proxies read them, and are new by then."""
    written = {topic.name for topic in CATALOGUE if Program.GATEWAY in topic.writers}
    assert {ASSETS.name, ENTITLEMENTS.name} <= written
    last = ORDER.index(Program.GATEWAY)
    readers = {reader for name in written for reader in BY_NAME[name].readers if reader in ORDER}
    assert all(ORDER.index(reader) <= last for reader in readers)


@pytest.mark.parametrize("kind", SCHEMA_FILES, ids=lambda kind: kind.__name__)
def test_each_version_and_the_next_read_each_other(kind: type[Record]) -> None:
    """Every neighbour in the history, in both directions: a rolling upgrade, and a way back from it."""
    check = ReaderWriterCompatibilityChecker()
    texts = history(kind)
    for before, after in zip(texts, [*texts[1:], texts[-1]], strict=True):
        old, new = avro.schema.parse(before), avro.schema.parse(after)
        for reader, writer in ((new, old), (old, new)):
            assert check.get_compatibility(reader, writer).compatibility is SchemaCompatibilityType.compatible


@pytest.mark.parametrize("name", RECORDS)
@given(data=st.data())
def test_what_any_release_wrote_is_read_and_any_release_reads_what_is_written(name: str, data: st.DataObject) -> None:
    """A record, narrowed to each released schema by Avro's own rules, as an old reader would, comes back as written."""
    kind, record = KINDS[name], data.draw(RECORDS[name])
    body = io.BytesIO(encode(record)[HEADER_SIZE:])
    for text in history(kind):
        old = load(json.loads(text))
        assert old.header in readable(kind)
        body.seek(0)
        seen = fastavro.schemaless_reader(body, schema_of(kind).parsed, old.parsed, return_record_name=True)
        out = io.BytesIO(old.header)
        out.seek(HEADER_SIZE)
        fastavro.schemaless_writer(out, old.parsed, seen)
        again = decode(out.getvalue(), kind)
        if old.header == schema_of(kind).header:
            assert record == again
        else:
            assert type(again) is kind


def test_the_runbook_says_the_order() -> None:
    """The steps of its section, one program each, in the order that is tested here."""
    steps = re.findall(r"^\d\. \*\*(\w+)\*\*", SECTION, re.MULTILINE)
    assert ["Proxies", "Processors", "Gateways"] == [step for step in steps if step not in ("Look", "Connectors")]
