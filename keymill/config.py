"""
Settings: one frozen class per program, the only reader of the environment.

A setting comes from its `KEYMILL_` variable, else from the TOML file given with `--settings`, else its default; a
table comes from the file alone. An unknown variable or member is an error, since a misspelt limit is a limit that does
not hold. docs/settings.md is generated from these classes.
"""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator

from keymill import config_sources, upstream_rules
from keymill.core.bearer import check_token_header
from keymill.core.cors import CorsRules, check_headers, check_origins
from keymill.errors import Misconfigured
from keymill.upstream_settings import Upstream


def _split(value: Any) -> Any:
    """A list that a variable holds as one text."""
    return tuple(filter(None, (part.strip() for part in value.split(",")))) if isinstance(value, str) else value


class Settings(BaseModel):
    """What every program needs."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    bootstrap: str = Field(
        "", description="Kafka brokers, host:port[,host:port…]; `keymill up` starts its own if empty"
    )
    data: Path = Field(Path("keymill-data"), description="folder of key file, views and the embedded broker")
    key_file: Path | None = Field(
        None, description="key file of the KMS provider; `keys.json` in the data folder if absent"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    replicas: int = Field(1, ge=1, le=5, description="replication factor of topics that are created")
    partitions: int = Field(12, ge=1, le=1000, description="partitions of topics that are created; frozen afterwards")
    host: str = Field("127.0.0.1", description="address the program's HTTP server listens on")
    map_size_gib: int = Field(64, ge=1, le=4096, description="GiB, upper bound of a view's sparse LMDB map")
    instance_id: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,128}$",
        description="name of a program in its reports, unique among those of its kind; host name and a hash of the "
        "data folder if empty. A processor that has one is a static member of its group under it",
    )
    report_s: float = Field(5.0, ge=0.5, le=300, description="seconds between two reports to `drm.status.v1`")
    min_free_mib: int = Field(
        1024, ge=0, le=1_000_000_000,
        description="MiB of room on the data folder's disk below which a program warns; 0 never does",
    )  # fmt: skip
    stop_timeout_s: int = Field(
        20, ge=1, le=600, description="seconds a program may take to finish what it began when stopped"
    )

    @property
    def keys_path(self) -> Path:
        """Where the key file is."""
        return self.key_file or self.data / "keys.json"


class HttpSettings(Settings):
    """What the programs that answer callers need on top."""

    audit_spool_mib: int = Field(256, ge=1, le=65_536, description="MiB of audit events that may wait on disk")
    tls_cert: Path | None = Field(
        None, description="PEM certificate chain; needed beyond loopback unless behind a TLS proxy"
    )
    tls_key: Path | None = Field(None, description="PEM private key of the certificate")
    behind_tls_proxy: bool = Field(
        False, description="a TLS-terminating proxy stands in front, so plain HTTP beyond loopback is meant"
    )

    request_timeout_s: int = Field(
        60, ge=1, le=3600, description="seconds a request may take from its first byte to its last"
    )
    max_connections: int = Field(
        0, ge=0, le=1_000_000,
        description="connections of one process; the idlest goes where there are more. 0: what its open files allow",
    )  # fmt: skip
    trusted_proxies: tuple[str, ...] = Field(
        (), description="addresses and networks whose X-Forwarded-For is believed, separated by commas in the variable"
    )
    admin_host: str = Field(
        "127.0.0.1", description="address of the admin port, which is for those who operate the program"
    )
    admin_on_main_port: bool = Field(
        False, description="/metrics, /docs and /openapi.json on the callers' port, and no admin port"
    )

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split_proxies(cls, value: Any) -> Any:
        return _split(value)

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(ipaddress.ip_network(network)) for network in value)

    def require_tls(self) -> None:
        """Raise `Misconfigured` when the program would answer in clear text beyond loopback."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise Misconfigured("tls_cert and tls_key go together: give both or neither")
        for host in (self.host,) if self.admin_on_main_port else (self.host, self.admin_host):
            if host not in ("127.0.0.1", "::1", "localhost") and not self.tls_cert and not self.behind_tls_proxy:
                raise Misconfigured(f"listening on {host} needs --tls-cert and --tls-key, or --behind-tls-proxy")


