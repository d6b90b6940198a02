"""
Bytes to records and back: Avro single-object encoding, canonical, and nothing unknown.

`C3 01`, the CRC-64-AVRO fingerprint of the writer's schema (8 bytes), the Avro body. One value gives one byte
string. Schemas that were released stay readable: `schemas/history` holds them, and their fingerprints are known.
"""

import io
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any, Final, TypeVar, cast

import fastavro
import msgspec
from fastavro.read import SchemaResolutionError
from fastavro.schema import SchemaParseException, fingerprint, parse_schema, to_parsing_canonical_form

from keymill.errors import InvalidRecord
from schemas import access, audit, events, operations, policy, records, values
from schemas.reading import Reader
from schemas.values import Record
from schemas.writing import Writer, compile_writer

T = TypeVar("T", bound=Record)

MARKER: Final = b"\xc3\x01"
HEADER_SIZE: Final = 10

SCHEMA_FILES: Final[dict[type[Record], str]] = {
    events.AssetEvent: "asset_event",
    records.AssetRecord: "asset_record",
    records.KeyRecord: "key_record",
    records.Claim: "claim",
    records.PolicyRecord: "policy_record",
    events.PolicyChange: "policy_change",
    access.Entitlement: "entitlement",
    access.Service: "service",
    access.Credential: "credential",
    records.DeadLetter: "dead_letter",
    records.TopicAdopted: "topic_adopted",
    operations.OwnerRequest: "owner_request",
    operations.RepairRequest: "repair_request",
    operations.ProgramReport: "program_report",
    operations.AuditSummary: "audit_summary",
    audit.AuditEvent: "audit_event",
}
_CLASSES: Final = {
    name: value
    for module in (access, audit, events, operations, policy, records, values)
    for name, value in vars(module).items()
    if isinstance(value, type)
}
_TAGGED: Final = frozenset({events.AssetEvent, events.PolicyChange, access.Credential})
"""Records whose `body` is a union of records; msgspec's tag and Avro's branch name are the same word."""
_SHARED: Final[dict[type[Record], str]] = {
    events.AssetEvent: "body", records.AssetRecord: "versions.key_sets.tracks",
}  # fmt: skip
"""A library's assets differ in their names; what they ask for, and get, is the same few bodies and tracks."""


SchemaError = SchemaParseException
_UNREADABLE: Final = (
    EOFError,
    IndexError,
    ValueError,
    OverflowError,
    KeyError,
    TypeError,
    AttributeError,
    MemoryError,
    RecursionError,
    SchemaResolutionError,
)
"""What fastavro raises on bytes that are no value of the schema, or of one that does not resolve to ours."""

_REPEATED: Final = re.compile(r" '.*'(?= - at `|$)", re.DOTALL)
"""In "Invalid enum value 'x' - at `$.body.schemes[...]`" the value, which the sender chose."""


class Schema(msgspec.Struct, frozen=True):
    """A parsed schema with the header that announces it."""

    parsed: Any
    header: bytes


@cache
def schema_of(kind: type[Record]) -> Schema:
    """The schema that *kind* is written with."""
    return load(_definition(kind))


def _definition(kind: type[Record]) -> Any:
    return json.loads(files("schemas").joinpath(f"{SCHEMA_FILES[kind]}.avsc").read_text())


@cache
def readable(kind: type[Record]) -> dict[bytes, Schema]:
    """Every schema ever released for *kind*, by header; the writer's own is among them."""
    folder = files("schemas").joinpath("history", SCHEMA_FILES[kind])
    found = {schema_of(kind).header: schema_of(kind)}
    if folder.is_dir():
        for entry in folder.iterdir():
            schema = load(json.loads(entry.read_text()))
            found.setdefault(schema.header, schema)
    return found


def load(definition: Any) -> Schema:
    """Parse a schema; raises `SchemaError` or `ValueError` when it is none."""
    crc = bytes.fromhex(fingerprint(to_parsing_canonical_form(definition), "CRC-64-AVRO"))
    return Schema(parsed=parse_schema(definition), header=MARKER + crc)


@cache
def _writer(kind: type[Record]) -> Writer:
    return compile_writer(_definition(kind), schema_of(kind).header, _CLASSES, _SHARED.get(kind, ""))


