"""No secret stands in a log, a file, a topic, a metric, a process list or an error: each is searched for by value."""

import base64
import json
from pathlib import Path

import pytest

from keymill.gateway.dialects import widevine
from keymill.ops.demo.stack import Stack
from keymill.secret import Secret
from tests.drawn import ORGANIZATION
from tests.e2e.leaks import Secrets, audit_text, content_secrets, files_of, house_secrets, leaks, spellings
from tests.e2e.player import b64, token_for
from tests.e2e.programs import children_of, get, wait_for

pytestmark = pytest.mark.timeout(120)
PLANTED = bytes(range(200, 216))


@pytest.mark.parametrize("spelt", sorted(spellings(PLANTED)), ids=lambda spelt: f"{spelt[:8]!r}")
def test_a_planted_key_is_found(tmp_path: Path, spelt: bytes) -> None:
    """A file with a key in any spelling is reported; without it nothing is."""
    (tmp_path / "views").mkdir()
    log = tmp_path / "views" / "program.log"
    log.write_bytes(b'{"event":"x"}\n' * 50)
    assert [] == leaks({"planted": PLANTED}, files_of(tmp_path), {})
    log.write_bytes(b'{"event":"x"}\n' * 50 + b'{"key":"' + spelt + b'"}\n')
    assert [f"planted in {log}"] == leaks({"planted": PLANTED}, files_of(tmp_path), {})
    assert ["planted in a body"] == leaks({"planted": PLANTED}, [], {"a body": b"<" + spelt + b">"})


@pytest.mark.parametrize("lead", range(3))
def test_a_key_inside_a_longer_base64_is_found(lead: int) -> None:
    """Wherever the key begins in what was encoded as a whole."""
    text = base64.b64encode(b"?" * lead + PLANTED + b"tail")
    assert ["planted in a body"] == leaks({"planted": PLANTED}, [], {"a body": text})


def test_only_the_key_file_and_its_kind_hold_secrets(tmp_path: Path) -> None:
    """Their own places are passed over, a namesake elsewhere is not."""
    (tmp_path / "keys.json").write_bytes(PLANTED)
    (tmp_path / "views").mkdir()
    (tmp_path / "views" / "keys.json").write_bytes(PLANTED)
    assert [f"planted in {tmp_path / 'views' / 'keys.json'}"] == leaks({"planted": PLANTED}, files_of(tmp_path), {})


def test_no_secret_is_anywhere(up: Stack) -> None:
    """After events, a packager's request, licenses and refusals: none in logs, data, topics, metrics or errors."""
    data = Path(up.up.data)
    kids = _provision(up)
    tokens = {f"token for {name}": token_for(data, name) for name in kids}
    for (name, known), token in zip(kids.items(), tokens.values(), strict=True):
        assert 200 == _license(up, name, known, token)[0]
    texts = _refusals(up, next(iter(tokens.values())), next(iter(kids.values())))
    texts |= _metrics(up) | _processes(up)
    wait_for(lambda: b"key_delivery" in audit_text(up.up.kafka) and b"token_invalid" in audit_text(up.up.kafka), 20)
    texts["the audit topic"] = audit_text(up.up.kafka)
    secrets: Secrets = content_secrets(up.up.kafka, data) | house_secrets(data, up.up.credentials)
    secrets |= {name: token.rpartition(".")[2].encode() for name, token in tokens.items()}
    assert len(secrets) > 40
    paths = list(files_of(data, up.log))
    assert {"data.mdb", f"{data.name}.up.log"} <= {path.name for path in paths}
    assert any(path.suffix == ".log" and "drm.keys.v1" in str(path) and path.stat().st_size for path in paths)
    assert [] == leaks(secrets, paths, texts)
    theirs = data / "manifests"  # the drop folder of docs/ingest.md's example, which its writer makes
    ours = [path for path in (data, *data.rglob("*")) if theirs not in (path, *path.parents)]
    assert [] == [path for path in ours if path.lstat().st_mode & 0o077 and not path.is_symlink()]


