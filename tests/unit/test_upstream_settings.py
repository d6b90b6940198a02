"""The tables of license servers: what is refused at start, where secrets may stand, and that they are never shown."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keymill.config import GatewaySettings, ProxySettings, UpSettings, load
from keymill.errors import Misconfigured
from keymill.proxy.worker import Told
from keymill.settings_text import as_environment, masked, told

KEY, IV = "1a" * 32, "d5" * 16
COMMUNICATION_KEY = "Y29tbXVuaWNhdGlvbiBrZXkgb2YgMzIgYnl0ZXMgISE="
KEY_ID = "CC36E85D-2fdf-462c-b395-030907447afc"
HEADER = "a secret of the forwarded header"
FILE = f"""
upstream_allow = ["license.example", "Axinom.example", "127.0.0.1", "::1"]

[upstreams.uat]
kind = "widevine"
organization = "demo"
url = "https://license.example/cenc/getlicense/demo"
signer = "demo"
key_hex = "{KEY}"
iv_hex = "{IV}"

[upstreams.axinom-pr]
kind = "entitlement"
organization = "demo"
drm_system = "playready"
url = "https://axinom.example:8443/AcquireLicense"
communication_key_id = "{KEY_ID}"
communication_key = "{COMMUNICATION_KEY}"

[upstreams.old]
kind = "forward"
organization = "demo"
drm_system = "fairplay"
url = "http://[::1]:9000/fps?a=b"
headers = {{"X-Api-Key" = "{HEADER}"}}
"""


def toml(folder: Path, text: str) -> Path:
    """A settings file."""
    file = folder / "keymill.toml"
    file.write_text(text)
    return file


def loaded(folder: Path, text: str = FILE) -> ProxySettings:
    """The proxy's settings from that file."""
    return load(ProxySettings, file=toml(folder, text), environ={})


def refused(folder: Path, text: str, *words: str) -> str:
    """Loading fails, the message holds every word and no secret."""
    with pytest.raises(Misconfigured) as error:
        loaded(folder, text)
    message = str(error.value)
    for word in words:
        assert word in message, message
    for secret in (KEY, IV, COMMUNICATION_KEY, HEADER):
        assert secret not in message
    return message


def changed(old: str, new: str) -> str:
    """The file with one member other."""
    assert FILE.count(old) == 1, old
    return FILE.replace(old, new)


def test_a_table_per_license_server(tmp_path: Path) -> None:
    """Each kind with its members, and the others' defaults."""
    tables = loaded(tmp_path).upstreams
    assert ["widevine", "entitlement", "forward"] == [each.kind for each in tables.values()]
    assert ["widevine", "playready", "fairplay"] == [each.drm_system for each in tables.values()]
    assert KEY_ID.lower() == tables["axinom-pr"].communication_key_id
    assert (5.0, 2.0, 262_144, 64, None) == (
        tables["uat"].deadline_s, tables["uat"].connect_timeout_s, tables["uat"].max_response_bytes,
        tables["uat"].max_connections, tables["uat"].default,
    )  # fmt: skip


def test_other_programs_pass_the_tables_over(tmp_path: Path) -> None:
    """One file serves every program; only those that run a proxy look into the tables."""
    file = toml(tmp_path, FILE)
    load(GatewaySettings, file=file, environ={})
    assert {"uat", "axinom-pr", "old"} == set(load(UpSettings, file=file, environ={}).upstreams)


