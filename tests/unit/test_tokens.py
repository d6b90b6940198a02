"""Player tokens: what is accepted, and every way to be refused."""

import asyncio
import base64
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import lmdb
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keymill.core.credentials import token_key_identity
from keymill.core.envelope import wrap_secret
from keymill.errors import Misconfigured, Unavailable
from keymill.ops.token_keys import algorithm_of, key_id_of, read_public_key, signing_key
from keymill.proxy import single_use
from keymill.proxy.single_use import Use, UsedTokens
from keymill.secret import Secret
from tests.proxy_rig import ProxyRig, public_pem

DOCUMENT = Path(__file__).parents[2] / "docs" / "tokens.md"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyRig]:
    """One proxy for all; tests take names of their own."""
    made = ProxyRig(tmp_path_factory.mktemp("tokens"))
    made.ingest("film", "SD", "HD")
    yield made
    made.close()


@pytest.fixture
def rig(house: ProxyRig) -> ProxyRig:
    """The proxy, in contact with its brokers."""
    house.beat()
    return house


def ask(rig: ProxyRig, token: str, **options: object) -> tuple[int, str]:
    """Status and code of one request."""
    response = rig.clearkey("film", rig.kid("film"), token=token, **options)
    return response.status_code, "" if response.status_code == 200 else response.json()["code"]


def part(value: object) -> str:
    """One part of a token."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(**more: object) -> dict[str, object]:
    """Valid claims."""
    return {"organization": "demo", "asset": "film", "exp": time.time() + 60, **more}


INVALID = (401, "token_invalid")


def test_valid_token_is_accepted_twice(rig: ProxyRig) -> None:
    """Once verified it comes from the cache, and is checked all the same."""
    token = rig.token("film")
    assert (200, "") == ask(rig, token)
    assert (200, "") == ask(rig, token)


def test_token_is_needed(rig: ProxyRig) -> None:
    """401 with a challenge of its own code."""
    assert (401, "token_missing") == ask(rig, "")
    assert "Bearer" in rig.clearkey("film", rig.kid("film"), token="").headers["www-authenticate"]


@pytest.mark.parametrize("token", ["x", "..", "a.b.c", "a.b", "e30.e30.", "\0", "é", "a" * 5000, "e30.e30.AAAA.AAAA"])
def test_noise_is_invalid(rig: ProxyRig, token: str) -> None:
    """Nothing that is no token gets further."""
    assert INVALID == ask(rig, token)


def test_unsigned_tokens_are_refused(rig: ProxyRig) -> None:
    """alg none in every spelling, with and without a signature."""
    for name in ("none", "None", "NONE", "nOnE", "", None):
        for signature in ("", "AAAA"):
            assert INVALID == ask(rig, f"{part({'alg': name, 'kid': 'portal'})}.{part(claims())}.{signature}")


def test_algorithm_is_the_keys_own(rig: ProxyRig) -> None:
    """A public key is no HMAC secret, and no other algorithm is taken from the header."""
    pem = public_pem(rig.signers["demo"])
    head = {"alg": "HS256", "kid": "portal", "typ": "JWT"}
    body = f"{part(head)}.{part(claims())}"
    import hashlib
    import hmac

    for secret in (pem.encode(), pem.strip().encode(), b"", rig.signers["demo"].public_key().public_bytes_raw()):
        assert INVALID == ask(rig, f"{body}.{part(hmac.digest(secret, body.encode(), hashlib.sha256))}")
    key = ec.generate_private_key(ec.SECP256R1())
    assert INVALID == ask(rig, jwt.encode(claims(), key, algorithm="ES256", headers={"kid": "portal"}))


@pytest.mark.parametrize("member", ["jku", "x5u", "jwk", "x5c", "crit", "b64", "zip", "enc"])
def test_header_must_not_bring_a_key(rig: ProxyRig, member: str) -> None:
    """Even on a token that is signed right."""
    value = False if member == "b64" else ["exp"] if member == "crit" else "https://evil.example/key"
    token = f"{part({'alg': 'EdDSA', 'kid': 'portal', member: value})}.{part(claims())}"
    signature = rig.signers["demo"].sign(token.encode())
    assert INVALID == ask(rig, f"{token}.{part(signature)}")


@pytest.mark.parametrize(
    "kid",
    [
        "",
        None,
        7,
        "nobody",
        "../demo/portal",
        "portal/../portal",
        "other/portal",
        "/etc/passwd",
        "portal\0",
        "p" * 500,
        "' OR 1=1",
        "self",
    ],
)
def test_key_id_is_only_a_name(rig: ProxyRig, kid: object) -> None:
    """A key id that is no name, or nobody's, opens nothing."""
    token = f"{part({'alg': 'EdDSA', 'kid': kid})}.{part(claims())}"
    assert INVALID == ask(rig, f"{token}.{part(rig.signers['demo'].sign(token.encode()))}")


