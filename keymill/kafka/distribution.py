"""
The jars of Apache Kafka, as `kafka-jars.sha256` beside this file names them.

The manifest decides: a jar counts only with the bytes it names, and with all of them in the user's cache folder nothing
is fetched and jgo is not even imported. What is missing comes from Maven Central, or from what jgo's own configuration
and the proxy variables name instead, so that no repository address stands in this project.

    python -m keymill.kafka.distribution                    fetch and check; prints the folder
    python -m keymill.kafka.distribution --write-manifest   resolve KAFKA again and rewrite the manifest
"""

import fcntl
import hashlib
import logging
import os
import re
import shutil
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import typer

from keymill.durable import own_file
from keymill.errors import KeymillError, Misconfigured, Unavailable
from keymill.telemetry import logger

if TYPE_CHECKING:
    from jgo.maven import MavenContext

VERSION = "4.1.2"
KAFKA = f"org.apache.kafka:kafka_2.13:{VERSION}"
# Kafka logs through slf4j 1.7 and brings log4j-core, but not the bridge between them; its version is log4j-core's.
BRIDGE = ("org.apache.logging.log4j", "log4j-slf4j-impl")
LOGGED_BY = ("org.apache.logging.log4j", "log4j-core")

MANIFEST = "kafka-jars.sha256"
DOWNLOADS = 6  # at once; Maven Central throttles a client that opens many more
ATTEMPTS = 3  # per jar: one hiccup in fifty downloads must not fail a first start
TIMEOUT_S = 30
REPORT_EVERY_S = 3
CREDENTIALS = re.compile(r"//[^/@\s]*@")  # of a repository's or a proxy's address; errors quote addresses

Report = Callable[[str], None]


def classpath(*, folder: Path | None = None, report: Report | None = None) -> tuple[Path, ...]:
    """
    Give the jars of Kafka, every one checked; fetch what the folder lacks.

    Two programs may ask at the same time: one fetches, the other waits. A jar appears in the folder complete and
    checked or not at all, so an interrupted download goes on where it stopped.

    Args:
        folder: where the jars are kept; the user's cache folder if not given.
        report: told how it goes, in lines; a terminal's stderr or else the log if not given.

    Raises:
        Misconfigured: a repository serves other bytes than the manifest names, or the folder cannot be written.
        Unavailable: jars are missing and no repository answers.
    """
    home = folder or cache_folder()
    manifest = read_manifest()
    if missing(home, manifest):
        try:
            home.mkdir(parents=True, exist_ok=True)
            with _locked(home), _machine_trust():
                _fetch(home, missing(home, manifest), report or _report)
        except OSError as error:
            raise Misconfigured(f"the folder {home} for Kafka's jars cannot be written: {error}") from error
    return tuple(home / path for path in manifest)