class ProcessorSettings(Settings):
    """`keymill processor`."""

    processor_port: int = Field(
        0, ge=0, le=65535, description="port of /healthz, /readyz and /metrics; 0 takes a free one"
    )
    group: str = Field("keymill-processor", description="Kafka consumer group of the processors")
    session_timeout_s: int = Field(
        45, ge=6, le=1800, description="seconds after which the group gives a silent processor's partitions away"
    )
    delivery_timeout_s: int = Field(
        30, ge=1, le=1800, description="seconds a publish may take; must be below the session timeout"
    )
    registry_url: str = Field(
        "", description="Confluent schema registry for framed asset events; none are read if empty"
    )


class GatewaySettings(HttpSettings):
    """`keymill gateway`."""

    gateway_port: int = Field(8080, ge=0, le=65535, description="port of the control-plane API; 0 takes a free one")
    gateway_admin_port: int = Field(
        0, ge=0, le=65535, description="the gateway's port of /metrics, /docs and /openapi.json; 0 takes a free one"
    )
    wait_s: float = Field(
        10.0, ge=0, le=60, description="seconds a request waits for its record; then ?wait=1 is 202, a policy's 503"
    )
    max_waiting: int = Field(
        512, ge=1, le=100_000, description="requests that may wait for their records at once; more are 503"
    )
    packager_wait_s: float = Field(
        50.0, ge=1, le=55, description="seconds a packager's key request waits; Shaka Packager gives up at 60"
    )
    max_body_bytes: int = Field(1_000_000, ge=1024, le=1_048_576, description="bytes, largest request body")
    ncp_regions: str = Field(
        "KR",
        pattern=r"^[A-Za-z0-9_-]+(,[A-Za-z0-9_-]+)*$",
        description="values of x-ncp-region_code that NAVER's policy API takes, comma-separated",
    )


