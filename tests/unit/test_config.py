"""Settings: where a value comes from, and that nothing misspelt or out of range is passed over."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from keymill.config import (
    PROGRAMS,
    ConnectSettings,
    GatewaySettings,
    HttpSettings,
    ProcessorSettings,
    ProxySettings,
    Settings,
    UpSettings,
    load,
)
from keymill.config_sources import OTHER_VARIABLES
from keymill.errors import Misconfigured
from keymill.settings_text import as_environment, masked


def toml(folder: Path, text: str) -> Path:
    """A settings file."""
    file = folder / "keymill.toml"
    file.write_text(text)
    return file


def refused(*words: str, kind: type[Settings] = GatewaySettings, **sources) -> None:
    """Loading fails, and the message holds every word."""
    with pytest.raises(Misconfigured) as error:
        load(kind, **({"environ": {}} | sources))
    for word in words:
        assert word in str(error.value)


def test_an_unknown_variable_is_an_error_that_names_it() -> None:
    """A misspelt limit is a limit that does not hold."""
    refused("KEYMILL_MAX_BODY_BYTE", "docs/settings.md", environ={"KEYMILL_MAX_BODY_BYTE": "5"})


def test_a_variable_of_another_program_is_fine() -> None:
    """All programs of a machine may share one environment."""
    environ = {"KEYMILL_WORKERS": "3", "KEYMILL_GROUP": "g", "KEYMILL_GATEWAY_PORT": "9", "PATH": "/bin"}
    assert 9 == load(GatewaySettings, environ=environ).gateway_port


def test_variables_that_are_no_settings_are_left_alone() -> None:
    """The settings file itself, the demo's browser, and what only tests set."""
    environ = dict.fromkeys((*OTHER_VARIABLES, "KEYMILL_TEST_CRASH_AT"), "x")
    assert load(Settings, environ={}) == load(Settings, environ=environ)


def test_an_unknown_member_is_an_error_that_names_file_and_member(tmp_path: Path) -> None:
    """In the file as in the environment; a table is a member too."""
    file = toml(tmp_path, 'bootstrap = "a:1"\nwait = 3\n')
    refused(str(file), "wait", file=file)
    refused("gateway", file=toml(tmp_path, "[gateway]\nwait_s = 3\n"))


def test_an_unknown_argument_is_an_error() -> None:
    """A command that passes what no class holds is a mistake of ours."""
    refused("wait", wait=3)


@pytest.mark.parametrize(
    ("given", "variable", "member", "expected"),
    [(3, "4", 5, 3), (None, "4", 5, 4), (None, None, 5, 5), (None, None, None, 10), (0, "4", 5, 0), (3, None, 5, 3)],
)
def test_command_line_before_environment_before_file_before_default(
    tmp_path: Path, given: float | None, variable: str | None, member: float | None, expected: float
) -> None:
    """The nearest to the person who started the program wins."""
    file = None if member is None else toml(tmp_path, f"wait_s = {member}\n")
    environ = {} if variable is None else {"KEYMILL_WAIT_S": variable}
    assert expected == load(GatewaySettings, file=file, environ=environ, wait_s=given).wait_s


@pytest.mark.parametrize("given", ["10.0.0.1,fd00::/8", ["10.0.0.1", "fd00::/8"], " 10.0.0.1/32 , fd00::/8 "])
def test_networks_are_a_list_or_one_string(given: str | list[str]) -> None:
    """A file has a list, a variable commas; what is kept is the same, and passes to a child program."""
    kept = load(ProxySettings, environ={}, trusted_proxies=given).trusted_proxies
    assert ("10.0.0.1/32", "fd00::/8") == kept
    variable = as_environment(load(ProxySettings, environ={}, trusted_proxies=given), ProxySettings)
    assert kept == load(ProxySettings, environ=variable).trusted_proxies


def test_one_file_serves_every_program(tmp_path: Path) -> None:
    """Members of other programs are passed over."""
    file = toml(tmp_path, 'workers = 4\ngroup = "g"\nbootstrap = "a:1"\nwait_s = 2.5\n')
    assert 4 == load(ProxySettings, file=file, environ={}).workers
    assert "g" == load(ProcessorSettings, file=file, environ={}).group
    up = load(UpSettings, file=file, environ={})
    assert (4, "g", "a:1", 2.5) == (up.workers, up.group, up.bootstrap, up.wait_s)


