"""Kafka's jars: fetched once, checked always. The repository is a small real one that serves the user's own jars."""

import os
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from keymill.errors import Misconfigured, Unavailable
from keymill.kafka.distribution import VERSION, cache_folder, classpath, missing, read_manifest

pytestmark = pytest.mark.timeout(120)
FETCH = "import sys; from pathlib import Path; from keymill.kafka.distribution import classpath; "


class Repository(ThreadingHTTPServer):
    """A Maven repository on loopback that counts what is asked and can spoil an answer."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.asked: Counter[str] = Counter()
        self.spoilt: dict[str, bytes] = {}
        self.torn: set[str] = set()


class Handler(SimpleHTTPRequestHandler):
    """Serves the folder; a spoilt name gets other bytes, a torn one stops half way the first time."""

    server: Repository

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.asked[name] += 1
        if name in self.server.spoilt:
            self._answer(self.server.spoilt[name], len(self.server.spoilt[name]))
        elif name in self.server.torn:
            self.server.torn.remove(name)
            self._answer(b"PK half of it", 1000)
        else:
            super().do_GET()

    def _answer(self, body: bytes, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    """A repository that jgo is pointed to as a user would: in its configuration file."""
    classpath()
    with Repository(cache_folder()) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        config = tmp_path / "jgo.conf"
        config.write_text(f"[repositories]\ncentral = http://127.0.0.1:{server.server_port}\n", encoding="ascii")
        monkeypatch.setenv("JGO_CONFIG_FILE", str(config))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server
        server.shutdown()


def jars(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    }


def test_manifest_names_each_jar_once_in_order() -> None:
    """The committed manifest is what `sha256sum --check` reads: sorted, unique, one release of Kafka throughout."""
    manifest = read_manifest()
    assert sorted(manifest) == list(manifest)
    assert all(len(bytes.fromhex(digest)) == 32 for digest in manifest.values())
    assert {path.split("/")[4] for path in manifest if path.startswith("org/apache/kafka/")} == {VERSION}


def test_first_start_fetches_second_start_asks_nobody(tmp_path: Path, repository: Repository) -> None:
    """A full folder needs neither a repository nor jgo."""
    home, lines = tmp_path / "jars", list[str]()
    found = classpath(folder=home, report=lines.append)
    assert set(read_manifest()) == jars(home) == {path.relative_to(home).as_posix() for path in found}
    assert f"fetching {len(found)} jars" in lines[0]
    repository.shutdown()
    code = f"sys.modules['jgo'] = None; print(len(classpath(folder=Path({str(home)!r}))))"
    done = subprocess.run([sys.executable, "-c", FETCH + code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(len(found))


def test_only_what_is_missing_or_damaged_is_fetched(tmp_path: Path, repository: Repository) -> None:
    """A damaged jar is replaced, an absent one fetched, the others left alone; leftovers of a killed fetch go away."""
    home = tmp_path / "jars"
    classpath(folder=home, report=print)
    repository.asked.clear()
    damaged, absent = list(read_manifest())[5:7]
    (home / damaged).write_bytes(b"PK")
    (home / absent).unlink()
    (home / ".incoming-dead").mkdir()
    classpath(folder=home, report=print)
    assert {Path(damaged).name, Path(absent).name} == {name for name in repository.asked if name.endswith(".jar")}
    assert not missing(home, read_manifest())
    assert not list(home.glob(".incoming-*"))


def test_other_bytes_are_refused_by_name(tmp_path: Path, repository: Repository) -> None:
    """A jar with a wrong checksum never reaches its place, whoever served it."""
    home, path = tmp_path / "jars", next(iter(read_manifest()))
    repository.spoilt[Path(path).name] = b"PK something else"
    with pytest.raises(Misconfigured, match=Path(path).name):
        classpath(folder=home, report=print)
    assert not (home / path).exists()


def test_torn_download_is_tried_again(tmp_path: Path, repository: Repository) -> None:
    """A connection that breaks once costs a second request, nothing else."""
    name = Path(next(iter(read_manifest()))).name
    repository.torn.add(name)
    classpath(folder=tmp_path / "jars", report=print)
    assert repository.asked[name] == 2
    assert not missing(tmp_path / "jars", read_manifest())


def test_silent_repository_is_unavailable(tmp_path: Path, repository: Repository) -> None:
    """Without a repository a first start says which file it lacks, and not the credentials of an address."""
    repository.shutdown()
    repository.server_close()
    (tmp_path / "jgo.conf").write_text("[repositories]\ncentral = http://me:hidden@127.0.0.1:9\n", encoding="ascii")
    with pytest.raises(Unavailable, match=r"\.jar cannot be fetched") as caught:
        classpath(folder=tmp_path / "jars", report=print)
    assert "hidden" not in str(caught.value)


def test_machine_s_own_certificates_are_trusted(
    tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A company's proxy is known to the machine's store of certificates, where requests does not look by itself."""
    store = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(store)
    repository.socket = context.wrap_socket(repository.socket, server_side=True)
    config = tmp_path / "jgo.conf"
    config.write_text(config.read_text().replace("http:", "https:"))
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(store))
    classpath(folder=tmp_path / "jars", report=print)
    assert not missing(tmp_path / "jars", read_manifest())
    assert "REQUESTS_CA_BUNDLE" not in os.environ


def certificate(folder: Path) -> Path:
    """Make a self-signed certificate for 127.0.0.1, with its private key in the same file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "repository")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    address = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    signed = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "store.pem").write_bytes(private + signed.public_bytes(Encoding.PEM))
    return folder / "store.pem"


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The message names the folder, not only the system call."""
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="file/jars"):
        classpath(folder=tmp_path / "file" / "jars", report=print)


def test_two_starts_at_once_fetch_once(tmp_path: Path, repository: Repository) -> None:
    """The second program waits for the first and then finds everything there."""
    code = FETCH + f"classpath(folder=Path({str(tmp_path / 'jars')!r}), report=print)"
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [program.wait(60) for program in both] == [0, 0]
    assert {count for name, count in repository.asked.items() if name.endswith(".jar")} == {1}
    assert not missing(tmp_path / "jars", read_manifest())
