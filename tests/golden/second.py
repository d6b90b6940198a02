"""
The formulas of ARCHITECTURE.md a second time, from the standard library and bare AES alone.

Nothing here imports keymill: what the vectors in `schemas/golden` say comes from this file, and the product is
checked against them.
"""

import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC


def parts(*values):
    """Length-prefixed parts: text as UTF-8, numbers as 8 bytes, None as nothing."""
    plain = [_part(value) for value in values]
    return b"".join(struct.pack(">I", len(part)) + part for part in plain)


def _part(value):
    if isinstance(value, int):
        return struct.pack(">Q", value)
    return value.encode("utf-8") if isinstance(value, str) else value or b""


def mac(key, message):
    """HMAC-SHA-256."""
    return hmac.new(key, message, hashlib.sha256).digest()


def expand(prk, info, size):
    """HKDF-Expand of RFC 5869, section 2.3."""
    block, out, counter = b"", b"", 1
    while len(out) < size:
        block = mac(prk, block + info + bytes([counter]))
        out += block
        counter += 1
    return out[:size]


def prk_of(root, organization, root_version):
    """The PRK of an organization's root version."""
    return mac(root, parts("keymill/prk/v1", organization, root_version))


def k_fp_of(first_root, organization):
    """The fingerprint key of an organization."""
    return mac(first_root, parts("keymill/fp/v1", organization))


def key_of(prk, ident):
    """KID, CEK and IV of an identity: eight values in order."""
    preimage = parts(*ident)
    kid = bytearray(mac(prk, parts("keymill/kid/v1", preimage))[:16])
    kid[6] = kid[6] & 0x0F | 0x80
    kid[8] = kid[8] & 0x3F | 0x80
    kid = bytes(kid)
    cek = expand(prk, parts("keymill/cek/v1", preimage, kid), 16)
    iv = expand(prk, parts("keymill/iv/v1", preimage, kid), 16)
    return kid, cek, iv


def chosen_of(prk, organization, kid):
    """CEK and IV of a KID that the caller chose."""
    both = expand(prk, parts("keymill/chosen/v1", organization, kid), 32)
    return both[:16], both[16:]


def imported_iv_of(cek, organization, kid):
    """The IV of an imported key that came without one."""
    return mac(cek, parts("keymill/imported-iv/v1", organization, kid))[:16]


def imported_of(intake_kek, organization, kid, intake_epoch, cek, iv):
    """A key as its event carries it."""
    return siv_encrypt(intake_kek, cek + iv, [parts("keymill/intake/v1", organization, kid, intake_epoch)])


def fingerprint_of(k_fp, kid, cek):
    """What is published about a CEK."""
    return mac(k_fp, kid + cek)[:16]


def digest_of(organization, asset, key_version, root_version, salt, period, tracks):
    """Name of a key record; *tracks*: (label, scheme) in order, with the KID where the caller named it."""
    values = ["keymill/key-set/v1", organization, asset, key_version, root_version, salt, period]
    for label, scheme, *kid in tracks:
        values += [label, scheme, *(kid or [None])]
    return hashlib.sha256(parts(*values)).digest()[:16]


def associated_data_of(record, tracks):
    """The associated data of a key record; *tracks*: (KID, fp, label, scheme, origin) in order."""
    names = ("organization", "asset", "key_version", "root_version", "period", "start", "end", "generation", "offset")
    values = ["keymill/keys/v1", *(record[name] for name in names), record["kek_epoch"]]
    for track in tracks:
        values += list(track)
    return parts(*values)


def _cmac(key, message):
    state = CMAC(algorithms.AES(key))
    state.update(message)
    return state.finalize()


def _double(block):
    value = int.from_bytes(block, "big") << 1
    if value >> 128:
        value = value & (1 << 128) - 1 ^ 0x87
    return value.to_bytes(16, "big")


def _xor(left, right):
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def siv_encrypt(key, plaintext, associated):
    """AES-SIV of RFC 5297, section 2.6: the synthetic IV, then the ciphertext."""
    half = len(key) // 2
    state = _cmac(key[:half], bytes(16))
    for data in associated:
        state = _xor(_double(state), _cmac(key[:half], data))
    if len(plaintext) >= 16:
        last = plaintext[:-16] + _xor(plaintext[-16:], state)
    else:
        last = _xor(_double(state), (plaintext + b"\x80").ljust(16, b"\x00"))
    v = _cmac(key[:half], last)
    counter = bytearray(v)
    counter[8] &= 0x7F
    counter[12] &= 0x7F
    encryptor = Cipher(algorithms.AES(key[half:]), modes.CTR(bytes(counter))).encryptor()
    return v + encryptor.update(plaintext) + encryptor.finalize()


def murmur2(data):
    """Kafka's murmur2, after org.apache.kafka.common.utils.Utils, byte for byte."""
    mask, m, r = 0xFFFFFFFF, 0x5BD1E995, 24
    h = (0x9747B28C ^ len(data)) & mask
    for i in range(len(data) // 4):
        k = data[4 * i] | data[4 * i + 1] << 8 | data[4 * i + 2] << 16 | data[4 * i + 3] << 24
        k = k * m & mask
        k ^= k >> r
        k = k * m & mask
        h = h * m & mask ^ k
    rest = data[len(data) & ~3 :]
    if rest:
        for index in reversed(range(len(rest))):
            h ^= rest[index] << 8 * index
        h = h * m & mask
    h ^= h >> 13
    h = h * m & mask
    return h ^ h >> 15
