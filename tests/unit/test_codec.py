"""The codec: canonical bytes, every released schema readable, hostile bytes refused; and the framing of events."""

import io
import json
import re
from importlib.resources import files

import avro.schema
import fastavro
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from fastavro.schema import fingerprint

from keymill.errors import InvalidRecord, UnknownKey
from schemas import access, audit, events, operations, policy, records
from schemas.codec import HEADER_SIZE, SCHEMA_FILES, decode, decode_json, encode, readable, schema_of
from schemas.events import AssetEvent, AssetIngested
from schemas.framing import decode_event
from tests.builders import ingest
from tests.golden import verdicts

SCHEMAS = files("schemas")
KINDS = {file: kind for kind, file in SCHEMA_FILES.items()}
HISTORY = {
    file: sorted(SCHEMAS.joinpath("history", file).iterdir(), key=lambda entry: int(entry.name.partition(".")[0]))
    for file in KINDS
}
PAIRS = [(file, entry.name) for file, entries in HISTORY.items() for entry in entries]


def _current(file):
    return SCHEMAS.joinpath(f"{file}.avsc").read_text()


def _without_docs(schema):
    if isinstance(schema, dict):
        return {name: _without_docs(value) for name, value in schema.items() if name != "doc"}
    return [_without_docs(item) for item in schema] if isinstance(schema, list) else schema


def test_every_schema_file_has_a_record_and_a_history():
    """No .avsc that nobody reads, no history of nothing."""
    assert {entry.name for entry in SCHEMAS.iterdir() if entry.name.endswith(".avsc")} == {f"{f}.avsc" for f in KINDS}
    assert {entry.name for entry in SCHEMAS.joinpath("history").iterdir()} == set(KINDS)


@pytest.mark.parametrize("file", KINDS)
def test_a_changed_schema_has_a_history_entry(file):
    """Copy a changed .avsc to schemas/history/<file>/<n + 1>.avsc: what was written with it stays readable for ever."""
    entries = HISTORY[file]
    assert [entry.name for entry in entries] == [f"{n}.avsc" for n in range(1, len(entries) + 1)]
    assert _without_docs(json.loads(entries[-1].read_text())) == _without_docs(json.loads(_current(file)))


@pytest.mark.parametrize(("file", "entry"), PAIRS)
def test_released_schemas_are_compatible_in_both_directions(file, entry):
    """Programs of both versions run side by side: each reads what the other writes."""
    released = avro.schema.parse(SCHEMAS.joinpath("history", file, entry).read_text())
    current = avro.schema.parse(_current(file))
    check = ReaderWriterCompatibilityChecker()
    for reader, writer in ((current, released), (released, current)):
        assert check.get_compatibility(reader, writer).compatibility is SchemaCompatibilityType.compatible


def test_the_compatibility_check_sees_a_breaking_change():
    """A field without a default, added, is refused by the very check above."""
    released = json.loads(_current("entitlement"))
    broken = released | {"fields": [*released["fields"], {"name": "added", "type": "string"}]}
    found = ReaderWriterCompatibilityChecker().get_compatibility(
        avro.schema.parse(json.dumps(broken)), avro.schema.parse(json.dumps(released))
    )
    assert found.compatibility is SchemaCompatibilityType.incompatible


@pytest.mark.parametrize(("file", "entry"), PAIRS)
def test_every_released_fingerprint_is_readable(file, entry):
    """The header announces the writer's schema, and the reader knows it."""
    parsed = avro.schema.parse(SCHEMAS.joinpath("history", file, entry).read_text())
    header = b"\xc3\x01" + parsed.fingerprint("CRC-64-AVRO")
    assert header.hex() in {known.hex() for known in readable(KINDS[file])}


def test_fingerprints_are_the_specification_s():
    """The fingerprint of "int" in Avro's own tests (0x7275d51a3f395c8f), little-endian in the header."""
    assert fingerprint('"int"', "CRC-64-AVRO") == "8f5c393f1ad57572"


def _named(schema, found):
    if isinstance(schema, dict):
        if schema.get("type") in ("record", "enum"):
            found[schema["name"]] = schema
        for value in schema.values():
            _named(value, found)
    elif isinstance(schema, list):
        for item in schema:
            _named(item, found)
    return found


@pytest.mark.parametrize("file", KINDS)
def test_records_and_schemas_name_the_same_fields_in_the_same_order(file):
    """The .avsc is the contract; the classes are its spelling in Python. Enumerations have the same symbols."""
    for name, schema in _named(json.loads(_current(file)), {}).items():
        owner = next(module for module in (events, records, access, policy, operations, audit) if hasattr(module, name))
        cls = getattr(owner, name)
        if schema["type"] == "enum":
            assert [member.value for member in cls] == schema["symbols"], name
        else:
            assert list(cls.__struct_fields__) == [field["name"] for field in schema["fields"]], name


@pytest.mark.parametrize("file", KINDS)
def test_a_schema_s_default_is_the_class_s(file):
    """What is null by default in the .avsc may be left out in Python."""
    import msgspec

    for name, schema in _named(json.loads(_current(file)), {}).items():
        if schema["type"] == "record":
            owner = next(
                module for module in (events, records, access, policy, operations, audit) if hasattr(module, name)
            )
            by_name = {field.name: field for field in msgspec.structs.fields(getattr(owner, name))}
            for field in schema["fields"]:
                if "default" in field:
                    default = by_name[field["name"]].default
                    plain = list(default) if isinstance(default, tuple) else default
                    assert plain == field["default"], f"{name}.{field['name']}"


