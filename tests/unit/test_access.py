"""Organizations, credentials and services before they reach a broker: what is written, and what is kept secret."""

import base64
import stat
from pathlib import Path

import pytest

from keymill.core.credentials import ncp_identity, signer_identity, token_digest
from keymill.core.envelope import unwrap_secret
from keymill.errors import Corrupt, InvalidRecord
from keymill.kms.keyring import Keyring
from keymill.ops import access, credentials, demo_organization
from keymill.ops.credentials import Created, Kind
from schemas import topics
from schemas.access import ApiKey, Credential, NcpKey, TokenKey, WidevineSigner
from schemas.codec import decode, encode
from tests.fakes import MemoryKms
from tests.view_records import credential, service


def made(kind: Kind, name: str = "") -> tuple[Credential, dict[str, str]]:
    """A new credential as its record, and what its owner is shown."""
    keyring = Keyring(MemoryKms(kek_epochs=(1, 3)))
    ident, body, shown = credentials._make(keyring, "demo", kind, name)
    return credentials._record("demo", ident, name, body), shown


def spellings(secret: bytes) -> list[bytes]:
    return [secret, secret.hex().encode(), base64.b64encode(secret), base64.urlsafe_b64encode(secret).rstrip(b"=")]


@pytest.mark.parametrize("kind", Kind)
def test_no_record_holds_what_its_owner_is_shown(kind: Kind) -> None:
    """In no spelling; and the record is read back as it was."""
    record, shown = made(kind, "packager")
    written = encode(record)
    assert record == decode(written, Credential)
    for name, value in shown.items():
        if name in ("ncp_access_key", "widevine_signer"):
            continue  # these are the names that a request carries in the clear
        secrets = spellings(value.encode()) + (spellings(bytes.fromhex(value)) if name.endswith("_hex") else [])
        assert not [secret for secret in secrets if secret in written]


@pytest.mark.parametrize("kind", Kind)
def test_two_credentials_share_nothing(kind: Kind) -> None:
    """Each is drawn; only a signer's name is chosen."""
    first, second = made(kind, "packager")[1], made(kind, "packager")[1]
    assert set() == {name for name in first if first[name] == second[name]} - {"widevine_signer"}


def test_an_api_key_is_known_by_its_hash() -> None:
    """Long enough that its hash says nothing."""
    record, shown = made(Kind.API_KEY)
    assert ApiKey(token_sha256=token_digest(shown["api_key"])) == record.body
    assert len(base64.urlsafe_b64decode(shown["api_key"] + "==")) >= 32


def test_secrets_are_wrapped_under_the_newest_epoch_and_bound_to_their_name() -> None:
    """A gateway opens them with the organization's KEK, and under no other name."""
    kms = MemoryKms()
    record, shown = made(Kind.NCP)
    assert isinstance(record.body, NcpKey) and 3 == record.body.kek_epoch
    name = ncp_identity("demo", record.credential)
    opened = unwrap_secret(kms.kek("demo", 3), record.body.wrapped, *name)
    assert (shown["ncp_access_key"], shown["ncp_secret_key"].encode()) == (record.credential, opened.reveal())
    assert (20, 40) == (len(shown["ncp_access_key"]), len(shown["ncp_secret_key"]))
    signer, shown = made(Kind.WIDEVINE_SIGNER, "packager")
    assert isinstance(signer.body, WidevineSigner)
    opened = unwrap_secret(kms.kek("demo", 3), signer.body.wrapped, *signer_identity("demo", "packager"))
    assert shown["widevine_key_hex"] + shown["widevine_iv_hex"] == opened.reveal().hex()
    for wrong in (signer_identity("demo", "other"), signer_identity("else", "packager")):
        with pytest.raises(Corrupt):
            unwrap_secret(kms.kek("demo", 3), signer.body.wrapped, *wrong)


@pytest.mark.parametrize("name", ["", "a/b", "self", "x" * 129])
def test_a_signer_has_a_name(name: str) -> None:
    """The packager sends it; `self` is the organization's own record."""
    with pytest.raises(InvalidRecord) as refused:
        made(Kind.WIDEVINE_SIGNER, name)
    assert "name" == refused.value.field


def test_a_credential_is_shown_once_and_in_no_log() -> None:
    """`told()` is for stdout; the repr, which an error or a log may hold, is not."""
    created = Created(organization="demo", credential="c-1", kind=Kind.API_KEY, secrets={"api_key": "5ecret"})
    assert "5ecret" not in repr(created)
    expected = {"organization": "demo", "credential": "c-1", "kind": "api-key", "api_key": "5ecret"}
    assert expected == created.told()


def test_records_stand_where_every_reader_looks() -> None:
    """Under the record key of the catalogue; all of an organization's on one partition."""
    key, held = credential("portal-1")
    outgoing = access.record_of(held)
    assert (topics.CREDENTIALS.name, key, encode(held)) == (outgoing.topic, outgoing.record_key, outgoing.value)
    key, configured = service("demo")
    outgoing = access.record_of(configured)
    assert (topics.SERVICES.name, key, encode(configured)) == (outgoing.topic, outgoing.record_key, outgoing.value)
    places = {
        topics.partition_of(topics.CREDENTIALS, access.record_of(credential(f"c-{n}")[1]).record_key, 12)
        for n in range(50)
    }
    assert 1 == len(places)
    assert isinstance(held.body, TokenKey)


def test_the_demos_credentials_are_its_users_alone(tmp_path: Path) -> None:
    """Mode 0600, also after a crash that left another file behind."""
    path = tmp_path / demo_organization.FILE
    path.with_suffix(".new").write_text("left by a crash")
    path.with_suffix(".new").chmod(0o644)
    known = {"api-key": {"credential": "c-1", "api_key": "5ecret"}}
    demo_organization._write(path, known)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert known == demo_organization._read(path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"null", b'{"api-key": 5}', b'{"api-key": null}', b'{"api-key": ["ab"]}', b"\xff"]
)
def test_damaged_demo_credentials_are_made_anew(tmp_path: Path, content: bytes) -> None:
    """They guard nothing but the demo: whatever stands in the file, `keymill up` starts."""
    path = tmp_path / demo_organization.FILE
    path.write_bytes(content)
    known = demo_organization._read(path)
    assert all("credential" not in entry for entry in known.values())
    assert {} == demo_organization._read(tmp_path / "none")
