"""What ops and programs write down about the pipeline itself: requests to owners, reports of programs, audits.

The `.avsc` files beside this module are the contract; field names and order are theirs.
"""

from enum import StrEnum

from schemas import ids
from schemas.values import MAX_TIME_MS, Record, check_least, check_range, check_text


class RequestKind(StrEnum):
    """What the owner of a partition is asked to do for one asset."""

    REPAIR = "REPAIR"
    REWRAP = "REWRAP"


class OwnerRequest(Record, frozen=True, kw_only=True):
    """
    Asks the partition's owner to write what it would have written: it decides again, and never changes a key.

    Args:
        kek_epoch: REWRAP only: key records of a lower epoch are wrapped under this one.
        generation: of the asset topic that *offsets* are of.
        offsets: REPAIR only, ascending: every accepted event of the asset.
    """

    organization: str
    asset: str
    kind: RequestKind
    kek_epoch: int | None = None
    generation: int = 0
    offsets: tuple[int, ...] = ()
    request_id: str
    requested: int

    def __post_init__(self) -> None:
        ids.check_organization(self.organization)
        ids.check_asset(self.asset)
        check_least(self.kek_epoch, 1, "kek_epoch")
        check_least(self.generation, 0, "generation")
        check_text(self.request_id, "request_id")


class RepairRequest(Record, frozen=True, kw_only=True):
    """
    Asks a partition's owner to decide records of its source again, all of one record key, and to publish what is gone.

    Args:
        topic: the source; *partition* and *generation* are of it.
        offsets: ascending: every accepted record of the record key.
        refused: ascending: those refused records of the record key whose dead letters are gone.
    """

    topic: str
    partition: int
    generation: int
    offsets: tuple[int, ...]
    refused: tuple[int, ...]
    request_id: str
    requested: int

    def __post_init__(self) -> None:
        check_least(self.partition, 0, "partition")
        check_least(self.generation, 0, "generation")
        check_text(self.topic, "topic")
        check_text(self.request_id, "request_id")


class PartitionPosition(Record, frozen=True, kw_only=True):
    """Everything below *position* of a partition is in the view, or committed."""

    partition: int
    position: int


class TopicProgress(Record, frozen=True, kw_only=True):
    """How far a program has come in a topic: its view, or as a group member its commits."""

    topic: str
    positions: tuple[PartitionPosition, ...]


class KekEpochs(Record, frozen=True, kw_only=True):
    """The KEK epochs of an organization that a program holds, ascending."""

    organization: str
    epochs: tuple[int, ...]


class ProgramReport(Record, frozen=True, kw_only=True):
    """
    What a live program says of itself every few seconds; its last word has `stopped`.

    Args:
        started, at, stopped: epoch ms.
        waits_for: why it is not ready, in words; None when it is.
        behind: records between its view and the end that it knows.
        staleness_ms: since its view last heard from the brokers.
    """

    program: str
    instance: str
    version: str
    started: int
    at: int
    stopped: int | None = None
    waits_for: str | None = None
    behind: int = 0
    staleness_ms: int = 0
    progress: tuple[TopicProgress, ...] = ()
    keks: tuple[KekEpochs, ...] = ()

    def __post_init__(self) -> None:
        for name in ("started", "at", "stopped"):
            check_range(getattr(self, name), 0, MAX_TIME_MS, name)


class AuditSummary(Record, frozen=True, kw_only=True):
    """How the last audit ended; `at` is epoch ms, `differences` counts them all."""

    at: int
    took_ms: int
    clean: bool
    differences: int
    events: int
    assets: int
    key_records: int
    policies: int

    def __post_init__(self) -> None:
        check_range(self.at, 0, MAX_TIME_MS, "at")
