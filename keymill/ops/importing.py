"""
A library of existing keys as CSV: the rows that can be used, and what is wrong with the others. Pure.

A problem names file, line and column, never a value of the columns `key` and `iv`.
"""

import base64
import binascii
import csv
import hmac
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from keymill.core.derive import CEK_SIZE, IV_SIZE
from keymill.drm.playready import CHECKSUM_SIZE, checksum, little_endian
from keymill.errors import InvalidRecord
from keymill.secret import Secret
from schemas import ids
from schemas.values import Record, Scheme, check_label

REQUIRED: Final = ("asset", "track", "kid", "key")
COLUMNS: Final = (*REQUIRED, "iv", "scheme", "checksum")


class Problem(Record, frozen=True, kw_only=True):
    """
    What is wrong with a row, or with the keys that are there already.

    Args:
        field: a column.
        asset: whose row it is, empty where that is no asset id; None where the row does not say.
    """

    file: str
    line: int
    asset: str | None
    field: str
    code: str
    message: str


class Row(Record, frozen=True, kw_only=True):
    """One key of the library."""

    file: str
    line: int
    asset: str
    track: str
    scheme: Scheme
    kid: bytes
    cek: Secret
    iv: Secret | None


def read_rows(file: str, text: Iterable[str], problems: list[Problem]) -> Iterator[Row]:
    """
    The rows of one file that can be used; what is wrong with the others goes to *problems*.

    Raises:
        InvalidRecord: the header lacks a column, or has one that nobody knows.
    """
    reader = csv.reader(text)
    names = _header(file, next(reader, []))
    while True:
        try:
            values = next(reader, None)
        except csv.Error as error:
            problems.append(_problem(file, reader.line_num, None, "row", str(error)))
            continue
        if values is None:
            return
        if not any(value.strip() for value in values):
            continue
        row = _row(file, reader.line_num, names, values)
        if isinstance(row, Problem):
            problems.append(row)
        else:
            yield row


def _header(file: str, values: Sequence[str]) -> tuple[str, ...]:
    names = tuple(value.strip().lower() for value in values)
    if values and names[0].startswith("\ufeff"):
        names = (names[0][1:], *names[1:])
    lacking = [name for name in REQUIRED if name not in names]
    unknown = [str(place) for place, name in enumerate(names, 1) if name not in COLUMNS]
    if lacking or unknown or len(set(names)) != len(names):
        wrong = f"lacks {', '.join(lacking)}" if lacking else "names a column twice"
        if unknown and not lacking:
            wrong = f"has an unknown name in column {', '.join(unknown)}"  # which may be a key
        expected = f"it names {', '.join(COLUMNS)}, of which {', '.join(REQUIRED)} are needed"
        raise InvalidRecord(f"{file}:1: the header {wrong}: {expected}", field="header")
    return names


def _problem(
    file: str, line: int, asset: str | None, field: str, message: str, code: str = InvalidRecord.code
) -> Problem:
    return Problem(file=file, line=line, asset=asset, field=field, code=code, message=message)


def _row(file: str, line: int, names: tuple[str, ...], values: Sequence[str]) -> Row | Problem:
    if len(values) != len(names):
        return _problem(file, line, None, "row", f"{len(values)} fields, the header has {len(names)}")
    given = {name: value.strip() for name, value in zip(names, values, strict=True)}
    try:
        kid = ids.kid_of(given["kid"])
        cek = _key(given["key"], "key")
        iv = _iv(given.get("iv", ""))
        row = Row(
            file=file,
            line=line,
            asset=ids.check_asset(given["asset"]),
            track=check_label(given["track"].upper(), "track"),
            scheme=_scheme(given.get("scheme", "")),
            kid=kid,
            cek=cek,
            iv=iv,
        )
        _check_checksum(given.get("checksum", ""), row)
    except InvalidRecord as error:
        asset = given["asset"] if ids.NAME.fullmatch(given["asset"]) else ""
        return _problem(file, line, asset, error.field, str(error), error.code)
    return row


def _bytes(text: str) -> bytes | None:
    """Hex or base64; the length decides, since 16 bytes are 32 digits or 24 characters."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        pass
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _key(text: str, field: str) -> Secret:
    data = _bytes(text)
    if data is None or len(data) != CEK_SIZE:
        raise InvalidRecord(f"{field} must have 16 bytes, as 32 hex digits or base64", field=field)
    return Secret(data)


def _iv(text: str) -> Secret | None:
    if not text:
        return None
    data = _bytes(text)
    if data is None or len(data) not in (8, IV_SIZE):
        raise InvalidRecord("iv must have 16 or 8 bytes, as hex digits or base64, or be empty", field="iv")
    return Secret(data.ljust(IV_SIZE, b"\0"))  # CENC's short IV stands before a counter that begins at 0


def _scheme(text: str) -> Scheme:
    try:
        return Scheme(text.lower() or Scheme.CBCS)
    except ValueError:
        raise InvalidRecord(f"scheme must be one of {', '.join(Scheme)}, or empty for cbcs", field="scheme") from None


def _check_checksum(text: str, row: Row) -> None:
    """PlayReady's, of the KID in its little-endian form, or in the order in which everybody else writes it."""
    if not text:
        return
    given = _bytes(text)
    if given is None or len(given) != CHECKSUM_SIZE:
        raise InvalidRecord("checksum must have 8 bytes, as hex digits or base64", field="checksum")
    if not any(hmac.compare_digest(given, checksum(row.cek, kid)) for kid in (little_endian(row.kid), row.kid)):
        raise InvalidRecord("checksum is not that of this KID and key", field="checksum", code="checksum")
