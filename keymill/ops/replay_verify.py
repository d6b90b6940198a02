"""`keymill replay` in verify mode; the assets that lack a record are what a repair asks for."""

from rich.console import Console

from keymill.config import ProcessorSettings
from keymill.kafka.scan import Scanner
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.ops import source
from keymill.ops.claimed import winners_of
from keymill.ops.progress import Advance
from keymill.ops.replay_partitions import asset_decider, policy_decider, verify_assets, verify_policies
from keymill.ops.replay_scope import Asked
from keymill.ops.report import Report
from keymill.ops.source import Source
from keymill.ops.verifying import Verifier
from schemas.ids import partition_key

Lacking = dict[int, set[bytes]]
"""Record keys of the assets that lack a record, by partition."""


def verify(settings: ProcessorSettings, bootstrap: str, asked: Asked, console: Console) -> tuple[Report, Lacking]:
    """Replay what was asked for; the policies too, unless assets are named."""
    report, lacking = Report(), Lacking()
    with Scanner(bootstrap) as scanner:
        assets = Source.open(scanner, bootstrap, source.ASSETS)
        changes = Source.open(scanner, bootstrap, source.POLICIES)
        keyring, winners = Keyring(KeyFile(settings.keys_path)), winners_of(scanner, bootstrap)
        decider, keeper = asset_decider(settings, keyring, assets, Verifier), policy_decider(keyring, changes)
        partitions, starts = asked.partitions(assets.partitions), asked.starts(bootstrap, assets.source_ends)
        of_policies = range(changes.partitions) if asked.assets is None else range(0)
        with Advance("replaying partitions", len(partitions) + len(of_policies), console=console) as progress:
            for partition in partitions:
                found: set[bytes] = set()

                def lacks(record_key: bytes, _value: bytes, found: set[bytes] = found) -> None:
                    found.add(partition_key(record_key))

                verify_assets(
                    assets, partition, decider, report, winners,
                    scope=asked.scope(), start=starts.get(partition), lacking=lacks,
                )  # fmt: skip
                if found:
                    lacking[partition] = found
                progress.step()
            for partition in of_policies:
                verify_policies(changes, partition, keeper, report)
                progress.step()
    return report, lacking
