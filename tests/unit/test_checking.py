"""Before a backup is trusted: every wrapped secret opens with the keys that lie beside it."""

import base64
from pathlib import Path

import pytest

from keymill.core.credentials import ncp_identity, signer_identity, token_key_identity
from keymill.core.envelope import wrap_secret
from keymill.kms.keyfile import KeyFile, add_organization, create_key_file
from keymill.kms.keyfile_format import Content, read_file
from keymill.ops.backup_file import SavedRecord
from keymill.ops.checking import problems
from keymill.secret import Secret
from schemas import topics
from schemas.access import ApiKey, Credential, NcpKey, TokenKey, WidevineSigner
from schemas.codec import encode

SECRET = b"0123456789abcdef0123456789abcdef"


@pytest.fixture
def content(tmp_path: Path) -> Content:
    """A key file with one organization."""
    create_key_file(tmp_path / "keys.json")
    add_organization(tmp_path / "keys.json", "acme")
    return read_file(tmp_path / "keys.json")[0]


def saved(body: ApiKey | NcpKey | WidevineSigner | TokenKey, organization: str = "acme") -> SavedRecord:
    credential = Credential(organization=organization, credential="x", revoked=False, created=1, label="", body=body)
    return SavedRecord(topics.CREDENTIALS.name, 0, 1, 1, f"{organization}/x".encode(), encode(credential))


def bodies(kek: Secret, epoch: int = 1) -> list[NcpKey | WidevineSigner | TokenKey]:
    secret, of_token = Secret(SECRET), token_key_identity("acme", "x", epoch)
    return [
        NcpKey(kek_epoch=epoch, wrapped=wrap_secret(kek, secret, *ncp_identity("acme", "x"))),
        WidevineSigner(kek_epoch=epoch, wrapped=wrap_secret(kek, secret, *signer_identity("acme", "x"))),
        TokenKey(algorithm="HS256", kek_epoch=epoch, wrapped=wrap_secret(kek, secret, *of_token)),
    ]


def test_what_belongs_together_has_no_problem(content: Content, tmp_path: Path) -> None:
    """Every kind of secret, and what has none."""
    kek = KeyFile(tmp_path / "keys.json").kek("acme", 1)
    wrapped = [saved(body) for body in bodies(kek)]
    plain = [saved(ApiKey(token_sha256=bytes(32))), saved(TokenKey(algorithm="EdDSA", public_pem="pem"))]
    assert [] == list(problems(content, [*wrapped, *plain]))


def test_what_does_not_is_named_without_the_secret(content: Content, tmp_path: Path) -> None:
    """Another installation's keys, an epoch that the file lacks, an organization without keys, an unreadable record."""
    own, foreign = KeyFile(tmp_path / "keys.json").kek("acme", 1), Secret(bytes(64))
    of_others = [text for body in bodies(foreign) for text in problems(content, [saved(body)])]
    assert ["credential x of acme does not open under KEK epoch 1: the key file is another installation's, or damaged"
            ] * 3 == of_others  # fmt: skip
    missing = [text for body in bodies(own, 2) for text in problems(content, [saved(body)])]
    assert ["credential x of acme is wrapped under KEK epoch 2, which the key file lacks"] * 3 == missing
    nobody = list(problems(content, [saved(ApiKey(token_sha256=bytes(32)), "globex")]))
    assert ["organization globex has credential x, but no keys in the key file"] == nobody
    junk = SavedRecord(topics.CREDENTIALS.name, 0, 1, 1, b"acme/x", b"junk")
    assert ["drm.credentials.v1 record acme/x is unreadable"] == list(problems(content, [junk]))
    told = " ".join(of_others + missing)
    assert not [s for s in (SECRET.decode(), SECRET.hex(), base64.b64encode(SECRET).decode()) if s in told]