def test_an_old_writer_s_event_is_read_with_the_defaults(tmp_path, monkeypatch):
    """A released schema without today's newest field still gives a record."""
    old = json.loads(_current("entitlement"))
    old["fields"] = [field for field in old["fields"] if field["name"] != "valid_until"]
    from schemas import codec

    schema = codec.load(old)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema.parsed, {"organization": "demo", "user": "u", "product": "p"})
    monkeypatch.setitem(readable(access.Entitlement), schema.header, schema)
    read = decode(schema.header + out.getvalue(), access.Entitlement)
    assert read == access.Entitlement(organization="demo", user="u", product="p", valid_until=None)


EVENT = AssetEvent(organization="demo", asset="bbb", event_time=5, body=AssetIngested(salt=b"s" * 16))


def test_one_value_has_one_byte_string():
    """Encoding twice gives the same bytes, behind the header of the schema."""
    data = encode(EVENT)
    assert data == encode(EVENT)
    assert data[:HEADER_SIZE] == schema_of(AssetEvent).header
    assert decode(data, AssetEvent) == EVENT


def test_equal_bodies_of_events_are_one_object():
    """A library's assets ask for the same few things; a body that cannot be read is told each time."""
    first, second = (decode(encode(ingest("SD", asset=name)), AssetEvent) for name in ("a", "b"))
    assert first.body is second.body and first.asset != second.asset
    cut = encode(ingest("SD", asset="a"))[:-1]
    for _ in range(2):
        with pytest.raises(InvalidRecord):
            decode(cut, AssetEvent)


def test_the_json_form_reads_back():
    """Avro's field names, bytes as base64, the branch as `type`."""
    body = b'{"type":"AssetIngested","salt":"c3Nzc3Nzc3Nzc3Nzc3NzcQ=="}'
    text = b'{"organization":"demo","asset":"bbb","event_time":5,"body":' + body + b"}"
    assert decode_json(text, AssetEvent).body.salt == b"s" * 15 + b"q"


def test_an_unreadable_record_never_shows_its_bytes():
    """The reason of a dead letter is published: it holds no part of the value."""
    for data in (b"secret-looking bytes", encode(EVENT)[:-3] + b"key"):
        with pytest.raises(InvalidRecord) as refused:
            decode(data, AssetEvent)
        assert not re.search(r"secret|key$", str(refused.value))


def _confluent(definition, value, number=7):
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(definition), value)
    return b"\x00" + number.to_bytes(4, "big") + out.getvalue()


def _foreign_schema(wrap=lambda body: [body], namespace="keymill"):
    """A schema as a Java team would register it: a field of theirs, the optional ones left out."""
    body = {
        "type": "record",
        "name": "AssetIngested",
        "fields": [
            {"name": "product_id", "type": "string"},
            {"name": "studio", "type": {"type": "array", "items": "string"}},
        ],
    }
    fields = [("organization", "string"), ("asset", "string"), ("event_time", "long"), ("body", wrap(body))]
    return {
        "type": "record",
        "name": "AssetEvent",
        "namespace": namespace,
        "fields": [{"name": name, "type": kind} for name, kind in fields],
    }


@pytest.mark.parametrize("namespace", ["keymill", "com.example.ingest"])
@pytest.mark.parametrize("wrap", [lambda body: [body], lambda body: body, lambda body: ["null", body]])
def test_a_confluent_frame_is_read_through_the_registry(wrap, namespace):
    """The writer's schema comes by its id and resolves to ours; fields that we do not know are skipped."""
    definition = _foreign_schema(wrap, namespace)
    value = {"organization": "demo", "asset": "bbb", "event_time": 5, "body": {"product_id": "gold", "studio": ["x"]}}
    event = decode_event(_confluent(definition, value), (), lambda number: json.dumps(definition))
    assert event == AssetEvent(organization="demo", asset="bbb", event_time=5, body=AssetIngested(product_id="gold"))


@pytest.mark.parametrize(
    ("registry", "said"),
    [
        (None, "no schema registry"),
        (lambda number: "no JSON", "schema 7 cannot be used"),
        (lambda number: '{"type":"record"}', "schema 7 cannot be used"),
        (lambda number: '{"type":"record","name":"X","fields":[{"name":"x","type":"X"}]}', "contains itself"),
        (lambda number: '{"type":"array","items":"null"}', "without bytes"),
        (lambda number: "[" * 100_000 + "]" * 100_000, "nested too deeply"),
        (lambda number: '"string"', "no AssetEvent"),
    ],
    ids=["none", "no-json", "no-schema", "recursive", "empty-items", "deep", "other"],
)
def test_a_schema_that_cannot_be_used_refuses_the_event(registry, said):
    """The dead letter says what is wrong with the schema; the program goes on."""
    with pytest.raises(InvalidRecord, match=said) as refused:
        decode_event(b"\x00\x00\x00\x00\x07\x02\x02", (), registry)
    assert refused.value.field == "value"


def test_a_registry_that_does_not_answer_is_not_the_event_s_fault():
    """Only an unknown id refuses the event; anything else passes through and is tried again."""
    from keymill.errors import Unavailable

    def down(number):
        raise Unavailable("the registry does not answer")

    def unknown(number):
        raise UnknownKey("no such id")

    with pytest.raises(Unavailable):
        decode_event(b"\x00\x00\x00\x00\x07\x02", (), down)
    with pytest.raises(InvalidRecord, match="schema id 7"):
        decode_event(b"\x00\x00\x00\x00\x07\x02", (), unknown)


def test_golden_values_are_written_byte_for_byte():
    """What bare fastavro writes of the same fields is what the codec writes."""
    value = verdicts.asset_record()
    data = verdicts.framed("asset_record", value)
    record = decode(data, records.AssetRecord)
    assert encode(record) == data
    assert record.versions[0].live.tracks[0].declared is False
