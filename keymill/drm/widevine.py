"""
Widevine's PSSH data, a protobuf message, written and read by hand: it has ten fields.

Source: Shaka Packager's widevine_pssh_data.proto. `protection_scheme` is the four-character code as an integer and
is left out for cenc, as Shaka does; readers take its absence for cenc.
"""

from collections.abc import Iterator
from typing import Final

from keymill.drm import pssh, systems
from keymill.errors import InvalidRecord
from schemas.values import KID_SIZE, Record, Scheme

_KEY_ID, _PROVIDER, _CONTENT_ID, _POLICY = 2, 3, 4, 6
_PERIOD_INDEX, _SCHEME, _PERIOD_SECONDS = 7, 9, 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}
CERTIFICATE_REQUEST: Final = b"\x08\x04"
"""The whole of a service-certificate request: a signed message of type 4 and nothing else."""
LEAST_CHALLENGE: Final = 50
"""Bytes; a license request is longer, whatever the device. Redge's proxies tell the two apart by it."""
MAX_SIZE: Final = 65_536
"""Bytes; a message with a thousand KIDs has 18,000."""


class WidevineData(Record, frozen=True, kw_only=True):
    """The fields that are still in use. `kids` may be of another size than 16 bytes in old content."""

    kids: tuple[bytes, ...] = ()
    provider: str = ""
    content_id: bytes = b""
    policy: str = ""
    scheme: Scheme = Scheme.CENC
    period_index: int | None = None
    period_s: int | None = None


def asks_certificate(challenge: bytes) -> bool:
    """Whether a player asks for the license server's certificate, with which it begins, and not for a license."""
    return challenge == CERTIFICATE_REQUEST or 0 < len(challenge) < LEAST_CHALLENGE


def encode_data(data: WidevineData) -> bytes:
    """The protobuf message, fields ascending."""
    out = b"".join(_bytes(_KEY_ID, kid) for kid in data.kids)
    for number, text in (
        (_PROVIDER, data.provider.encode()),
        (_CONTENT_ID, data.content_id),
        (_POLICY, data.policy.encode()),
    ):
        if text:
            out += _bytes(number, text)
    if data.period_index is not None:
        out += _number(_PERIOD_INDEX, data.period_index)
    if data.scheme is not Scheme.CENC:
        out += _number(_SCHEME, int.from_bytes(data.scheme.value.encode("ascii"), "big"))
    if data.period_s is not None:
        out += _number(_PERIOD_SECONDS, data.period_s)
    return out


def box(data: WidevineData) -> bytes:
    """The PSSH box (version 0) around the message."""
    return pssh.build(pssh.Pssh(system_id=systems.WIDEVINE, data=encode_data(data)))


def decode_data(message: bytes) -> WidevineData:
    """
    Read the message; fields that are deprecated or unknown are passed over.

    Raises:
        InvalidRecord: not protobuf, a field of another type, an unknown protection scheme.
    """
    if len(message) > MAX_SIZE:
        raise _broken(f"has {len(message)} bytes, at most {MAX_SIZE} are read")
    kids: list[bytes] = []
    texts: dict[int, bytes] = {}
    numbers: dict[int, int] = {}
    for number, value in _fields(message):
        if isinstance(value, int):
            numbers[number] = value
        elif number == _KEY_ID:
            kids.append(value)
        else:
            texts[number] = value
    return WidevineData(
        kids=tuple(kids),
        provider=_text(texts.get(_PROVIDER, b"")),
        content_id=texts.get(_CONTENT_ID, b""),
        policy=_text(texts.get(_POLICY, b"")),
        scheme=_scheme(numbers.get(_SCHEME)),
        period_index=numbers.get(_PERIOD_INDEX),
        period_s=numbers.get(_PERIOD_SECONDS),
    )


def kids_of(box_or_boxes: bytes) -> tuple[bytes, ...]:
    """
    The KIDs (16 bytes) that initialization data names for Widevine, each once.

    Stated rule for boxes that name KIDs in both places: the message's come first, then the box's own.
    """
    found: dict[bytes, None] = {}
    for each in pssh.parse(box_or_boxes):
        if each.system_id == systems.WIDEVINE:
            found |= dict.fromkeys((*decode_data(each.data).kids, *each.kids))
    return tuple(kid for kid in found if len(kid) == KID_SIZE)


def _scheme(code: int | None) -> Scheme:
    if code is None:
        return Scheme.CENC
    try:
        return Scheme(code.to_bytes(4, "big").decode("ascii"))
    except (OverflowError, ValueError):
        raise _broken("names no known protection scheme") from None


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise _broken("has a text that is not UTF-8") from None


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        match tag & 7:
            case 0:
                value, at = _read_varint(message, at)
                yield tag >> 3, value
            case 2:
                size, at = _read_varint(message, at)
                yield tag >> 3, message[at : at + size]
                at += size
            case kind if kind in _FIXED_SIZES:
                at += _FIXED_SIZES[kind]
            case _:
                raise _broken("is no protobuf message")
    if at != len(message):
        raise _broken("ends inside a field")


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _broken("ends inside a number")


def _broken(what: str) -> InvalidRecord:
    return InvalidRecord(f"pssh_data {what}", field="pssh_data")
