"""The golden keys: what the second implementation says is what the product makes, byte for byte, for ever."""

import json
from importlib.resources import files

import pytest

from keymill.core.derive import derive_key, fingerprint, fingerprint_message, prk_message
from keymill.core.envelope import unwrap_keys
from keymill.core.identity import KeyIdentity, key_set_digest
from keymill.core.provisioning import Keys, Needed, make_key_record
from keymill.secret import Secret
from schemas.codec import decode, encode
from schemas.ids import key_set_key
from schemas.records import AssetRecord, AssetState, CryptoPeriod, KeyRecord, TrackIdentity
from schemas.values import LogPosition, Scheme
from tests.golden import make, second

VECTORS = json.loads(files("schemas").joinpath("golden/keys.json").read_text())
NAMES = [f"{index}" for index in range(len(VECTORS))]


def _bytes(text):
    return bytes.fromhex(text) if text is not None else None


def test_the_files_are_what_the_second_implementation_gives():
    """Nobody edited a vector by hand, and the second implementation did not drift."""
    for name, text in make.written().items():
        assert files("schemas").joinpath("golden", name).read_text() == text, name


def test_there_are_100_key_records_with_distinct_kids():
    """Enough inputs to see a change of any part, and no KID twice but under a single key."""
    assert len(VECTORS) == 100
    kids = [t["kid"] for v in VECTORS if not v["single_key"] for t in v["tracks"]]
    assert len(kids) == len(set(kids))


@pytest.mark.parametrize("vector", VECTORS, ids=NAMES)
def test_derivation_gives_the_golden_keys(vector):
    """KID, CEK, IV and fingerprint of every track."""
    prk = Secret(second.mac(bytes.fromhex(vector["root"]), prk_message(vector["organization"], vector["root_version"])))
    k_fp = Secret(second.mac(bytes.fromhex(vector["first_root"]), fingerprint_message(vector["organization"])))
    for track in vector["tracks"]:
        shared = vector["single_key"] and track["label"] != "HLS_AES128"
        identity = KeyIdentity(
            organization=vector["organization"],
            asset=vector["asset"],
            key_version=vector["key_version"],
            period=vector["period"],
            scheme=Scheme(track["scheme"]),
            label="*" if shared else track["label"],
            root_version=vector["root_version"],
            salt=_bytes(vector["salt"]),
        )
        key = derive_key(prk, identity)
        assert (key.kid.hex(), key.cek.reveal().hex(), key.iv.reveal().hex()) == (
            track["kid"],
            track["cek"],
            track["iv"],
        )
        assert fingerprint(k_fp, key.kid, key.cek).hex() == track["fp"]


@pytest.mark.parametrize("vector", VECTORS, ids=NAMES)
def test_key_records_are_wrapped_as_the_golden_ones(vector):
    """The digest that names the record, the wrapped bytes, and the way back."""
    tracks = tuple(
        TrackIdentity(label=track["label"], scheme=Scheme(track["scheme"]), declared=True) for track in vector["tracks"]
    )
    digest = key_set_digest(
        organization=vector["organization"],
        asset=vector["asset"],
        key_version=vector["key_version"],
        root_version=vector["root_version"],
        salt=_bytes(vector["salt"]),
        period=vector["period"],
        tracks=tracks,
    )
    assert digest.hex() == vector["digest"]
    keys = _keys(vector)
    record = make_key_record(_asset(vector), _needed(vector, digest, tracks), keys)
    assert record.wrapped.hex() == vector["wrapped"]
    assert [t.kid.hex() for t in record.tracks] == [t["kid"] for t in vector["tracks"]]
    opened = unwrap_keys(keys.kek, keys.k_fp, decode(encode(record), KeyRecord))
    assert [(k.cek.reveal().hex(), k.iv.reveal().hex()) for k in opened] == [
        (t["cek"], t["iv"]) for t in vector["tracks"]
    ]


def _keys(vector):
    organization = vector["organization"]
    return Keys(
        prk=Secret(second.prk_of(bytes.fromhex(vector["root"]), organization, vector["root_version"])),
        k_fp=Secret(second.k_fp_of(bytes.fromhex(vector["first_root"]), organization)),
        kek=Secret(bytes.fromhex(vector["kek"])),
        kek_epoch=vector["kek_epoch"],
    )


def _asset(vector):
    return AssetRecord(
        organization=vector["organization"],
        asset=vector["asset"],
        state=AssetState.ACTIVE,
        applied=LogPosition(generation=9, offset=9),
        policy_id=0,
        versions=(),
    )


def _needed(vector, digest, tracks):
    period = vector["period"]
    return Needed(
        record_key=key_set_key(vector["organization"], vector["asset"], digest),
        key_version=vector["key_version"],
        root_version=vector["root_version"],
        salt=_bytes(vector["salt"]),
        single_key=vector["single_key"],
        period=None if period is None else CryptoPeriod(index=period, start=vector["start"], end=vector["end"]),
        tracks=tracks,
        event=LogPosition(generation=vector["generation"], offset=vector["offset"]),
    )