def cache_folder() -> Path:
    """Name the folder that keeps the jars of this version, shared by all programs of one user."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "keymill" / f"kafka-{VERSION}"


def read_manifest() -> dict[str, str]:
    """Read path → SHA-256 (hex) in the order of the manifest; paths are those of a Maven repository."""
    lines = files(__package__).joinpath(MANIFEST).read_text(encoding="ascii").splitlines()
    return {path: digest for digest, path in (line.split("  ", 1) for line in lines)}


def missing(folder: Path, manifest: Mapping[str, str]) -> dict[str, str]:
    """Give the part of the manifest that the folder lacks or holds with other bytes."""
    return {path: digest for path, digest in manifest.items() if _digest(folder / path) != digest}


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return ""


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with own_file(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(home: Path, wanted: Mapping[str, str], report: Report) -> None:
    if not wanted:
        return  # another program fetched them while this one waited for the lock
    started = reported = time.monotonic()
    size = 0
    for left in home.glob(".incoming-*"):  # of a program that was killed; the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    report(f"Apache Kafka {VERSION}: fetching {len(wanted)} jars into {home} (once)")
    with tempfile.TemporaryDirectory(dir=home, prefix=".incoming-") as incoming, ThreadPoolExecutor(DOWNLOADS) as pool:
        context = _maven(Path(incoming))
        jobs = [pool.submit(_fetch_jar, context, home, path, digest) for path, digest in wanted.items()]
        try:
            for done, job in enumerate(as_completed(jobs), 1):
                size += job.result()
                if time.monotonic() - reported > REPORT_EVERY_S:
                    reported = time.monotonic()
                    report(f"Apache Kafka {VERSION}: {done} of {len(wanted)} jars, {size / 1e6:.0f} MB")
        finally:
            pool.shutdown(cancel_futures=True)
    report(f"Apache Kafka {VERSION}: {len(wanted)} jars, {size / 1e6:.0f} MB, in {time.monotonic() - started:.0f} s")


def _fetch_jar(context: "MavenContext", home: Path, path: str, digest: str) -> int:
    """Fetch one jar, check it, move it to its place; returns its size in bytes."""
    name = PurePosixPath(path).name
    for attempt in range(ATTEMPTS):
        time.sleep(attempt)
        try:
            jar = _download(context, path)
        except (OSError, RuntimeError) as error:  # requests' errors are OSErrors, jgo's "in no repository" the other
            told = CREDENTIALS.sub("//", str(error))
            reason: KeymillError = Unavailable(f"{name} cannot be fetched, and a first start of Kafka needs it: {told}")
            continue
        found = _digest(jar)
        if found == digest:
            size = jar.stat().st_size
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            jar.replace(home / path)
            return size
        jar.unlink()
        reason = Misconfigured(
            f"{name} has SHA-256 {found}, {MANIFEST} names {digest}: the repository serves another file"
        )
    raise reason


def _download(context: "MavenContext", path: str) -> Path:
    *group, artifact, version, name = PurePosixPath(path).parts
    classifier = PurePosixPath(name).stem.removeprefix(f"{artifact}-{version}").removeprefix("-")
    component = context.project(".".join(group), artifact).at_version(version)
    wanted = component.artifact(classifier, "jar")
    (context.repo_cache / path).unlink(missing_ok=True)  # a broken download of the attempt before; jgo would take it
    return wanted.resolve()


def _maven(folder: Path) -> "MavenContext":
    """Open jgo's pure Python resolver on *folder*, with the repositories that its configuration adds or replaces."""
    from jgo.config import GlobalSettings  # noqa: PLC0415  most starts fetch nothing and need no jgo
    from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415

    # jgo warns about a checksum that the repository itself got wrong; ours decides.
    logging.getLogger("jgo").setLevel(logging.ERROR)
    context = MavenContext(resolver=PythonResolver(), repo_cache=folder, timeout=TIMEOUT_S)
    context.remote_repos.update(GlobalSettings.load().repositories)
    return context


@contextmanager
def _machine_trust() -> Iterator[None]:
    """
    Let requests trust the certificates that the machine trusts, unless it was told otherwise.

    By itself it knows only those it brings along, and behind a company's proxy none of them is right. What is fetched
    is decided by checksums in any case.
    """
    store = ssl.get_default_verify_paths().cafile  # SSL_CERT_FILE, or OpenSSL's own
    told = {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"} & set(os.environ)
    if told or store is None:
        yield
        return
    os.environ["REQUESTS_CA_BUNDLE"] = store
    try:
        yield
    finally:
        del os.environ["REQUESTS_CA_BUNDLE"]


def write_manifest() -> dict[str, str]:
    """Resolve KAFKA and the logging bridge anew and rewrite the manifest; needs a repository."""
    with _machine_trust(), tempfile.TemporaryDirectory() as folder:
        context = _maven(Path(folder))
        inputs, transitive = context.resolver.resolve([context.create_dependency(KAFKA)])
        artifacts = [dependency.artifact for dependency in [*inputs, *transitive]]
        (core,) = (a for a in artifacts if (a.groupId, a.artifactId) == LOGGED_BY)
        # Not resolved together with KAFKA: jgo would let the bridge's dependencyManagement pin an older kafka-clients.
        artifacts.append(context.project(*BRIDGE).at_version(core.version).artifact())
        with ThreadPoolExecutor(DOWNLOADS) as pool:
            jars = list(pool.map(lambda artifact: artifact.resolve(), artifacts))
        paths = sorted(jar.relative_to(folder).as_posix() for jar in jars)
        manifest = {path: _digest(Path(folder, path)) for path in paths}
    text = "".join(f"{digest}  {path}\n" for path, digest in manifest.items())
    (Path(__file__).parent / MANIFEST).write_text(text, encoding="ascii")
    return manifest


def _report(line: str) -> None:
    """Tell a person at a terminal, or the log."""
    if sys.stderr.isatty():
        _plain(line)
    else:
        logger("kafka.distribution").info("jars", progress=line)


def main(write: bool = typer.Option(False, "--write-manifest", help="Resolve again and rewrite the manifest.")) -> None:
    """Fetch and check the jars of Apache Kafka."""
    try:
        if write:
            _plain(f"{MANIFEST}: {len(write_manifest())} jars of {KAFKA}")
        classpath(report=_plain)
    except KeymillError as error:
        _plain(str(error))
        raise typer.Exit(1) from error
    typer.echo(cache_folder())


def _plain(line: str) -> None:
    typer.echo(line, err=True)


if __name__ == "__main__":
    typer.run(main)
