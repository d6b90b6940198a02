"""Whether what a backup holds belongs together: every wrapped secret opens with the keys beside it."""

import base64
from collections.abc import Iterable, Iterator

from keymill.core.credentials import ncp_identity, signer_identity, token_key_identity
from keymill.core.envelope import unwrap_secret
from keymill.core.identity import Part
from keymill.errors import Corrupt, InvalidRecord
from keymill.kms.keyfile_format import Content
from keymill.ops.backup_file import SavedRecord
from keymill.secret import Secret
from schemas import topics
from schemas.access import Credential, NcpKey, TokenKey, WidevineSigner
from schemas.codec import decode


def problems(content: Content, records: Iterable[SavedRecord]) -> Iterator[str]:
    """What would not work after a restore, a sentence each; no keys in it."""
    keks = {
        (name, kek.epoch): Secret(base64.b64decode(kek.key))
        for name, group in content.organizations.items()
        for kek in group.keks
    }
    for each in records:
        if each.topic != topics.CREDENTIALS.name:
            continue
        try:
            record = decode(each.value or b"", Credential)
        except InvalidRecord:
            yield f"{each.topic} record {each.record_key.decode('ascii', 'replace')} is unreadable"
            continue
        if record.organization not in content.organizations:
            yield f"organization {record.organization} has credential {record.credential}, but no keys in the key file"
        elif wrapped := _wrapped(record):
            yield from _unopened(record, keks, *wrapped)


def _unopened(
    record: Credential, keks: dict[tuple[str, int], Secret], epoch: int, wrapped: bytes, identity: tuple[Part, ...]
) -> Iterator[str]:
    kek = keks.get((record.organization, epoch))
    name = f"credential {record.credential} of {record.organization}"
    if kek is None:
        yield f"{name} is wrapped under KEK epoch {epoch}, which the key file lacks"
        return
    try:
        unwrap_secret(kek, wrapped, *identity)
    except Corrupt:
        yield f"{name} does not open under KEK epoch {epoch}: the key file is another installation's, or damaged"


def _wrapped(record: Credential) -> tuple[int, bytes, tuple[Part, ...]] | None:
    """(KEK epoch, wrapped secret, its identity) of a credential that has one."""
    own = record.organization, record.credential
    match record.body:
        case NcpKey(kek_epoch=epoch, wrapped=wrapped):
            return epoch, wrapped, ncp_identity(*own)
        case WidevineSigner(kek_epoch=epoch, wrapped=wrapped):
            return epoch, wrapped, signer_identity(*own)
        case TokenKey(kek_epoch=int(epoch), wrapped=bytes(wrapped)):
            return epoch, wrapped, token_key_identity(*own, epoch)
    return None