@cache
def _reader(kind: type[Record]) -> tuple[bytes, Reader]:
    return schema_of(kind).header, Reader(_definition(kind), _CLASSES, _SHARED.get(kind, ""))


def encode(record: Record) -> bytes:
    """Return the one byte string of *record*."""
    return _writer(type(record))(record)


def encode_as(kind: type[Record], value: object) -> bytes:
    """Like `encode`, of anything that has the fields of *kind*: for bytes that are hashed, not sent."""
    return _writer(kind)(value)


def decode(data: bytes, kind: type[T]) -> T:
    """
    Return the record in *data*.

    Raises:
        InvalidRecord: not single-object Avro, an unknown fingerprint, trailing bytes, or values out of range.
    """
    header, reader = _reader(kind)
    if data.startswith(header):
        try:
            return cast(T, reader.read(data, HEADER_SIZE))
        except (IndexError, ValueError, KeyError) as error:
            raise _unreadable(kind, reader.field_of(error)) from None
    writer = readable(kind).get(data[:HEADER_SIZE])
    if writer is None:
        raise InvalidRecord(_unknown(data[:HEADER_SIZE], kind), field="value")
    return decode_body(data, HEADER_SIZE, writer, kind)


def _unreadable(kind: type[Record], field: str = "value") -> InvalidRecord:
    where = "its end" if field == "value" else field
    return InvalidRecord(f"value is no {kind.__name__}: it cannot be read at {where}", field=field)


def decode_body(data: bytes, start: int, writer: Schema, kind: type[T]) -> T:
    """Like `decode`, of the Avro body that begins at *start* and was written with *writer*, not with our schema."""
    source = io.BytesIO(data)
    source.seek(start)
    try:
        value = _read(source, writer, schema_of(kind))
    except _UNREADABLE:
        raise _unreadable(kind) from None
    if source.tell() != len(data):
        raise InvalidRecord(f"value has {len(data) - source.tell()} bytes after the {kind.__name__}", field="value")
    if kind in _TAGGED:
        value["body"] = _tagged(value["body"], writer)
    return from_plain(value, kind)


def _tagged(body: Any, writer: Schema) -> Any:
    """The body with its branch as msgspec's tag; fastavro leaves the name out where the writer knew one branch only."""
    if isinstance(body, tuple):
        name, body = body
    else:
        written = next(field["type"] for field in writer.parsed["fields"] if field["name"] == "body")
        branch = next(b for b in written if b != "null") if isinstance(written, list) else written
        name = branch if isinstance(branch, str) else branch["name"]
    return body | {"type": name.rpartition(".")[2]}


def _read(source: io.BytesIO, writer: Schema, reader: Schema) -> Any:
    return fastavro.schemaless_reader(
        source,
        writer.parsed,
        None if writer is reader else reader.parsed,
        return_record_name=True,
        return_record_name_override=True,
    )


def from_plain(value: Any, kind: type[T]) -> T:
    """Return the record made of plain dicts and lists (bytes stay bytes), or raise `InvalidRecord` naming the field."""
    try:
        return msgspec.convert(value, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise _refusal(error, kind) from None


def decode_json(data: bytes, kind: type[T]) -> T:
    """Like `decode`, of the JSON form: Avro's field names, bytes as base64, the body's branch in its member `type`."""
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError:
        raise InvalidRecord(f"{kind.__name__}: the JSON is nested too deeply", field="value") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _refusal(error, kind) from None


def _refusal(error: Exception, kind: type[Record]) -> InvalidRecord:
    """What msgspec says, without the value that it repeats: a dead letter holds no content."""
    message = _REPEATED.sub("", str(error))
    return InvalidRecord(f"{kind.__name__}: {message}", field=_field_of(message))


def _field_of(message: str) -> str:
    """The field that msgspec's message is about, as our own checks name it: `tracks.scheme`, without the body."""
    _, _, path = message.partition(" - at `$.")
    _, _, name = message.partition(" field `")
    parts = [part.partition("[")[0] for part in path.rstrip("`").split(".")]
    parts.append(name.partition("`")[0])
    return ".".join(part for part in parts if part and part != "body") or "value"


def _unknown(header: bytes, kind: type[Record]) -> str:
    if header[:2] != MARKER:
        return f"value is no {kind.__name__}: it does not start with Avro's single-object marker C3 01"
    return f"value has schema fingerprint {header[2:].hex()}, which no released {kind.__name__} has"
