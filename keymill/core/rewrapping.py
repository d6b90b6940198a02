"""
The only rewrite of a key record: the same keys under a higher KEK epoch (ARCHITECTURE.md, step 4).

Every key is checked against its fingerprint on the way, so what could not be served is not passed on either.
"""

import msgspec

from keymill.core.envelope import unwrap_keys, wrap_keys
from keymill.secret import Secret
from schemas.records import KeyRecord


def rewrap(record: KeyRecord, *, held_under: Secret, kek: Secret, kek_epoch: int, k_fp: Secret) -> KeyRecord:
    """
    Return *record* with its keys wrapped under *kek*; nothing but `kek_epoch` and `wrapped` differs.

    Args:
        held_under: the KEK of the record's own epoch.
        kek_epoch: above the record's; what is wrapped under it already is no case for this.

    Raises:
        Corrupt: the record does not open, or holds another key than its fingerprint says.
    """
    if kek_epoch <= record.kek_epoch:
        raise ValueError("a key record is wrapped again under a higher epoch only")
    keys = unwrap_keys(held_under, k_fp, record)
    bare = msgspec.structs.replace(record, kek_epoch=kek_epoch, wrapped=b"")
    return msgspec.structs.replace(bare, wrapped=wrap_keys(kek, bare, keys))