def test_changed_claims_are_refused(rig: ProxyRig) -> None:
    """The signature covers them."""
    head, body, signature = rig.token("film", tracks=["SD"]).split(".")
    assert INVALID == ask(rig, f"{head}.{part(claims())}.{signature}")
    assert INVALID == ask(rig, f"{head}.{body}.{part(bytes(64))}")


def test_key_of_another_organization_signs_nothing_here(rig: ProxyRig) -> None:
    """The claim, the key and the path must be of one organization."""
    foreign = jwt.encode(claims(), rig.signers["other"], algorithm="EdDSA", headers={"kid": "portal"})
    assert INVALID == ask(rig, foreign)
    assert (403, "wrong_organization") == ask(rig, rig.token("film", organization="other"))
    assert (403, "wrong_organization") == ask(rig, rig.token("film"), organization="other")


def test_times_hold(rig: ProxyRig) -> None:
    """Expired, not yet valid, and without an end: refused, each with its code."""
    assert (401, "token_expired") == ask(rig, rig.token("film", expires_in=-1))
    assert (401, "token_not_yet_valid") == ask(rig, rig.token("film", nbf=time.time() + 30))
    assert (200, "") == ask(rig, rig.token("film", nbf=time.time() - 30))
    for exp in (None, "soon", 1e300, -5, time.time() * 1000, True):
        assert INVALID == ask(rig, rig.token("film", exp=exp)), exp


def test_cached_token_expires(rig: ProxyRig) -> None:
    """A token that was verified before is refused once its time is over."""
    token = rig.token("film", expires_in=0.4)
    assert (200, "") == ask(rig, token)
    time.sleep(0.5)
    assert (401, "token_expired") == ask(rig, token)


def test_retired_key_ends_its_tokens(rig: ProxyRig) -> None:
    """At once, verified before or not."""
    key = ed25519.Ed25519PrivateKey.generate()
    rig.put_token_key("demo", "short", "EdDSA", public_pem(key))
    token = jwt.encode(claims(), key, algorithm="EdDSA", headers={"kid": "short"})
    assert (200, "") == ask(rig, token)
    rig.put_token_key("demo", "short", "EdDSA", public_pem(key), revoked=True)
    assert INVALID == ask(rig, token)
    assert INVALID == ask(rig, jwt.encode(claims(jti="x"), key, algorithm="EdDSA", headers={"kid": "short"}))


def test_all_three_algorithms(rig: ProxyRig) -> None:
    """EdDSA, ES256, and HS256 with a wrapped secret."""
    curve = ec.generate_private_key(ec.SECP256R1())
    rig.put_token_key("demo", "es", "ES256", public_pem(curve))
    assert (200, "") == ask(rig, jwt.encode(claims(), curve, algorithm="ES256", headers={"kid": "es"}))
    secret = b"s" * 32
    wrapped = wrap_secret(rig.keyring.kek("demo", 1), Secret(secret), *token_key_identity("demo", "hs", 1))
    rig.put_token_key("demo", "hs", "HS256", "", kek_epoch=1, wrapped=wrapped)
    assert (200, "") == ask(rig, jwt.encode(claims(), secret, algorithm="HS256", headers={"kid": "hs"}))
    assert INVALID == ask(rig, jwt.encode(claims(), b"t" * 32, algorithm="HS256", headers={"kid": "hs"}))
    rig.put_token_key("demo", "moved", "HS256", "", kek_epoch=1, wrapped=wrapped)
    assert INVALID == ask(rig, jwt.encode(claims(), secret, algorithm="HS256", headers={"kid": "moved"}))


def test_weak_or_foreign_keys_verify_nothing(rig: ProxyRig) -> None:
    """An RSA key, an unknown algorithm, a broken PEM: the token is invalid, the proxy is not."""
    key = rsa.generate_private_key(65537, 2048)
    for name, algorithm, pem in (
        ("rsa", "RS256", public_pem(key)),
        ("odd", "EdDSA", public_pem(key)),
        ("bad", "EdDSA", "-----"),
    ):
        rig.put_token_key("demo", name, algorithm, pem)
        assert INVALID == ask(rig, jwt.encode(claims(), key, algorithm="RS256", headers={"kid": name}))
        assert INVALID == ask(rig, jwt.encode(claims(), rig.signers["demo"], algorithm="EdDSA", headers={"kid": name}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"organization": 7},
        {"organization": "../demo"},
        {"asset": ""},
        {"asset": "a/b"},
        {"asset": ["film"]},
        {"tracks": "SD"},
        {"tracks": ["NOPE"]},
        {"server_side": "yes"},
        {"max_track": "8K"},
        {"max_track": ["SD"]},
        {"jti": 1},
        {"ip": "here"},
        {"asset": None},
        {"sub": {"a": 1}},
    ],
)
def test_ill_typed_claims_are_refused(rig: ProxyRig, wrong: dict[str, object]) -> None:
    """A claim that is not what docs/tokens.md says makes the token invalid."""
    named = {name: value for name, value in claims(**wrong).items() if value is not None}
    token = (
        jwt.encode(named, rig.signers["demo"], algorithm="EdDSA", headers={"kid": "portal"})
        if "sub" not in wrong
        else None
    )
    if token is None:
        body = f"{part({'alg': 'EdDSA', 'kid': 'portal'})}.{part(named)}"
        token = f"{body}.{part(rig.signers['demo'].sign(body.encode()))}"
    assert INVALID == ask(rig, token)


