"""
Writes the vectors in `schemas/golden`, from the second implementation alone: `python -m tests.golden.make`.

A test compares the files with what this gives, so a vector can neither drift nor be edited by hand. Vectors that
were released never change: a change of `keys.json` would be a change of every key there is.
"""

import hashlib
import json
from pathlib import Path

from tests.golden import second, verdicts

FOLDER = Path(__file__).parents[2] / "schemas" / "golden"
LABELS = ("SD", "HD", "UHD1", "UHD2", "AUDIO", "HLS_AES128", "HD+UHD1", "STEREO_AUDIO")
SCHEMES = ("cbcs", "cenc", "cens", "cbc1")
JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}
"""Source: Apache Kafka, clients/src/test/java/org/apache/kafka/common/utils/UtilsTest.java."""


def material(name, size):
    """Bytes that anyone can make again."""
    return hashlib.shake_256(f"keymill golden {name}".encode()).digest(size)


def keys():
    """100 key records of one to five tracks: inputs and everything that follows from them."""
    return [_key_record(index) for index in range(100)]


def _key_record(index):
    organization, asset = ("demo", "studio-7", "a" * 63)[index % 3], _asset(index)
    root_version, key_version, kek_epoch = 1 + index % 4, 1 + index % 7, 1 + index % 5
    root, first = material(f"{organization} root {root_version}", 32), material(f"{organization} root 1", 32)
    kek = material(f"{organization} kek {kek_epoch}", 64)
    salt = material(f"salt {index}", (16, 32, 64)[index % 3]) if index % 5 == 0 else None
    period = index * 1000 if index % 6 == 0 else None
    clock = period is not None and index % 12 == 0
    single = index % 4 == 1
    tracks = [(LABELS[(index + i) % 8], SCHEMES[(index // 2 + i) % 4]) for i in range(1 + index % 5)]
    prk, k_fp = second.prk_of(root, organization, root_version), second.k_fp_of(first, organization)
    made = []
    for label, scheme in tracks:
        shared = "*" if single and label != "HLS_AES128" else label
        ident = (organization, asset, key_version, period, scheme, shared, root_version, salt)
        kid, cek, iv = second.key_of(prk, ident)
        made.append((label, scheme, kid, cek, iv, second.fingerprint_of(k_fp, kid, cek)))
    record = {
        "organization": organization,
        "asset": asset,
        "key_version": key_version,
        "root_version": root_version,
        "period": period,
        "start": 1_700_000_000_000 + period * 10_000 if clock else None,
        "end": 1_700_000_000_000 + (period + 1) * 10_000 if clock else None,
        "generation": index % 2,
        "offset": index * index * 997,
        "kek_epoch": kek_epoch,
    }
    associated = second.associated_data_of(record, [(kid, fp, lb, s, "DERIVED") for lb, s, kid, _, _, fp in made])
    wrapped = second.siv_encrypt(kek, b"".join(cek + iv for *_, cek, iv, _ in made), [associated])
    names = ("label", "scheme", "kid", "cek", "iv", "fp")
    return record | {
        "salt": salt.hex() if salt else None,
        "single_key": single,
        "root": root.hex(),
        "first_root": first.hex(),
        "kek": kek.hex(),
        "digest": second.digest_of(organization, asset, key_version, root_version, salt, period, tracks).hex(),
        "tracks": [dict(zip(names, [v if isinstance(v, str) else v.hex() for v in t], strict=True)) for t in made],
        "wrapped": wrapped.hex(),
    }


def chosen():
    """20 key records of a derived, a chosen and an imported track each, and the imported key as it travels."""
    return [_mixed_record(index) for index in range(20)]


def _mixed_record(index):
    organization, asset, root_version, intake_epoch = (
        ("demo", "studio-7")[index % 2],
        _asset(index),
        1 + index % 3,
        1 + index % 2,
    )
    root, first = material(f"{organization} root {root_version}", 32), material(f"{organization} root 1", 32)
    prk, k_fp = second.prk_of(root, organization, root_version), second.k_fp_of(first, organization)
    kek, intake_kek = material(f"{organization} kek 1", 64), material(f"intake kek {intake_epoch}", 64)
    kids = [material(f"{name} kid {index}", 16) for name in ("chosen", "imported")]
    cek = material(f"imported cek {index}", 16)
    iv = second.imported_iv_of(cek, organization, kids[1]) if index % 4 == 0 else material(f"imported iv {index}", 16)
    keys = [
        second.key_of(prk, (organization, asset, 1, None, "cbcs", "SD", root_version, None)),
        (kids[0], *second.chosen_of(prk, organization, kids[0])),
        (kids[1], cek, iv),
    ]
    record = {
        "organization": organization,
        "asset": asset,
        "key_version": 1,
        "root_version": root_version,
        "period": None,
        "start": None,
        "end": None,
        "generation": 0,
        "offset": index,
        "kek_epoch": 1,
    }
    names = (("SD", "cbcs", "DERIVED"), ("HD", "cenc", "CHOSEN"), ("AUDIO", "cbcs", "IMPORTED"))
    fps = [second.fingerprint_of(k_fp, kid, key) for kid, key, _ in keys]
    tracks = [(kid, fp, *name) for (kid, _, _), fp, name in zip(keys, fps, names, strict=True)]
    wrapped = second.siv_encrypt(
        kek, b"".join(key + iv for _, key, iv in keys), [second.associated_data_of(record, tracks)]
    )
    named = [("SD", "cbcs"), ("HD", "cenc", kids[0]), ("AUDIO", "cbcs", kids[1])]
    return record | {
        "root": root.hex(),
        "first_root": first.hex(),
        "kek": kek.hex(),
        "intake_epoch": intake_epoch,
        "intake_kek": intake_kek.hex(),
        "iv_given": index % 4 != 0,
        "intake_wrapped": second.imported_of(intake_kek, organization, kids[1], intake_epoch, cek, iv).hex(),
        "digest": second.digest_of(organization, asset, 1, root_version, None, None, named).hex(),
        "tracks": [
            {
                "kid": kid.hex(),
                "cek": key.hex(),
                "iv": one.hex(),
                "fp": fp.hex(),
                "label": name[0],
                "scheme": name[1],
                "origin": name[2],
            }
            for (kid, key, one), fp, name in zip(keys, fps, names, strict=True)
        ],
        "wrapped": wrapped.hex(),
    }


def _asset(index):
    return (f"title-{index:03d}", f"urn:show~{index}@s01.e{index}", "x" * 128, "hex:" + material("id", 16).hex())[
        index % 4
    ]


def partitions():
    """Kafka's own vectors, lengths 0 to 24, and record keys of every topic."""
    given = [{"key_hex": k.hex(), "hash": v & 0xFFFFFFFF, "source": "Apache Kafka UtilsTest"} for k, v in JAVA.items()]
    given.append({"key_hex": b"TT0124".hex(), "hash": 0xAA07CF36, "source": "tulios/kafkajs issue 1154"})
    made = [material(f"key {size}", size) for size in range(25)]
    given += [{"key_hex": key.hex(), "hash": second.murmur2(key), "source": "second implementation"} for key in made]
    digest = "00112233445566778899aabbccddeeff"
    keys_by_topic = (
        ("drm.assets.v1", "demo/bbb", "demo/bbb"),
        ("drm.keys.v1", "demo/bbb", "demo/bbb"),
        ("drm.keys.v1", f"demo/bbb/k/{digest}", "demo/bbb"),
        ("drm.claims.v1", f"demo/{digest}", f"demo/{digest}"),
        ("drm.policy-changes.v1", "demo", "demo"),
        ("drm.policies.v1", "demo/17", "demo"),
        ("drm.entitlements.v1", "demo/user@example.org/gold", "demo/user@example.org"),
        ("drm.services.v1", "demo/web/1.0", "demo"),
        ("drm.credentials.v1", "demo/self", "demo"),
        ("drm.adoptions.v1", "topic/drm.keys.v1", "topic/drm.keys.v1"),
        ("drm.status.v1", "proxy-1", "proxy-1"),
        ("drm.audit.v1", "proxy-1", "proxy-1"),
        ("drm.decisions.v1", "proxy-1", "proxy-1"),
        ("drm.requests.v1", "demo/bbb", "demo/bbb"),
    )
    topics = [
        {
            "topic": topic,
            "record_key": record_key,
            "partition_key": part,
            "partitions": count,
            "partition": (second.murmur2(part.encode()) & 0x7FFFFFFF) % count,
        }
        for topic, record_key, part in keys_by_topic
        for count in (12, 24)
    ]
    return {"murmur2": given, "topics": topics}


def ids():
    """Names with what they are: an organization, an asset id, a content id with its asset id."""
    content = (
        b"bbb",
        b"A.b_c~d:e@f-g",
        b"x" * 128,
        b"\x00",
        b"a b",
        b"a/b",
        b"hex:61",
        b"hex:",
        "ü".encode(),
        b"z" * 61 + b" ",
    )
    return {
        "organizations": {
            "valid": ["a", "0", "demo", "studio-7", "a" * 63, "a-", "a--b"],
            "invalid": ["", "-", "-a", "A", "a_b", "a.b", "a" * 64, "a\n", "a/b", "ä"],
        },
        "assets": {
            "valid": [
                "a",
                "-",
                "~",
                ".",
                "A.b_c~d:e@f-g",
                "x" * 128,
                "HEX:61",
                "hexa",
                "hex:00",
                "hex:6120",
                "hex:6865783a",
            ],
            "invalid": [
                "",
                "a b",
                "a/b",
                "a\n",
                "x" * 129,
                "ü",
                "a%2Fb",
                "hex:",
                "hex:6",
                "hex:61",
                "hex:6G",
                "hex:0A",
                "hex:zz",
            ],
        },
        "content_ids": [{"content_id": given.hex(), "asset": _asset_of(given)} for given in content],
        "content_ids_refused": ["", (b" " * 63).hex(), (b"x" * 129).hex()],
        "record_keys": {
            "asset": ["demo", "bbb", "demo/bbb"],
            "key_set": [
                "demo",
                "bbb",
                "00112233445566778899aabbccddeeff",
                "demo/bbb/k/00112233445566778899aabbccddeeff",
            ],
        },
    }


def _asset_of(content_id):
    """Design 2: bytes that are an asset id are it; any other becomes hex: and its hex digits."""
    allowed = set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~:@-")
    if set(content_id) <= allowed and not content_id.startswith(b"hex:"):
        return content_id.decode()
    return "hex:" + content_id.hex()


MADE = (keys, chosen, partitions, ids, verdicts.records, verdicts.events)


def written():
    """Each file with its text."""
    return {f"{made.__name__}.json": json.dumps(made(), indent=1) + "\n" for made in MADE}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in written().items():
        (FOLDER / name).write_text(text)
