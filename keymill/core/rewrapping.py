"""
The only rewrite of a key record, and of a credential's secret: the same under a higher KEK epoch.

Every key is checked against its fingerprint on the way, so what could not be served is not passed on either
(ARCHITECTURE.md, step 4).
"""

from collections.abc import Callable

import msgspec

from keymill.core.credentials import ncp_identity, signer_identity, token_key_identity
from keymill.core.envelope import unwrap_keys, unwrap_secret, wrap_keys, wrap_secret
from keymill.core.identity import Part
from keymill.secret import Secret
from schemas.access import Credential, NcpKey, TokenKey, WidevineSigner
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


def credential_epoch(record: Credential) -> int | None:
    """The KEK epoch that a credential's secret is wrapped under; None when it carries none."""
    match record.body:
        case NcpKey(kek_epoch=epoch) | WidevineSigner(kek_epoch=epoch):
            return epoch
        case TokenKey(kek_epoch=epoch, wrapped=wrapped):
            return epoch if wrapped is not None else None
        case _:
            return None


def rewrap_credential(record: Credential, *, kek_of: Callable[[int], Secret], kek_epoch: int) -> Credential:
    """
    Return *record* with its secret wrapped under the KEK of *kek_epoch*; nothing else differs.

    Raises:
        Corrupt: the secret does not open.
    """
    body = record.body
    if not isinstance(body, NcpKey | WidevineSigner | TokenKey) or body.kek_epoch is None or body.wrapped is None:
        raise ValueError("the credential carries no wrapped secret")
    before, after = (_identity(record, epoch) for epoch in (body.kek_epoch, kek_epoch))
    secret = unwrap_secret(kek_of(body.kek_epoch), body.wrapped, *before)
    wrapped = wrap_secret(kek_of(kek_epoch), secret, *after)
    return msgspec.structs.replace(record, body=msgspec.structs.replace(body, kek_epoch=kek_epoch, wrapped=wrapped))


def _identity(record: Credential, kek_epoch: int) -> tuple[Part, ...]:
    match record.body:
        case NcpKey():
            return ncp_identity(record.organization, record.credential)
        case WidevineSigner():
            return signer_identity(record.organization, record.credential)
        case _:
            return token_key_identity(record.organization, record.credential, kek_epoch)
