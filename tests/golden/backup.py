"""
Writes `tests/golden/backup-1.backup`: what format 1 of a backup looks like. Run once; the file is never made again.

    python -m tests.golden.backup

The identities that open it are numbers anybody knows, and its key file holds zeros.
"""

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from keymill.ops.backup_file import Header, OrganizationKeys, Saved, SavedRecord, SavedTopic, write_backup
from keymill.ops.recipients import Identity
from schemas.records import TopicAdopted

FILE = Path(__file__).with_name("backup-1.backup")
PEOPLE = [Identity(X25519PrivateKey.from_private_bytes(hashlib.sha256(name).digest())) for name in (b"a", b"b", b"c")]
TOPIC = "drm.services.v1"
HEADER = Header(
    created=1_800_000_000_000,
    keymill="0.1.0",
    recipients=tuple(each.recipient for each in PEOPLE),
    quorum=2,
    intake_epochs=(1,),
    organizations=(OrganizationKeys(organization="acme", root_versions=(1, 2), kek_epochs=(1,)),),
    topics=(SavedTopic(topic=TOPIC, topic_id="x", generation=3, partitions=2, ends=(4, 5), records=2),),
)
SAVED = Saved(
    key_file=b'{"format": 1}',
    adoptions=(TopicAdopted(topic=TOPIC, topic_id="x", generation=3, partitions=2, adopted=7),),
    records=(SavedRecord(TOPIC, 0, 3, 9, b"acme/tv/1", b"v"), SavedRecord(TOPIC, 1, 4, 9, b"acme/tv/2", None)),
)

if __name__ == "__main__":
    write_backup(FILE, HEADER, SAVED)
