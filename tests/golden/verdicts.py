"""
Valid and broken records with the verdict that a reader must give, written with bare fastavro and by hand.

`records.json`: one value per line of thought, read as one record type. `events.json`: whole Kafka records of the
asset topic, with key, partition and headers, as the processor meets them.
"""

import io
import json
from pathlib import Path

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

from tests.golden import second

SCHEMAS = Path(__file__).parents[2] / "schemas"
PARTITIONS = 12
NOW = 1_800_000_000_000
OK = {"verdict": "accepted"}


def definition_of(name):
    """A schema file as it is, parsed as JSON."""
    return json.loads((SCHEMAS / f"{name}.avsc").read_text())


def header_of(name):
    """The single-object header of a schema file."""
    return b"\xc3\x01" + bytes.fromhex(fingerprint(to_parsing_canonical_form(definition_of(name)), "CRC-64-AVRO"))


def body_of(name, value):
    """The Avro body of plain dicts."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(definition_of(name)), value)
    return out.getvalue()


def framed(name, value):
    """Header and body."""
    return header_of(name) + body_of(name, value)


def position(offset, generation=0):
    """A log position."""
    return {"generation": generation, "offset": offset}


def ingested(**body):
    """An ingest event of demo/bbb; every field may be given."""
    empty = dict.fromkeys(
        "tracks schemes single_key key_version policy_id product_id available_from available_until salt periods".split()
    )
    return event("AssetIngested", **(empty | body))


def event(branch, **body):
    """An event of demo/bbb with that body."""
    return {
        "organization": body.pop("organization", "demo"),
        "asset": body.pop("asset", "bbb"),
        "event_id": body.pop("event_id", None),
        "request_hash": body.pop("request_hash", None),
        "event_time": body.pop("event_time", NOW),
        "body": (f"keymill.{branch}", body),
    }


def track(label, scheme=None, kid=None, imported=None):
    """A wish."""
    return {"label": label, "scheme": scheme, "kid": kid, "imported": imported}


def key_record():
    """A key record that is well formed (its keys open nowhere)."""
    return {
        "kek_epoch": 3,
        "tracks": [{"kid": b"k" * 16, "fp": b"f" * 16, "label": "SD", "scheme": "cbcs", "origin": "DERIVED"}],
        "wrapped": b"w" * 48,
        "organization": "demo",
        "asset": "bbb",
        "key_version": 1,
        "root_version": 1,
        "period": {"index": 5, "start": 50_000, "end": 60_000},
        "event": position(12, 1),
    }


def asset_record():
    """An asset record with every field in use."""
    tracks = [{"label": "SD", "scheme": "cbcs", "declared": True, "kid": None}]
    version = {
        "key_version": 1,
        "root_version": 1,
        "salt": b"s" * 16,
        "single_key": False,
        "schemes": ["cbcs", "cenc"],
        "created": position(3),
        "key_sets": [{"digest": b"d" * 16, "at": position(3), "tracks": tracks}],
        "live": {
            "period_s": 10,
            "start": NOW,
            "from_index": 0,
            "through_index": 9,
            "at": position(4),
            "tracks": [tracks[0] | {"declared": False}],
        },
    }
    return {
        "organization": "demo",
        "asset": "bbb",
        "state": "REVOKED",
        "applied": position(77),
        "policy_id": 2**40,
        "product_id": "gold",
        "available_from": 0,
        "available_until": NOW,
        "versions": [version],
        "recent": [{"event_id": "e-1", "request_hash": b"h" * 32, "at": position(3), "timestamp": NOW}],
    }


def records():
    """Values with the verdict of the codec."""
    good = framed("asset_event", ingested(tracks=[track("SD"), track("HD", "cenc")], event_id="e-1", salt=b"s" * 16))
    key, asset = framed("key_record", key_record()), framed("asset_record", asset_record())
    empty = header_of("asset_event")
    text = b"\x08demo\x06bbb\x00\x00\x00"
    cases = [
        _case("an ingest event", "AssetEvent", good, OK),
        _case("a key record", "KeyRecord", key, OK),
        _case("an asset record", "AssetRecord", asset, OK),
        _case("no bytes", "AssetEvent", b"", _bad("value")),
        _case("a header alone", "AssetEvent", empty, _bad("organization")),
        _case("the last byte is missing", "AssetEvent", good[:-1], _bad("periods")),
        _case("half a key record", "KeyRecord", key[: len(key) // 2], _bad("wrapped")),
        _case("half an asset record", "AssetRecord", asset[: len(asset) // 2], _bad("versions.key_sets.digest")),
        _case("a byte too many", "AssetEvent", good + b"\x00", _bad("value")),
        _case("a key record and a byte", "KeyRecord", key + b"\x00", _bad("value")),
        _case("an unknown fingerprint", "AssetEvent", good[:2] + bytes(8) + good[10:], _bad("value")),
        _case("another record's fingerprint", "AssetEvent", key, _bad("value")),
        _case("not Avro", "AssetEvent", b'{"organization":"demo"}', _bad("value")),
        _case("a string of 2^62 bytes", "AssetEvent", empty + b"\xfe" + b"\xff" * 8 + b"\x01", _bad("organization")),
        _case("a string of -1 bytes", "AssetEvent", empty + b"\x01", _bad("organization")),
        _case(
            "a string that is not UTF-8", "AssetEvent", empty + b"\x08\xff\xfe\xfd\xfc" + text[5:], _bad("organization")
        ),
        _case("a number of 200 bytes", "AssetEvent", empty + b"\x80" * 200 + b"\x01", _bad("organization")),
        _case("a body of no known branch", "AssetEvent", empty + text + b"\x10", _bad("body")),
        _case("a body of branch -1", "AssetEvent", empty + text + b"\x01\x00", _bad("body")),
        _case(
            "an array of 2^62 tracks",
            "KeyRecord",
            header_of("key_record") + b"\x06\xfe" + b"\xff" * 8 + b"\x01",
            _bad("tracks"),
        ),
        _case(
            "an enum symbol that is none", "AssetRecord", asset.replace(b"\x06bbb\x02", b"\x06bbb\x04"), _bad("state")
        ),
        _case(
            "an enum symbol of index -1", "AssetRecord", asset.replace(b"\x06bbb\x02", b"\x06bbb\x01"), _bad("state")
        ),
    ]
    return cases + [
        _case(*given[:1], "AssetEvent", framed("asset_event", given[1]), _bad(given[2])) for given in _ranges()
    ]


def _ranges():
    """Events whose values are of the right type and out of range, with the field that the verdict names."""
    wish = [track("SD")]
    span = {"first_index": 0, "count": 1, "period_s": 10, "start": None}
    imported = {"intake_epoch": 1, "wrapped": b"w" * 47, "fp": b"f" * 16}
    return [
        ("an empty organization", ingested(organization=""), "organization"),
        ("an organization in capitals", ingested(organization="Demo"), "organization"),
        ("an organization of 64 characters", ingested(organization="a" * 64), "organization"),
        ("an organization that starts with -", ingested(organization="-a"), "organization"),
        ("an empty asset id", ingested(asset=""), "asset"),
        ("an asset id of 129 characters", ingested(asset="a" * 129), "asset"),
        ("an asset id with a slash", ingested(asset="a/b"), "asset"),
        ("an asset id with a line feed", ingested(asset="a\n"), "asset"),
        ("an asset id beyond ASCII", ingested(asset="müller"), "asset"),
        ("an asset id in the reserved spelling", ingested(asset="hex:616263"), "asset"),
        ("an empty event id", ingested(event_id=""), "event_id"),
        ("an event id of 129 characters", ingested(event_id="e" * 129), "event_id"),
        ("a negative event time", ingested(event_time=-1), "event_time"),
        ("an event time in nanoseconds", ingested(event_time=NOW * 10**6), "event_time"),
        ("no tracks", ingested(tracks=[]), "tracks"),
        ("65 tracks", ingested(tracks=wish * 65), "tracks"),
        ("no schemes", ingested(schemes=[]), "schemes"),
        ("an unknown label", ingested(tracks=[track("8K")]), "tracks.label"),
        ("a label in small letters", ingested(tracks=[track("hd")]), "tracks.label"),
        ("an empty label", ingested(tracks=[track("")]), "tracks.label"),
        ("a label twice in a union", ingested(tracks=[track("HD+HD")]), "tracks.label"),
        ("ALL with another label", ingested(tracks=[track("ALL+HD")]), "tracks.label"),
        ("an imported key of 47 bytes", ingested(tracks=[track("SD", imported=imported)]), "tracks.imported.wrapped"),
        ("key version 0", ingested(key_version=0), "key_version"),
        ("a negative policy id", ingested(policy_id=-1), "policy_id"),
        ("a policy id beyond 2^53", ingested(policy_id=2**53), "policy_id"),
        ("an ill-formed product id", ingested(product_id="a b"), "product_id"),
        ("a salt of 15 bytes", ingested(salt=b"s" * 15), "salt"),
        ("a salt of 65 bytes", ingested(salt=b"s" * 65), "salt"),
        ("a window that ends before it starts", ingested(available_from=2, available_until=1), "available_until"),
        ("a window after the year 9999", ingested(available_until=2**62), "available_until"),
        ("a negative period", ingested(periods=span | {"first_index": -1}), "periods.first_index"),
        ("no periods", ingested(periods=span | {"count": 0}), "periods.count"),
        ("1001 periods", ingested(periods=span | {"count": 1001}), "periods.count"),
        ("periods of no length", ingested(periods=span | {"period_s": 0}), "periods.period_s"),
        ("periods from before 1970", ingested(periods=span | {"start": -1}), "periods.start"),
        ("rotation to version 0", event("KeysRotated", to_version=0, salt=None), "to_version"),
        ("an assigned policy below 0", event("PolicyAssigned", policy_id=-1), "policy_id"),
        ("a reason of 513 characters", event("AssetRevoked", reason="r" * 513), "reason"),
    ]


def events():
    """Records of the asset topic with the verdict of the processor; key demo/bbb on its own partition unless said."""
    good = framed("asset_event", ingested(tracks=[track("SD")]))
    confluent = b"\x00" + (7).to_bytes(4, "big") + body_of("asset_event", ingested())
    plain = {"organization": "demo", "asset": "bbb", "event_time": NOW, "body": {"type": "AssetIngested"}}
    wrong = (_home("demo/bbb") + 1) % PARTITIONS
    json_type = {"content-type": "application/json; charset=utf-8"}
    chosen = ingested(tracks=[track("SD", kid=b"k" * 16)])
    clock = ingested(periods={"first_index": 2**52, "count": 1, "period_s": 10, "start": NOW})
    return [
        _event("an ingest event", good, OK),
        _event("24 h ahead", framed("asset_event", ingested(event_time=NOW + 86_400_000)), OK),
        _event("a Confluent frame with a known schema", confluent, OK),
        _event("JSON with its content type", json.dumps(plain).encode(), OK, headers=json_type),
        _event("a null key", good, _no("null_key", "key"), key=None),
        _event("an empty key", good, _no("key_mismatch", "key"), key=""),
        _event("another asset's key", good, _no("key_mismatch", "key"), key="demo/ccc"),
        _event("a wrong partition", good, _no("wrong_partition", "partition"), partition=wrong),
        _event("a null value", None, _no("null_value", "value")),
        _event("unreadable Avro", good[:-1], _no("invalid_record", "periods")),
        _event(
            "more than 24 h ahead",
            framed("asset_event", ingested(event_time=NOW + 86_400_001)),
            _no("invalid_record", "event_time"),
        ),
        _event(
            "seconds for milliseconds later",
            framed("asset_event", ingested(event_time=NOW * 1000)),
            _no("invalid_record", "event_time"),
        ),
        _event(
            "an unknown organization",
            framed("asset_event", ingested(organization="nobody")),
            _no("unknown_organization", "organization"),
            key="nobody/bbb",
        ),
        _event(
            "a version that skips one",
            framed("asset_event", ingested(key_version=2)),
            _no("version_gap", "key_version"),
        ),
        _event(
            "a rotation of nothing",
            framed("asset_event", event("KeysRotated", to_version=2, salt=None)),
            _no("unknown_asset", "asset"),
        ),
        _event(
            "a revocation of nothing",
            framed("asset_event", event("AssetRevoked", reason=None)),
            _no("unknown_asset", "asset"),
        ),
        _event("a chosen KID", framed("asset_event", chosen), OK),
        _event(
            "a key without its KID",
            framed("asset_event", ingested(tracks=[track("SD", imported=_IMPORTED)])),
            _no("invalid_record", "tracks.kid"),
        ),
        _event(
            "a key that does not open",
            framed("asset_event", ingested(tracks=[track("SD", kid=b"k" * 16, imported=_IMPORTED)])),
            _no("imported_key", "tracks.imported"),
        ),
        _event(
            "a chosen KID for crypto periods",
            framed("asset_event", ingested(tracks=[track("SD", kid=b"k" * 16)], periods=_PERIODS)),
            _no("kid_with_periods", "tracks.kid"),
        ),
        _event(
            "one KID for clear-key HLS and a protected track",
            framed("asset_event", ingested(tracks=[track("SD", kid=b"k" * 16), track("HLS_AES128", kid=b"k" * 16)])),
            _no("clear_key_shared", "tracks.kid"),
        ),
        _event("periods beyond the calendar", framed("asset_event", clock), _no("invalid_record", "periods")),
        _event("JSON without its content type", json.dumps(plain).encode(), _no("invalid_record", "value")),
        _event(
            "another content type", good, _no("invalid_record", "content-type"), headers={"Content-Type": "text/xml"}
        ),
        _event("JSON that is none", b"{", _no("invalid_record", "value"), headers=json_type),
        _event(
            "JSON nested without end",
            b'{"organization":' + b"[" * 2000,
            _no("invalid_record", "organization"),
            headers=json_type,
        ),
        _event(
            "JSON with a wrong type",
            _json(plain | {"event_time": "now"}),
            _no("invalid_record", "event_time"),
            headers=json_type,
        ),
        _event(
            "JSON without the asset",
            _json({k: v for k, v in plain.items() if k != "asset"}),
            _no("invalid_record", "asset"),
            headers=json_type,
        ),
        _event(
            "JSON with an unknown field",
            _json(plain | {"body": {"type": "AssetIngested", "key_verson": 2}}),
            _no("invalid_record", "key_verson"),
            headers=json_type,
        ),
        _event(
            "JSON with an unknown scheme",
            _json(plain | {"body": {"type": "AssetIngested", "schemes": ["aes"]}}),
            _no("invalid_record", "schemes"),
            headers=json_type,
        ),
        _event(
            "JSON with an unknown body",
            _json(plain | {"body": {"type": "AssetDeleted"}}),
            _no("invalid_record", "type"),
            headers=json_type,
        ),
        _event(
            "a Confluent frame with an unknown id",
            b"\x00\x00\x00\x00\x09" + confluent[5:],
            _no("invalid_record", "value"),
        ),
        _event("half a Confluent header", b"\x00\x00", _no("invalid_record", "value")),
    ]


_IMPORTED = {"intake_epoch": 1, "wrapped": b"w" * 48, "fp": b"f" * 16}
_PERIODS = {"first_index": 0, "count": 1, "period_s": 10, "start": NOW}


def _json(value):
    return json.dumps(value).encode()


def _home(key):
    return (second.murmur2(key.encode()) & 0x7FFFFFFF) % PARTITIONS


def _case(name, record, value, verdict):
    return {"name": name, "record": record, "value": value.hex(), **verdict}


def _event(name, value, verdict, *, key="demo/bbb", partition=None, headers=None):
    return {
        "name": name,
        "key": key,
        "partition": (_home(key or "") if partition is None else partition),
        "headers": headers or {},
        "value": None if value is None else value.hex(),
        **verdict,
    }


def _bad(field):
    return {"verdict": "invalid_record", "field": field}


def _no(reason, field):
    return {"verdict": reason, "field": field}