def test_unknown_claims_mean_nothing(rig: ProxyRig) -> None:
    """A portal may carry its own."""
    assert (200, "") == ask(rig, rig.token("film", iss="portal", aud="player", color={"a": [1]}))


def test_address_is_compared_as_an_address(rig: ProxyRig) -> None:
    """Only the address that the token names, in any spelling of it."""
    assert (200, "") == ask(rig, rig.token("film", ip="127.0.0.1"))
    assert (200, "") == ask(rig, rig.token("film", ip="::ffff:127.0.0.1"))
    assert (200, "") == ask(rig, rig.token("film", ip="2001:db8::1"), client="2001:DB8:0::1")
    assert (403, "token_address") == ask(rig, rig.token("film", ip="10.0.0.1"))
    assert (403, "token_address") == ask(rig, rig.token("film", ip="10.0.0.1"), client="")
    assert (403, "token_address") == ask(rig, rig.token("film", ip="10.0.0.1"), headers={"x-forwarded-for": "10.0.0.1"})


def test_single_use_token_is_good_for_one_license(rig: ProxyRig) -> None:
    """A refusal does not use it up; a license does."""
    token = rig.token("film", jti="once")
    response = rig.clearkey("film", b"?" * 16, token=token)
    assert 404 == response.status_code
    assert (200, "") == ask(rig, token)
    assert (401, "token_used") == ask(rig, token)
    assert (200, "") == ask(rig, rig.token("film", jti="twice"))


def test_used_ids_are_shared_and_forgotten(tmp_path: Path) -> None:
    """Two organizations may draw one id; an id is forgotten when its token has expired."""
    used = UsedTokens(tmp_path / "used")
    assert [True, False, True] == used.take([Use("demo", "a", 1000), Use("demo", "a", 1000), Use("other", "a", 2000)])
    assert 1 == used.sweep(1500)
    assert [True] == used.take([Use("demo", "a", 3000)])
    used.close()


def test_an_id_is_on_disk_before_its_license_goes_out(tmp_path: Path) -> None:
    """LMDB syncs data and meta page at each commit; those who wait for it together share the next one."""
    used = UsedTokens(tmp_path / "used")
    flags = used._opened().flags()
    assert (True, True) == (flags["sync"], flags["metasync"])

    async def ask() -> list[bool]:
        return await asyncio.gather(*(used.use("demo", str(number % 50), 1) for number in range(100)))

    assert [True] * 50 + [False] * 50 == asyncio.run(ask())
    assert used._opened().info()["last_txnid"] <= 3
    used.close()


