"""Properties of identities, derivation and wrapping."""

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from keymill.core.derive import derive_key, fingerprint
from keymill.core.envelope import ClearKey, unwrap_keys, wrap_keys
from keymill.core.identity import canonical
from keymill.core.rewrapping import rewrap
from keymill.core.view import Fate, identity_of, judge_key_record
from keymill.errors import Corrupt
from keymill.secret import Secret
from schemas.records import KeyRecord
from tests.property.strategies import IDENTITIES, KEY_RECORDS

REPLACE = msgspec.structs.replace
PRK, K_FP, KEK = Secret(b"p" * 32), Secret(b"f" * 32), Secret(bytes(range(64)))
PART = st.one_of(st.binary(max_size=20), st.text(max_size=10), st.integers(0, 2**64 - 1), st.none())
PARTS = st.lists(PART, max_size=5)


def plain(part: bytes | str | int | None) -> bytes:
    """What a part stands for."""
    if isinstance(part, int):
        return part.to_bytes(8, "big")
    return part.encode() if isinstance(part, str) else part or b""


@given(first=PARTS, second=PARTS)
def test_canonical_bytes_are_injective(first, second):
    """Two lists of parts give one byte string only if they say the same."""
    same = [plain(part) for part in first] == [plain(part) for part in second]
    assert (canonical(*first) == canonical(*second)) is same


@given(first=IDENTITIES, second=IDENTITIES, data=st.data())
def test_any_change_of_an_identity_gives_another_kid(first, second, data):
    """All of it, or one field alone."""
    field = data.draw(st.sampled_from(first.__struct_fields__))
    for other in (second, REPLACE(first, **{field: getattr(second, field)})):
        assume(other != first)
        one, two = derive_key(PRK, first), derive_key(PRK, other)
        assert one.kid != two.kid
        assert one.cek != two.cek
        assert one.iv != two.iv


@given(identity=IDENTITIES, root=st.binary(min_size=32, max_size=32))
def test_an_identity_under_a_root_has_one_key(identity, root):
    """Always the same; under another root another KID, so never two keys for one."""
    assert derive_key(PRK, identity) == derive_key(Secret(PRK.reveal()), identity)
    if root != PRK.reveal():
        assert derive_key(Secret(root), identity).kid != derive_key(PRK, identity).kid


def wrapped(record: KeyRecord) -> tuple[KeyRecord, tuple[ClearKey, ...]]:
    """The record with keys of its own in it, and the keys."""
    keys = tuple(
        ClearKey(cek=Secret(bytes([index]) * 16), iv=Secret(bytes([255 - index]) * 16))
        for index in range(len(record.tracks))
    )
    tracks = tuple(
        REPLACE(track, fp=fingerprint(K_FP, track.kid, key.cek)) for track, key in zip(record.tracks, keys, strict=True)
    )
    record = REPLACE(record, tracks=tracks)
    return REPLACE(record, wrapped=wrap_keys(KEK, record, keys)), keys


RECORDS = KEY_RECORDS.filter(
    lambda record: record.tracks and (record.period is None or record.period.index >= 0)
).filter(lambda record: record.period is None or ((record.period.start or 0) >= 0 and (record.period.end or 0) >= 0))


@given(record=RECORDS)
def test_wrapped_keys_come_back(record):
    """Whatever the record says, in the order of its tracks."""
    record, keys = wrapped(record)
    assert unwrap_keys(KEK, K_FP, record) == keys


@given(first=RECORDS, second=RECORDS, data=st.data())
def test_a_record_with_any_other_field_does_not_open(first, second, data):
    """One field, one field of a track, or the blob of another record."""
    first, _ = wrapped(first)
    second, _ = wrapped(second)
    field = data.draw(st.sampled_from([*first.__struct_fields__, "a track"]))
    if field == "a track":
        index = data.draw(st.integers(0, len(first.tracks) - 1))
        name = data.draw(st.sampled_from(first.tracks[0].__struct_fields__))
        track = REPLACE(first.tracks[index], **{name: getattr(second.tracks[0], name)})
        changed = REPLACE(first, tracks=(*first.tracks[:index], track, *first.tracks[index + 1 :]))
    else:
        changed = REPLACE(first, **{field: getattr(second, field)})
    assume(changed != first)
    try:
        unwrap_keys(KEK, K_FP, changed)
    except Corrupt:
        return
    raise AssertionError("a changed record opened")


@given(record=RECORDS, ahead=st.integers(1, 1000))
def test_a_record_wrapped_again_is_the_same_record(record, ahead):
    """The same keys and identity under a higher epoch, which every view applies and the older copy never undoes."""
    record, keys = wrapped(record)
    assume(len({track.kid for track in record.tracks}) == len(record.tracks))
    kek = Secret(bytes(range(64, 128)))
    again = rewrap(record, held_under=KEK, kek=kek, kek_epoch=record.kek_epoch + ahead, k_fp=K_FP)
    assert unwrap_keys(kek, K_FP, again) == keys
    assert (identity_of(again), again.event) == (identity_of(record), record.event)
    assert judge_key_record(again, record, {}).fate is Fate.APPLIED
    assert judge_key_record(record, again, {}).fate is Fate.STALE
    assert rewrap(record, held_under=KEK, kek=kek, kek_epoch=record.kek_epoch + ahead, k_fp=K_FP) == again


@given(record=RECORDS, behind=st.integers(0, 1000))
def test_no_record_is_wrapped_under_an_epoch_that_is_not_higher(record, behind):
    """A view would pass it over as older than what it holds."""
    record, _ = wrapped(record)
    try:
        rewrap(record, held_under=KEK, kek=KEK, kek_epoch=record.kek_epoch - behind, k_fp=K_FP)
    except ValueError:
        return
    raise AssertionError("an epoch went back")


@given(record=RECORDS)
def test_a_record_that_holds_another_key_is_not_wrapped_again(record):
    """Its fingerprint tells, before anything is written."""
    record, _ = wrapped(record)
    other = Secret(b"g" * 32)
    try:
        rewrap(record, held_under=KEK, kek=KEK, kek_epoch=record.kek_epoch + 1, k_fp=other)
    except Corrupt:
        return
    raise AssertionError("a key was wrapped that its fingerprint does not name")
