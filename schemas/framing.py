"""
Asset events as ingest systems frame them: single-object Avro, the Confluent frame, or JSON with a content type.

Which one it is is said by the record's header `content-type`, else by the first bytes; nothing is guessed.
"""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

from keymill.errors import InvalidRecord, UnknownKey
from schemas import codec
from schemas.codec import MARKER, Schema
from schemas.events import AssetEvent

Headers = Sequence[tuple[str, bytes | None]]
Registry = Callable[[int], str]
"""
A schema's JSON by its id at the schema registry; raises `UnknownKey` for an id that the registry does not have, and
`InvalidRecord` for one whose schema nobody can use.
"""

CONTENT_TYPE: Final = "content-type"
JSON_TYPE: Final = "application/json"
AVRO_TYPES: Final = ("application/avro", "avro/binary", "application/vnd.apache.avro", "application/octet-stream")
CONFLUENT_MAGIC: Final = b"\x00"
CONFLUENT_HEADER: Final = 5


def decode_event(value: bytes, headers: Headers = (), registry: Registry | None = None) -> AssetEvent:
    """
    Return the asset event in a record's value.

    Args:
        registry: given where a schema registry is configured; without it the Confluent frame is refused.

    Raises:
        InvalidRecord: another content type, another frame, an unknown schema, or a value that breaks its format.
    """
    content_type = _content_type(headers)
    if content_type == JSON_TYPE:
        return codec.decode_json(value, AssetEvent)
    if content_type and content_type not in AVRO_TYPES:
        message = f"content-type {content_type[:64]!r} is not {JSON_TYPE}, {' or '.join(AVRO_TYPES)}"
        raise InvalidRecord(message, field=CONTENT_TYPE)
    if value.startswith(MARKER):
        return codec.decode(value, AssetEvent)
    if value.startswith(CONFLUENT_MAGIC):
        return _decode_confluent(value, registry)
    hint = f": JSON needs the header content-type {JSON_TYPE}" if value.lstrip().startswith(b"{") else ""
    raise InvalidRecord(f"value starts neither with Avro's C3 01 nor with Confluent's 00{hint}", field="value")


def schema_id_of(value: bytes, headers: Headers = ()) -> int | None:
    """The id of the schema that `decode_event` will ask the registry for; None when it asks for none."""
    content_type = _content_type(headers)
    if content_type and content_type not in AVRO_TYPES:
        return None
    if len(value) < CONFLUENT_HEADER or not value.startswith(CONFLUENT_MAGIC):
        return None
    return _schema_id(value)


def _schema_id(value: bytes) -> int:
    return int.from_bytes(value[1:CONFLUENT_HEADER], "big")


def _content_type(headers: Headers) -> str:
    for name, value in headers:
        if name.lower() == CONTENT_TYPE:
            return (value or b"").decode("ascii", "replace").partition(";")[0].strip().lower()
    return ""


def _decode_confluent(value: bytes, registry: Registry | None) -> AssetEvent:
    if registry is None:
        raise InvalidRecord("value has the Confluent frame, but no schema registry is configured", field="value")
    if len(value) < CONFLUENT_HEADER:
        raise InvalidRecord("value ends within the Confluent frame's schema id", field="value")
    number = _schema_id(value)
    try:
        text = registry(number)
    except UnknownKey:
        raise InvalidRecord(f"value has schema id {number}, which the registry does not know", field="value") from None
    return codec.decode_body(value, CONFLUENT_HEADER, _foreign(text, number), AssetEvent)


@lru_cache(maxsize=256)
def _foreign(text: str, number: int) -> Schema:
    """A schema that somebody else wrote: only one that hostile bytes cannot turn into endless work."""
    try:
        definition = json.loads(text)
        _check_bounded(definition, {}, ())
        return codec.load(definition)
    except RecursionError:
        raise InvalidRecord(f"schema {number} is nested too deeply", field="value") from None
    except (ValueError, KeyError, TypeError, AttributeError, codec.SchemaError) as error:
        raise InvalidRecord(f"schema {number} cannot be used: {error}", field="value") from None


def _check_bounded(schema: Any, named: dict[str, bool], inside: tuple[str, ...]) -> bool:
    """
    Whether every value of *schema* takes at least one byte.

    Raises `ValueError` for a recursive schema, whose values nest without end, and for an array of nothing,
    whose values have any length in a few bytes.
    """
    if isinstance(schema, str):
        if _name(schema) in inside:
            raise ValueError(f"{schema} contains itself")
        return named.get(_name(schema), schema != "null")
    if isinstance(schema, list):
        return all(_check_bounded(branch, named, inside) or True for branch in schema)
    kind = schema["type"]
    if kind in ("record", "enum", "fixed"):
        name = _name(schema["name"])
        fields = schema["fields"] if kind == "record" else ()
        sizes = [_check_bounded(field["type"], named, (*inside, name)) for field in fields]
        named[name] = any(sizes) if kind == "record" else schema.get("size", 1) > 0
        return named[name]
    if kind == "array" and not _check_bounded(schema["items"], named, inside):
        raise ValueError("an array of values without bytes")
    if kind == "map":
        _check_bounded(schema["values"], named, inside)
    return kind in ("array", "map") or _check_bounded(kind, named, inside)


def _name(full: str) -> str:
    return full.rpartition(".")[2]