def _provision(up: Stack) -> dict[str, list[bytes]]:
    """Events of several kinds and a packager's request; the assets with their KIDs."""
    kids: dict[str, list[bytes]] = {}
    url = f"{up.up.gateway}/v1/organizations/{ORGANIZATION}/assets"
    bearer = {"Authorization": f"Bearer {up.up.credentials.api_key}"}
    for number in range(6):
        body = {"asset_id": f"leak-{number}", "schemes": ["cbcs", "cenc"][: 1 + number % 2]}
        status, answer = get(f"{url}?wait=1", json.dumps(body).encode(), **bearer)
        assert 201 == status, answer
        kids[f"leak-{number}"] = [bytes.fromhex(t["kid"].replace("-", "")) for t in json.loads(answer)["tracks"]]
    assert get(f"{url}/leak-0/rotate?wait=1", b"{}", **bearer)[0] in (201, 202)
    inner = json.dumps(
        {
            "content_id": base64.b64encode(b"leak-packaged").decode(),
            "drm_types": ["WIDEVINE"],
            "policy": "",
            "protection_scheme": "CBCS",
            "tracks": [{"type": "SD"}, {"type": "AUDIO"}],
        }
    ).encode()
    status, answer = get(f"{up.up.gateway}/widevine/{ORGANIZATION}", _signed(up, inner))
    told = json.loads(base64.b64decode(json.loads(answer)["response"]))
    assert (200, "OK") == (status, told["status"])
    kids["leak-packaged"] = [base64.b64decode(track["key_id"]) for track in told["tracks"]]
    return kids


def _signed(up: Stack, inner: bytes, *, spoil: bool = False) -> bytes:
    given = up.up.credentials
    material = bytes.fromhex(given.widevine_key_hex) + bytes.fromhex(given.widevine_iv_hex)
    signature = widevine.sign(inner + b" " * spoil, Secret(material))
    envelope = {
        "request": base64.b64encode(inner).decode(),
        "signature": base64.b64encode(signature).decode(),
        "signer": given.widevine_signer,
    }
    return json.dumps(envelope).encode()


def _license(up: Stack, asset: str, kids: list[bytes], token: str) -> tuple[int, bytes]:
    body = json.dumps({"kids": [b64(kid) for kid in kids], "type": "temporary"}).encode()
    url = f"{up.up.proxy}/clearkey/{ORGANIZATION}/{asset}?token={token}"
    wait_for(lambda: get(url, body)[0] != 404, 10)
    return get(url, body)


def _refusals(up: Stack, token: str, kids: list[bytes]) -> dict[str, bytes]:
    """What is answered to requests that carry secrets and are wrong."""
    api_key, gateway, proxy = up.up.credentials.api_key, up.up.gateway, up.up.proxy
    assets = f"{gateway}/v1/organizations/{ORGANIZATION}/assets"
    bearer = {"Authorization": f"Bearer {api_key}"}
    challenge = json.dumps({"kids": [b64(kids[0])], "type": "temporary"}).encode()
    answers = {
        "a wrong API key": get(assets, b'{"asset_id": "x"}', Authorization=f"Bearer {api_key}x"),
        "an API key in a field": get(assets, json.dumps({"asset_id": f"{api_key}/"}).encode(), **bearer),
        "broken JSON": get(assets, f'{{"asset_id": "{api_key}"'.encode(), **bearer),
        "too large a body": get(assets, api_key.encode(), **bearer | {"Content-Length": "2000000"}),
        "a bad signature": get(f"{gateway}/widevine/{ORGANIZATION}", _signed(up, b"{}", spoil=True)),
        "a spoilt token": get(f"{proxy}/clearkey/{ORGANIZATION}/leak-0?token={token}x", challenge),
        "another asset's token": get(f"{proxy}/clearkey/{ORGANIZATION}/leak-1?token={token}", challenge),
        "no challenge": get(f"{proxy}/clearkey/{ORGANIZATION}/leak-0?token={token}", b"{"),
        "an unknown KID": get(f"{proxy}/getlicense?service=demo&version=1.0&kid=00&ptoken={token}", challenge),
        "an unknown service": get(
            f"{proxy}/getlicense?service={token}&version={token}&kid=00&ptoken={token}", challenge
        ),
        "an unknown path": get(f"{proxy}/nowhere/{token}?token={token}", challenge),
    }
    for name, (status, body) in answers.items():
        if name != "a bad signature":  # the packager's protocol answers 200 with a status of its own
            assert 400 <= status < 500, (name, status, body[:200])
    return {f"the answer to {name}": body for name, (_, body) in answers.items()}


def _metrics(up: Stack) -> dict[str, bytes]:
    texts = {f"the metrics of {url}": get(f"{url}/metrics")[1] for url in up.up.admin.values()}
    assert all(texts.values())
    return texts


def _processes(up: Stack) -> dict[str, bytes]:
    """Command lines and environments of everything that runs."""
    family = [pid for child in children_of(up.pid) for pid in (child, *children_of(child))]
    assert len(family) >= 8
    return {
        f"{what} of process {pid}": Path(f"/proc/{pid}/{what}").read_bytes()
        for pid in [up.pid, *family]
        for what in ("cmdline", "environ")
    }
