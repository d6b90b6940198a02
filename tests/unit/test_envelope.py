"""The envelope: what one record's wrapped keys open under, and nothing else."""

import msgspec
import pytest

from keymill.core.envelope import ClearKey, associated_data, unwrap_keys, unwrap_secret, wrap_keys, wrap_secret
from keymill.core.provisioning import Keys, make_key_record, needed
from keymill.errors import Corrupt
from keymill.secret import Secret
from schemas.records import KeyOrigin, KeyRecord
from schemas.values import LogPosition, Scheme
from tests.builders import KEYS, folded, ingest

REPLACE = msgspec.structs.replace
RECORD = make_key_record(folded(ingest()), next(needed(folded(ingest()), None)), KEYS)
FLIPPED = {
    "organization": "other",
    "asset": "ccc",
    "key_version": 2,
    "root_version": 2,
    "kek_epoch": 2,
    "event": LogPosition(generation=1, offset=0),
    "period": "present",
    "tracks": (),
}


def _flip(value):
    if isinstance(value, bytes):
        return bytes([value[0] ^ 1]) + value[1:]
    return {Scheme.CBCS: Scheme.CENC, KeyOrigin.DERIVED: KeyOrigin.CHOSEN}.get(value, "UHD1")


def _opens(record: KeyRecord, keys: Keys = KEYS) -> bool:
    try:
        unwrap_keys(keys.kek, keys.k_fp, record)
    except Corrupt:
        return False
    return True


def test_a_record_opens():
    """Each key comes back in the order of its tracks."""
    opened = unwrap_keys(KEYS.kek, KEYS.k_fp, RECORD)
    assert [len(key.cek) for key in opened] == [16] * len(RECORD.tracks)
    assert len({key.cek.reveal() for key in opened}) == len(RECORD.tracks)


@pytest.mark.parametrize("field", [name for name in KeyRecord.__struct_fields__ if name != "wrapped"])
def test_a_changed_field_does_not_open(field):
    """Every field of the record is bound, so nothing can be rewritten around a wrapped key."""
    from schemas.records import CryptoPeriod

    changed = CryptoPeriod(index=1) if field == "period" else FLIPPED[field]
    assert getattr(RECORD, field) != changed
    assert not _opens(REPLACE(RECORD, **{field: changed}))


@pytest.mark.parametrize("field", ["kid", "fp", "label", "scheme", "origin"])
@pytest.mark.parametrize("index", range(3))
def test_a_changed_field_of_a_track_does_not_open(field, index):
    """Each track's names are bound as well."""
    tracks = list(RECORD.tracks)
    tracks[index] = REPLACE(tracks[index], **{field: _flip(getattr(tracks[index], field))})
    assert not _opens(REPLACE(RECORD, tracks=tuple(tracks)))


@pytest.mark.parametrize("part", ["start", "end", "index"])
def test_a_changed_period_does_not_open(part):
    """The interval decides what is licensed, so it is bound."""
    asset = folded(ingest(periods=(0, 1)))
    record = make_key_record(asset, next(needed(asset, None)), KEYS)
    assert record.period.start is not None
    assert _opens(record)
    changed = REPLACE(record.period, **{part: getattr(record.period, part) + 1})
    assert not _opens(REPLACE(record, period=changed))


@pytest.mark.parametrize("position", [LogPosition(generation=0, offset=1), LogPosition(generation=1, offset=0)])
def test_another_event_s_record_does_not_open(position):
    """Both halves of its place in the log are bound."""
    assert LogPosition(generation=0, offset=0) == RECORD.event
    assert not _opens(REPLACE(RECORD, event=position))


def test_tracks_in_another_order_do_not_open():
    """The order says which key is whose."""
    assert not _opens(REPLACE(RECORD, tracks=RECORD.tracks[::-1]))


@pytest.mark.parametrize("change", ["first", "last", "short", "long", "empty"])
def test_changed_bytes_do_not_open(change):
    """A truncated or altered blob fails closed."""
    blob = RECORD.wrapped
    changed = {
        "first": bytes([blob[0] ^ 1]) + blob[1:],
        "last": blob[:-1] + bytes([blob[-1] ^ 1]),
        "short": blob[:-1],
        "long": blob + b"\x00",
        "empty": b"",
    }[change]
    assert not _opens(REPLACE(RECORD, wrapped=changed))


def test_swapped_blobs_do_not_open():
    """Two records of one KEK, their wrapped keys exchanged: neither opens."""
    other = make_key_record(folded(ingest(asset="ccc")), next(needed(folded(ingest(asset="ccc")), None)), KEYS)
    assert _opens(other)
    assert not _opens(REPLACE(RECORD, wrapped=other.wrapped))
    assert not _opens(REPLACE(other, wrapped=RECORD.wrapped))


def test_a_key_that_is_not_the_promised_one_does_not_open():
    """A well wrapped CEK that contradicts its fingerprint is refused, as is another K_fp."""
    wrong = tuple(ClearKey(cek=Secret(b"x" * 16), iv=Secret(b"y" * 16)) for _ in RECORD.tracks)
    assert not _opens(REPLACE(RECORD, wrapped=wrap_keys(KEYS.kek, RECORD, wrong)))
    assert not _opens(RECORD, REPLACE(KEYS, k_fp=Secret(b"g" * 32)))


@pytest.mark.parametrize("field", ["key_version", "root_version", "kek_epoch"])
def test_a_negative_number_does_not_open(field):
    """Avro has negative numbers and no writer of ours writes them: refused like any other change."""
    assert not _opens(REPLACE(RECORD, **{field: -1}))


def test_fewer_keys_than_tracks_are_refused():
    """By the writer, and by the reader if another writer did it."""
    with pytest.raises(ValueError, match="as many keys"):
        wrap_keys(KEYS.kek, RECORD, ())
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    short = AESSIV(KEYS.kek.reveal()).encrypt(b"k" * 32, [associated_data(RECORD)])
    with pytest.raises(Corrupt, match="32 bytes for 3 tracks"):
        unwrap_keys(KEYS.kek, KEYS.k_fp, REPLACE(RECORD, wrapped=short))


def test_another_kek_or_epoch_does_not_open():
    """A replayed old epoch is another associated data and another KEK."""
    assert not _opens(RECORD, REPLACE(KEYS, kek=Secret(b"z" * 64)))


def test_the_error_names_the_record_and_no_key():
    """What is logged says which record, never a byte of a key."""
    with pytest.raises(Corrupt, match="demo/bbb version 1") as raised:
        unwrap_keys(KEYS.kek, KEYS.k_fp, REPLACE(RECORD, wrapped=b"w" * 112))
    assert "77" * 4 not in str(raised.value)


def test_a_wrapped_secret_opens_under_its_identity_only():
    """A signer's key that is moved to another signer's record does not open."""
    wrapped = wrap_secret(KEYS.kek, Secret(b"signer key"), "demo", "signer", 1)
    assert unwrap_secret(KEYS.kek, wrapped, "demo", "signer", 1) == Secret(b"signer key")
    for identity in (("demo", "signer", 2), ("demo", "other", 1), ("other", "signer", 1), ("demo", "signer")):
        with pytest.raises(Corrupt):
            unwrap_secret(KEYS.kek, wrapped, *identity)