def test_without_tables_there_is_nobody_to_ask(tmp_path: Path) -> None:
    """And nothing need be allowed."""
    assert {} == loaded(tmp_path, "").upstreams


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (f'key_hex = "{KEY}"', f'key_hex = "{IV}"', ["upstreams.uat.key_hex", "32 bytes, not 16", "swapped"]),
        (f'iv_hex = "{IV}"', f'iv_hex = "{KEY}"', ["upstreams.uat.iv_hex", "16 bytes, not 32", "swapped"]),
        (f'key_hex = "{KEY}"', 'key_hex = "zz"', ["upstreams.uat.key_hex", "hexadecimal"]),
        (f'key_hex = "{KEY}"\n', "", ["upstreams.uat.key_hex", "required"]),
        ('signer = "demo"\n', "", ["upstreams.uat.signer", "required"]),
        ('signer = "demo"\n', 'signer = "demo"\nsinger = "x"\n', ["upstreams.uat.singer"]),
        ('kind = "widevine"', 'kind = "widewine"', ["upstreams.uat", "widewine"]),
        ('kind = "widevine"\n', "", ["upstreams.uat", "kind"]),
        ('signer = "demo"', 'signer = "demo"\ndrm_system = "playready"', ["upstreams.uat.drm_system", "widevine"]),
        ('drm_system = "playready"', 'drm_system = "clearkey"', ["upstreams.axinom-pr.drm_system", "fairplay"]),
        ('drm_system = "playready"', 'drm_system = "adobe"', ["upstreams.axinom-pr.drm_system"]),
        (f'communication_key_id = "{KEY_ID}"', 'communication_key_id = "7"', ["communication_key_id", "UUID"]),
        (COMMUNICATION_KEY, "AAAA", ["upstreams.axinom-pr.communication_key", "32 bytes, not of 3"]),
        (COMMUNICATION_KEY, "*", ["upstreams.axinom-pr.communication_key", "base64"]),
        ('signer = "demo"', 'signer = "demo"\ndeadline_s = 0', ["upstreams.uat.deadline_s"]),
        ('signer = "demo"', 'signer = "demo"\ndeadline_s = 61', ["upstreams.uat.deadline_s"]),
        ('signer = "demo"', 'signer = "demo"\nmax_response_bytes = 1023', ["upstreams.uat.max_response_bytes"]),
        ('signer = "demo"', 'signer = "demo"\nca_file = "/none.pem"', ["upstreams.uat.ca_file", "/none.pem"]),
        ('signer = "demo"', 'signer = "demo"\nservice_certificate_file = "/none"', ["service_certificate_file"]),
        ('"X-Api-Key"', '"X Api"', ["upstreams.old.headers", "X Api"]),
        ('"X-Api-Key"', '"Host"', ["upstreams.old.headers", "Host"]),
        (HEADER, "a\\r\\nInjected: 1", ["upstreams.old.headers", "X-Api-Key"]),
        ("[upstreams.old]", '[upstreams."a b"]', ["upstreams", "'a b'", "1 to 63"]),
        ('"license.example", ', '"https://license.example/", ', ["upstream_allow", "no host", "without scheme"]),
        ('"license.example", ', '"license.example:443", ', ["upstream_allow", "no host"]),
    ],
)  # fmt: skip
def test_a_wrong_member_is_named(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    """Table and member, and what is wrong with it; never its value."""
    refused(tmp_path, changed(old, new), *words)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"license.example", ', "", ["uat.url", "license.example", "upstream_allow"]),
        ("https://license.example/cenc", "http://license.example/cenc", ["uat.url", "https alone"]),
        ("https://license.example/cenc", "http://127.0.0.1.license.example/cenc", ["uat.url", "upstream_allow"]),
        ('"::1"]', "]", ["old.url", "::1", "upstream_allow"]),
        ("http://[::1]:9000", "http://127.0.0.1@license.example", ["old.url", "without user"]),
        ("http://[::1]:9000", "http://user:pw@[::1]", ["old.url", "without user"]),
        ("http://[::1]:9000", "ftp://[::1]", ["old.url", "https://"]),
        ("http://[::1]:9000", "https://[::1", ["old.url", "no URL"]),
        ("http://[::1]:9000", "https://license.example:port", ["old.url", "no URL"]),
        ("?a=b", "#a", ["old.url", "fragment"]),
        ("?a=b", "?a= b", ["old.url", "https://"]),
    ],
)
def test_keys_go_to_listed_hosts_over_tls(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    """Plain HTTP to loopback alone, and only when that is listed too."""
    refused(tmp_path, changed(old, new), *words)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_plain_http_to_a_listed_loopback_address(tmp_path: Path, host: str) -> None:
    """By address or by name."""
    shown = f"[{host}]" if ":" in host else host
    text = changed("http://[::1]:9000", f"http://{shown}:9000").replace('"::1"]', f'"{host}"]')
    assert host in loaded(tmp_path, text).upstream_allow


def test_hosts_are_listed_in_the_variable_too(tmp_path: Path) -> None:
    """Separated by commas; it wins over the file."""
    file = toml(tmp_path, FILE)
    allowed = "license.example, axinom.example,::1"
    settings = load(ProxySettings, file=file, environ={"KEYMILL_UPSTREAM_ALLOW": allowed})
    assert ("license.example", "axinom.example", "::1") == settings.upstream_allow
    with pytest.raises(Misconfigured, match="upstream_allow"):
        load(ProxySettings, file=file, environ={"KEYMILL_UPSTREAM_ALLOW": "::1"})


def test_no_variable_holds_a_table(tmp_path: Path) -> None:
    """An environment is shown too easily."""
    with pytest.raises(Misconfigured, match="KEYMILL_UPSTREAMS: upstreams are tables of the settings file"):
        load(ProxySettings, environ={"KEYMILL_UPSTREAMS": "{}"})


SECOND = FILE + '\n[upstreams.second]\nkind = "forward"\norganization = "demo"\ndrm_system = "fairplay"\n'
SECOND += 'url = "https://license.example/fps"\n'


def test_several_for_one_place_say_which_is_the_default(tmp_path: Path) -> None:
    """One may be it; all may be reached by name alone."""
    refused(tmp_path, SECOND, "old.default", "true or false", "old, second")
    old = '[upstreams.old]\nkind = "forward"\n'
    refused(tmp_path, SECOND.replace(old, old + "default = true\n"), "second.default", "true or false")
    both = SECOND.replace(old, old + "default = true\n") + "default = true\n"
    refused(tmp_path, both, "second.default", "old is the default already")
    for mine, other in (("true", "false"), ("false", "true"), ("false", "false")):
        loaded(tmp_path, SECOND.replace(old, f"{old}default = {mine}\n") + f"default = {other}\n")


def test_another_organization_or_drm_system_is_another_place(tmp_path: Path) -> None:
    """Nothing need be said there."""
    before, second = SECOND.rsplit("[upstreams.second]", 1)
    for old, new in (('"demo"', '"other"'), ('"fairplay"', '"playready"')):
        text = before.replace("[upstreams.axinom-pr]", "[upstreams.axinom-pr]\ndefault = false")
        loaded(tmp_path, text + "[upstreams.second]\ndefault = true" + second.replace(old, new))
    loaded(tmp_path, before + "[upstreams.second]" + second.replace('"demo"', '"other"'))


def test_secrets_come_from_files(tmp_path: Path) -> None:
    """The file's text, without the white space around it; both at once are refused, and so is a missing file."""
    for name, text in (("key", f"{KEY}\n"), ("iv", IV), ("com", COMMUNICATION_KEY), ("head", f"X-Api-Key: {HEADER}\n")):
        (tmp_path / name).write_text(text)
    text = FILE.replace(f'key_hex = "{KEY}"', f'key_file = "{tmp_path}/key"')
    text = text.replace(f'iv_hex = "{IV}"', f'iv_file = "{tmp_path}/iv"')
    text = text.replace(f'communication_key = "{COMMUNICATION_KEY}"', f'communication_key_file = "{tmp_path}/com"')
    text = text.replace(f'headers = {{"X-Api-Key" = "{HEADER}"}}', f'headers_file = "{tmp_path}/head"')
    assert told(loaded(tmp_path)) == told(loaded(tmp_path, text))
    refused(tmp_path, text + f'headers = {{"A" = "{HEADER}"}}\n', "upstreams.old", "headers_file", "exclude")
    (tmp_path / "key").write_bytes(b"\xff")
    refused(tmp_path, text, "upstreams.uat", "key_file", "ASCII")
    (tmp_path / "key").write_text(IV)
    refused(tmp_path, text, "upstreams.uat.key_hex", "not 16")
    (tmp_path / "key").unlink()
    refused(tmp_path, text, "upstreams.uat", "key_file", str(tmp_path / "key"))


def test_shown_settings_hold_no_secret(tmp_path: Path) -> None:
    """Not as text, as repr, as JSON, nor in a child's environment."""
    settings = loaded(tmp_path)
    shown = masked(settings)
    assert ("********", "********", "demo") == tuple(
        shown[f"upstreams.uat.{n}"] for n in ("key_hex", "iv_hex", "signer")
    )
    assert "********" == shown["upstreams.old.headers.X-Api-Key"] == shown["upstreams.axinom-pr.communication_key"]
    assert "license.example,axinom.example,127.0.0.1,::1" == shown["upstream_allow"]
    environment = as_environment(settings, ProxySettings)
    assert "KEYMILL_UPSTREAMS" not in environment
    everything = f"{shown} {settings} {settings!r} {settings.model_dump_json()} {environment}"
    for secret in (KEY, IV, COMMUNICATION_KEY, HEADER):
        assert secret not in everything


def test_a_worker_is_told_all_of_it(tmp_path: Path) -> None:
    """Through the pipe, as JSON: it comes out as it went in."""
    settings = loaded(tmp_path)
    sent = msgspec.json.encode(Told(settings=told(settings), listening=3, parent=1, standing=""))
    received: dict[str, Any] = msgspec.json.decode(sent, type=Told).settings
    assert settings == ProxySettings(**received)


def test_config_show_masks_them(tmp_path: Path) -> None:
    """As an operator sees it."""
    command = [sys.executable, "-m", "keymill.ops.cli", "config", "show", "proxy", "--settings"]
    done = subprocess.run([*command, str(toml(tmp_path, FILE))], capture_output=True, text=True, timeout=60)
    assert 0 == done.returncode, done.stderr
    assert "upstreams.uat.key_hex = ********\n" in done.stdout
    assert "upstreams.axinom-pr.url = https://axinom.example:8443/AcquireLicense\n" in done.stdout
    for secret in (KEY, IV, COMMUNICATION_KEY, HEADER):
        assert secret not in done.stdout + done.stderr


def test_the_proxy_does_not_start_with_a_wrong_table(tmp_path: Path) -> None:
    """Exit code 2, one line that names table and member."""
    command = [sys.executable, "-m", "keymill.ops.cli", "proxy", "--data", str(tmp_path), "--settings"]
    file = toml(tmp_path, changed(f'iv_hex = "{IV}"', f'iv_hex = "{KEY}"'))
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, timeout=60)
    assert 2 == done.returncode
    assert "upstreams.uat.iv_hex" in done.stderr and KEY not in done.stderr


def test_the_documentations_example_loads(tmp_path: Path) -> None:
    """As it stands in docs/upstreams.md, but for the secret that it leaves out."""
    page = (Path(__file__).parents[2] / "docs" / "upstreams.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    tables = loaded(tmp_path, example.replace("…", "x")).upstreams
    assert {"widevine", "entitlement", "forward"} == {each.kind for each in tables.values()}