@pytest.mark.parametrize("content", [b"wait_s = ", b"\xff\xfe\x00", b"wait_s = 1\nwait_s = 2\n"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    """Broken text, bytes that are no text, a member twice."""
    file = tmp_path / "keymill.toml"
    file.write_bytes(content)
    refused(str(file), file=file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A folder in its place too."""
    refused(str(tmp_path / "none.toml"), file=tmp_path / "none.toml")
    refused(str(tmp_path), file=tmp_path)


@pytest.mark.parametrize(
    ("kind", "name", "good", "bad"),
    [
        (GatewaySettings, "wait_s", ["0", "60", "0.5"], ["-1", "60.1", "nan", "soon", "soon"]),
        (GatewaySettings, "packager_wait_s", ["1", "55"], ["0.9", "56"]),
        (GatewaySettings, "max_body_bytes", ["1024", "1048576"], ["1023", "1048577", "1e5", "1 MB"]),
        (GatewaySettings, "gateway_port", ["0", "65535"], ["-1", "65536"]),
        (ProxySettings, "workers", ["1", "64"], ["0", "65", "1.5"]),
        (ProxySettings, "missing_wait_ms", ["0", "5000"], ["-1", "5001"]),
        (
            ProxySettings,
            "trusted_proxies",
            ["10.0.0.1", "10.0.0.0/8, ::1", "fd00::/8,"],
            ["10.0.0.1/8", "proxy", "1;2"],
        ),
        (ProxySettings, "require_entitlement", ["true", "0"], ["maybe"]),
        (ProcessorSettings, "session_timeout_s", ["6", "1800"], ["5", "1801"]),
        (ConnectSettings, "poll_s", ["0.001", "3600"], ["0", "-1", "inf"]),
        (UpSettings, "processors", ["1", "8"], ["0", "9"]),
        (Settings, "log_level", ["debug", "error"], ["DEBUG", "trace"]),
        (Settings, "partitions", ["1", "1000"], ["0", "1001"]),
        (Settings, "replicas", ["1", "5"], ["0", "6"]),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_variable(
    kind: type[Settings], name: str, good: list[str], bad: list[str]
) -> None:
    """The ends of every range are in it; the message names setting and variable."""
    variable = f"KEYMILL_{name.upper()}"
    for text in good:
        load(kind, environ={variable: text})
    for text in bad:
        refused(f"setting {name} ({variable})", kind=kind, environ={variable: text})


@pytest.mark.parametrize("kind", PROGRAMS.values(), ids=PROGRAMS)
def test_every_program_runs_on_defaults_and_is_described(kind: type[Settings]) -> None:
    """A default is within its own range, and every setting has words for docs/settings.md."""
    settings = load(kind, environ={})
    assert all(field.description for field in kind.model_fields.values())
    with pytest.raises(ValidationError):
        settings.bootstrap = "b:1"  # frozen


def test_the_key_file_lies_in_the_data_folder_unless_named() -> None:
    """`keys.json` by default."""
    assert Path("d/keys.json") == load(Settings, environ={}, data=Path("d")).keys_path
    assert Path("k") == load(Settings, environ={"KEYMILL_KEY_FILE": "k"}, data=Path("d")).keys_path


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_tls(host: str) -> None:
    """Nobody else hears it."""
    load(HttpSettings, environ={}, host=host).require_tls()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "keymill.example", "127.0.0.1.example"])
def test_beyond_loopback_needs_tls(host: str) -> None:
    """A certificate, or the word of the operator that a TLS proxy stands in front."""
    with pytest.raises(Misconfigured) as error:
        load(HttpSettings, environ={}, host=host).require_tls()
    assert {"--tls-cert", "--tls-key", "--behind-tls-proxy"} <= set(str(error.value).replace(",", "").split())
    load(HttpSettings, environ={}, host=host, behind_tls_proxy=True).require_tls()
    load(HttpSettings, environ={}, host=host, tls_cert=Path("c"), tls_key=Path("k")).require_tls()


@pytest.mark.parametrize("half", ["tls_cert", "tls_key"])
def test_half_a_certificate_is_refused_even_on_loopback(half: str) -> None:
    """One without the other would be answered in clear text."""
    with pytest.raises(Misconfigured, match="go together"):
        load(HttpSettings, environ={}, behind_tls_proxy=True, **{half: Path("x")}).require_tls()


class _WithSecret(Settings):
    password: SecretStr = SecretStr("")


def test_secrets_are_masked() -> None:
    """`config show` prints everything but them, and leaves out what is not set."""
    shown = masked(load(_WithSecret, environ={}, password="hunter2", data=Path("d")))
    assert "********" == shown["password"]
    assert "hunter2" not in str(shown)
    assert ("d", "12") == (shown["data"], shown["partitions"])
    assert "key_file" not in shown


def test_an_empty_variable_is_not_given() -> None:
    """A compose file leaves a variable out by leaving it empty; a path must not become the working folder."""
    settings = load(ProxySettings, environ={"KEYMILL_TLS_CERT": "", "KEYMILL_KEY_FILE": "", "KEYMILL_WORKERS": ""})
    assert (None, None, 1) == (settings.tls_cert, settings.key_file, settings.workers)
