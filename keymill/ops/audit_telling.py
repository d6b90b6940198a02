"""What `keymill audit` says of what it found: on stdout, on the status topic, in a ledger file."""

import time
from pathlib import Path
from typing import Any, Final

import typer

from keymill.kafka.admin import require_topics
from keymill.kafka.producer import Publisher
from keymill.kafka.status_topic import AUDITED
from keymill.ops import ledger as ledgers
from keymill.ops.audit_following import Looked
from keymill.ops.auditing import Audit
from keymill.ops.listing import print_differences, print_json
from schemas import topics
from schemas.codec import encode
from schemas.operations import AuditSummary

STATUS_EVERY_S: Final = 60.0
"""`keymill status` shows how old the last audit is; a note costs a connection."""


class Telling:
    """
    Says all that a whole pass found, and of a look at what came since no more than what is new.

    Args:
        ledger: a file for the fingerprints, written by every whole pass.
    """

    def __init__(self, bootstrap: str, ledger: Path | None, *, as_json: bool) -> None:
        self._bootstrap = bootstrap
        self._ledger = ledger
        self._as_json = as_json
        self._found: dict[str, Any] = {}
        self._differences = 0
        self._noted = 0.0

    def tell(self, looked: Looked, began: float) -> None:
        """Say what was found by an audit that began then, epoch seconds."""
        audit, result = looked.audit, looked.audit.result()
        if looked.whole and self._ledger:
            ledgers.write(audit.ledger(), self._ledger)
        differences = audit.findings.counts.total()
        if looked.whole or differences != self._differences or began - self._noted >= STATUS_EVERY_S:
            _note(self._bootstrap, audit, began)
            self._noted, self._differences = began, differences
        if looked.whole or result != self._found:
            _show(result, self._as_json)
            self._found = result


def _note(bootstrap: str, found: Audit, began: float) -> None:
    summary = AuditSummary(
        at=int(time.time() * 1000),
        took_ms=int((time.time() - began) * 1000),
        clean=found.clean(),
        differences=found.findings.counts.total(),
        events=found.numbers.events,
        assets=found.assets,
        key_records=found.key_records,
        policies=found.policies,
    )
    name = topics.STATUS.name
    publisher = Publisher(bootstrap, {name: require_topics(bootstrap, [name])[name].partitions})
    try:
        publisher.flush_all([publisher.send(name, AUDITED, encode(summary))])
    finally:
        publisher.close()


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    print_differences(result["differences"])
    counts = ", ".join(f"{count} {kind}" for kind, count in result["counts"].items()) or "no difference"
    typer.echo(
        f"{result['events']} events, {result['assets']} assets, {result['key_records']} key records, "
        f"{result['policies']} policies, {result['fingerprints']} fingerprints: {counts}"
    )