def test_what_cannot_be_remembered_is_not_let_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full store refuses for a while, and a token that was used stays used."""
    monkeypatch.setattr(single_use, "MAP_SIZE", 64 << 10)
    used, taken = UsedTokens(tmp_path / "used"), 0
    with pytest.raises(Unavailable, match="cannot be remembered"):
        while used.take([Use("demo", f"t-{taken}", 1000 + taken)]):
            taken += 1
    assert used.was_used("demo", f"t-{taken - 1}")
    assert not used.was_used("demo", f"t-{taken}")
    monkeypatch.setattr(single_use, "MAX_USED", 1)
    with pytest.raises(Unavailable, match="no room"):
        used.take([Use("demo", "more", 1)])
    used.close()


@pytest.mark.parametrize("error", [lmdb.DiskError("full"), lmdb.MapFullError("full"), OSError(28, "No space left")])
def test_a_full_disk_is_never_a_server_error(rig: ProxyRig, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """The license is refused with 503 and Retry-After, and given once there is room."""
    token = rig.token("film", jti=f"full-{type(error).__name__}")

    class Full:
        def begin(self, **_how: object) -> object:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(rig.life.means.used, "_env", Full())
        response = rig.clearkey("film", rig.kid("film"), token=token)
        assert (503, True) == (response.status_code, "retry-after" in response.headers)
    assert 200 == rig.clearkey("film", rig.kid("film"), token=token).status_code


def test_scope_is_the_named_asset(rig: ProxyRig) -> None:
    """A token for another asset is no token for this one."""
    assert (403, "token_scope") == ask(rig, rig.token("series"))


def test_signing_key_is_private_and_stays(tmp_path: Path) -> None:
    """Made once with mode 0600, never replaced, refused when others may read it."""
    path, key = signing_key(tmp_path, "demo")
    assert key is None and not path.exists()
    path, made = signing_key(tmp_path, "demo", make=True)
    assert made is not None and 0o600 == path.stat().st_mode & 0o777
    assert key_id_of(made.public_key()) == key_id_of(signing_key(tmp_path, "demo", make=True)[1].public_key())
    path.chmod(0o640)
    with pytest.raises(Misconfigured, match="chmod 600"):
        signing_key(tmp_path, "demo")
    path.chmod(0o600)
    path.write_text("nothing")
    with pytest.raises(Misconfigured, match="damaged"):
        signing_key(tmp_path, "demo", make=True)


def test_public_key_files_are_checked(tmp_path: Path) -> None:
    """Ed25519 and P-256; another curve, RSA, a private key and noise are refused with what to do."""
    good = {"EdDSA": ed25519.Ed25519PrivateKey.generate(), "ES256": ec.generate_private_key(ec.SECP256R1())}
    path = tmp_path / "key.pem"
    for algorithm, key in good.items():
        path.write_text(public_pem(key))
        assert algorithm == algorithm_of(read_public_key(path))
    for wrong in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        path.write_text(public_pem(wrong))
        with pytest.raises(Misconfigured):
            read_public_key(path)
    path.write_bytes(good["EdDSA"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(Misconfigured, match="no public key"):
        read_public_key(path)
    with pytest.raises(Misconfigured, match="No such file"):
        read_public_key(tmp_path / "absent.pem")


def test_issued_token_is_accepted(rig: ProxyRig, tmp_path: Path) -> None:
    """`keymill token issue` prints a token alone on its line, and the proxy takes it."""
    _, key = signing_key(tmp_path, "demo", make=True)
    rig.put_token_key("demo", key_id_of(key.public_key()), "EdDSA", public_pem(key))
    command = [sys.executable, "-c", "from keymill.ops.tokens import token; token()"]
    options = ["--data", str(tmp_path), "--organization", "demo", "--asset", "film"]
    run = lambda *more: subprocess.run([*command, *options, *more], capture_output=True, text=True, check=True).stdout  # noqa: E731
    printed = run("--user", "anna", "--tracks", "SD,HD", "--ip", "127.0.0.1")
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", printed)
    assert (200, "") == ask(rig, printed.strip())
    assert (401, "token_expired") == ask(rig, run("--expires-in", "-60").strip())
    once = run("--single-use").strip()
    assert (200, "") == ask(rig, once)
    assert (401, "token_used") == ask(rig, once)


def test_every_claim_has_an_option(tmp_path: Path) -> None:
    """The token says what the options said; what is no label, track type or address is refused before it is made."""
    signing_key(tmp_path, "demo", make=True)
    command = [sys.executable, "-c", "from keymill.ops.tokens import token; token()", "--data", str(tmp_path)]
    command += ["--organization", "demo"]
    options = "--asset film --product cinema --user anna --tracks SD,AUDIO --max-track HD --single-use --server-side"
    more = "--ip 2001:DB8::1 --not-before 5 --expires-in 60"
    printed = subprocess.run([*command, *options.split(), *more.split()], capture_output=True, text=True, check=True)
    said = jwt.decode(printed.stdout.strip(), options={"verify_signature": False})
    assert said.pop("jti") and said["nbf"] - said["iat"] == 5 and said["exp"] - said["iat"] == 60
    assert {
        "organization": "demo", "asset": "film", "product": "cinema", "sub": "anna", "tracks": ["SD", "AUDIO"],
        "max_track": "HD", "server_side": True, "ip": "2001:db8::1",
    } == {name: value for name, value in said.items() if name not in ("iat", "nbf", "exp")}  # fmt: skip
    for wrong in ("--max-track 8K", "--max-track AUDIO", "--tracks SD,8K", "--ip here"):
        done = subprocess.run([*command, "--asset", "film", *wrong.split()], capture_output=True, text=True)
        assert done.returncode and not done.stdout, wrong


def test_documented_example_makes_a_token_that_is_accepted(rig: ProxyRig, tmp_path: Path) -> None:
    """The Python of docs/tokens.md, run as it stands there."""
    [example] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    key = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "portal.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key_id = key_id_of(key.public_key())
    rig.put_token_key("demo", key_id, "EdDSA", public_pem(key))
    done = subprocess.run(
        [sys.executable, "-c", example, key_id], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (200, "") == ask(rig, done.stdout.strip())