class ProxySettings(HttpSettings):
    """`keymill proxy`."""

    proxy_port: int = Field(8081, ge=0, le=65535, description="port players ask; 0 takes a free one")
    proxy_admin_port: int = Field(
        0, ge=0, le=65535, description="the proxy's port of /metrics, /docs and /openapi.json; 0 takes a free one"
    )
    workers: int = Field(1, ge=1, le=64, description="HTTP worker processes over one shared cache")
    max_staleness_s: int = Field(
        86_400,
        ge=0,
        description="seconds that the copy may be old; beyond, licenses are refused, since what was revoked meanwhile "
        "would be served. A day bridges an outage that somebody works at; 0 never refuses",
    )
    missing_wait_ms: int = Field(
        200, ge=0, le=5000, description="ms a caught-up proxy waits for an asset it lacks before it says 404"
    )
    max_challenge_bytes: int = Field(65_536, ge=1024, le=1_048_576, description="bytes, largest license request body")
    require_entitlement: bool = Field(
        False,
        description="refuse a license of any organization unless the token's user is entitled to the asset's product",
    )
    cors_origins: tuple[str, ...] = Field(
        ("*",),
        description="origins whose pages may ask, such as https://portal.example, separated by commas in the variable; "
        "* is every one, since authority is the token's",
    )
    cors_headers: tuple[str, ...] = Field(
        ("*",),
        description="request headers that pages may send besides Authorization, Content-Type, SOAPAction and "
        "X-Request-Id, separated by commas in the variable; * is whatever they ask for",
    )
    cors_credentials: bool = Field(
        False,
        description="let browsers ask with `credentials: include` (`withCredentials`); the proxy reads no cookie",
    )
    token_header: str = Field(
        "",
        description="a request header that may hold the player token, such as X-Player-Token, besides "
        "`Authorization: Bearer` and the endpoint's query parameter",
    )
    upstream_allow: tuple[str, ...] = Field(
        (), description="hosts that license servers may be at, names or addresses, separated by commas in the variable"
    )
    upstreams: dict[str, Upstream] = Field({}, description="license servers, a table each: see below")

    @property
    def cors(self) -> CorsRules:
        """Whose pages may ask."""
        return CorsRules(origins=self.cors_origins, headers=self.cors_headers, credentials=self.cors_credentials)

    @field_validator("upstream_allow", "cors_origins", "cors_headers", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        return _split(value)

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_origins(value)

    @field_validator("cors_headers")
    @classmethod
    def _header_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_headers(value)

    @field_validator("token_header")
    @classmethod
    def _token_header(cls, value: str) -> str:
        return check_token_header(value)

    @field_validator("upstream_allow")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return upstream_rules.check_allowed(value)

    @field_validator("upstreams")
    @classmethod
    def _upstreams(cls, value: dict[str, Upstream], info: ValidationInfo) -> dict[str, Upstream]:
        upstream_rules.check_upstreams(value, info.data.get("upstream_allow", ()))
        return value


class ConnectSettings(Settings):
    """`keymill connect`."""

    manifest_dir: Path | None = Field(None, description="folder whose *.jsonl files the manifest connector reads")
    poll_s: float = Field(1.0, gt=0, le=3600, description="seconds between two looks at the manifest folder")
    archive_url: SecretStr = Field(
        SecretStr(""), description="SQLAlchemy URL of the SQL archive; `archive.sqlite` in the data folder if empty"
    )
    archive_batch: int = Field(5000, ge=1, le=100_000, description="records that one transaction of the archive takes")
    outbox_url: SecretStr = Field(
        SecretStr(""), description="SQLAlchemy URL of the database in which ingest systems write their outbox"
    )
    outbox_table: str = Field(
        "keymill_outbox",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$",
        description="the outbox's table, SCHEMA.TABLE where it has a schema",
    )
    outbox_poll_ms: int = Field(100, ge=1, le=60_000, description="ms between two looks at an outbox that was empty")
    outbox_batch: int = Field(1000, ge=1, le=10_000, description="rows that one transaction of the outbox takes")
    connect_port: int = Field(
        0, ge=0, le=65535, description="port of a connector's /healthz, /readyz and /metrics; 0 takes a free one"
    )


class UpSettings(ProcessorSettings, GatewaySettings, ProxySettings):
    """`keymill up`: all programs on one machine."""

    port_base: int = Field(
        0, ge=0, le=65000,
        description="first port: Kafka, controller, gateway, proxy, processors, admin ports of gateway and proxy, "
        "and `up`; 0 takes free ones",
    )  # fmt: skip
    processors: int = Field(1, ge=1, le=8, description="processors that `keymill up` runs")
    up_port: int = Field(
        0, ge=0, le=65535,
        description="port of /healthz, /readyz, /metrics of `keymill up` itself, at `admin_host`; 0 takes a free one",
    )  # fmt: skip


PROGRAMS: Final[dict[str, type[Settings]]] = {
    "processor": ProcessorSettings,
    "gateway": GatewaySettings,
    "proxy": ProxySettings,
    "connect": ConnectSettings,
    "up": UpSettings,
}
S = TypeVar("S", bound=Settings)


def load(kind: type[S], *, file: Path | None = None, environ: Mapping[str, str] | None = None, **given: Any) -> S:
    """
    Return the settings of one program.

    Args:
        given: values from the command line; None means not given. They win over environment and file.

    Raises:
        Misconfigured: an unknown variable or member, or a value out of range; the message names it.
    """
    environment = os.environ if environ is None else environ
    members, known = set(kind.model_fields), {name for each in PROGRAMS.values() for name in each.model_fields}
    values = config_sources.from_file(file, members, known) if file else {}
    values |= config_sources.from_environment(environment, members, known)
    values |= {name: value for name, value in given.items() if value is not None}
    try:
        return kind(**values)
    except ValidationError as error:
        raise Misconfigured(config_sources.worded(error)) from None
