"""`keymill replay` in verify mode; what it finds missing is what a repair asks for."""

from collections.abc import Mapping

from rich.console import Console

from keymill.config import ProcessorSettings
from keymill.kafka.admin import group_offsets
from keymill.kafka.scan import Scanner
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.ops import lacking, source
from keymill.ops.claimed import winners_of
from keymill.ops.lacking import Lacking, Lacks, Referred
from keymill.ops.progress import Advance
from keymill.ops.recomputed import Winners
from keymill.ops.replay_partitions import asset_decider, policy_decider, verify_assets, verify_policies
from keymill.ops.replay_scope import Asked
from keymill.ops.report import Report
from keymill.ops.source import Source
from keymill.ops.verifying import Verifier
from schemas.topics import ASSETS, POLICY_CHANGES
from streams import policies
from streams.decide import Decider


def verify(settings: ProcessorSettings, bootstrap: str, asked: Asked, console: Console) -> tuple[Report, Lacking]:
    """
    Replay what was asked for: all assets and policies, or those that are named and the policies that they refer to.

    What the processors have committed is decided: they commit when its records are acknowledged, and the commits are
    read before the ends of those. So a record that is lost is missing, even where none that is newer tells so.
    """
    done = group_offsets(bootstrap, settings.group)
    with Scanner(bootstrap) as scanner:
        assets = Source.open(scanner, bootstrap, source.ASSETS)
        changes = Source.open(scanner, bootstrap, source.POLICIES)
        keyring = Keyring(KeyFile(settings.keys_path))
        replay = _Replay(asked, done)
        places = asked.partitions(assets.partitions), asked.policy_partitions(changes.partitions)
        with Advance("replaying partitions", sum(map(len, places)), console=console) as progress:
            decider, winners = asset_decider(settings, keyring, assets, Verifier), winners_of(scanner, bootstrap)
            starts = asked.starts(bootstrap, assets.source_ends)
            for partition in places[0]:
                replay.assets(assets, partition, decider, winners, starts.get(partition))
                progress.step()
            keeper = policy_decider(keyring, changes)
            for partition in places[1]:
                replay.policies(changes, partition, keeper)
                progress.step()
    return replay.report, {place: each for place, each in replay.lacking.items() if each}


class _Replay:
    """
    What is found, partition by partition: all assets first, then the policies.

    Args:
        done: the offsets that the processors have committed.
    """

    def __init__(self, asked: Asked, done: Mapping[tuple[str, int], int]) -> None:
        self.report = Report()
        self.lacking: dict[tuple[str, int], Lacks] = {}
        self._asked = asked
        self._done = done
        self._referred = Referred()

    def assets(self, assets: Source, partition: int, decider: Decider, winners: Winners, start: int | None) -> None:
        """One partition of the asset events."""
        place = (ASSETS.name, partition)
        lacks = self.lacking[place] = lacking.of_assets()

        def lacks_record(record_key: bytes, value: bytes) -> None:
            lacks.record(record_key, value)
            self._referred.take(record_key, value)

        held = verify_assets(
            assets, partition, decider, self.report, winners, scope=self._asked.scope(), start=start,
            lacking=lacks_record, refuse=lacks.letter, done=self._done.get(place, 0),
        )  # fmt: skip
        for record_key, value in held.values.items() if self._asked.assets is not None else ():
            self._referred.take(record_key, value)

    def policies(self, changes: Source, partition: int, keeper: policies.Decider) -> None:
        """One partition of the policy changes."""
        place = (POLICY_CHANGES.name, partition)
        lacks, done = lacking.of_policies(), self._done.get(place, 0)
        kept = verify_policies(
            changes, partition, keeper, self.report, lacking=lacks.record, refuse=lacks.letter, done=done,
            only=None if self._asked.assets is None else self._referred.policies,
        )  # fmt: skip
        lacks.until = max(done, kept.decided(changes.adopted.generation))
        self.lacking[place] = lacks
