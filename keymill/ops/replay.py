"""
`keymill replay`: read the log from its beginning and compare (ARCHITECTURE.md, step 9).

Writes nothing, may run while everything serves.
"""

from functools import partial

import msgspec
import typer
from rich.console import Console

from keymill.config import ProcessorSettings, load
from keymill.kafka.scan import Scanner
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.ops import source
from keymill.ops.address import bootstrap_of
from keymill.ops.claimed import winners_of
from keymill.ops.options import Bootstrap, Data, File, Json
from keymill.ops.progress import Advance
from keymill.ops.recomputed import Winners
from keymill.ops.replaying import Held, Report, compare
from keymill.ops.replaying_policies import HeldPolicies, compare_policies
from keymill.ops.source import Source
from keymill.ops.verifying import Verifier
from schemas.framing import decode_event
from streams import decide, policies
from streams.registry import registry_lookup


def asset_decider(
    settings: ProcessorSettings, keyring: Keyring, assets: Source, kind: type[decide.Decider] = decide.Decider
) -> decide.Decider:
    """The processors' own, or one that decides as they do, for what that source holds."""
    decoder = partial(decode_event, registry=registry_lookup(settings.registry_url))
    return kind(keyring, decoder, partitions=assets.partitions, generation=assets.adopted.generation)


def policy_decider(keyring: Keyring, changes: Source) -> policies.Decider:
    """The processors' own, for what that source holds."""
    return policies.Decider(keyring, partitions=changes.partitions, generation=changes.adopted.generation)


def verify(settings: ProcessorSettings, bootstrap: str, console: Console) -> Report:
    """Replay every partition of both source topics."""
    report = Report()
    with Scanner(bootstrap) as scanner:
        assets = Source.open(scanner, bootstrap, source.ASSETS)
        changes = Source.open(scanner, bootstrap, source.POLICIES)
        keyring = Keyring(KeyFile(settings.keys_path))
        winners = winners_of(scanner, bootstrap)
        decider, keeper = asset_decider(settings, keyring, assets, Verifier), policy_decider(keyring, changes)
        with Advance("replaying partitions", assets.partitions + changes.partitions, console=console) as progress:
            for partition in range(assets.partitions):
                verify_assets(assets, partition, decider, report, winners)
                progress.step()
            for partition in range(changes.partitions):
                verify_policies(changes, partition, keeper, report)
                progress.step()
    return report


def verify_assets(assets: Source, partition: int, decider: decide.Decider, report: Report, winners: Winners) -> Held:
    """Replay one partition of the asset events; returns what the key topic holds."""
    held = Held(partition)
    for record_key, value in assets.held(partition):
        held.add(record_key, value, report)
    refused, generation = assets.refused(partition), assets.adopted.generation
    compare(assets.events(partition), held, decider, generation, report, refused, winners=winners)
    return held


def verify_policies(changes: Source, partition: int, decider: policies.Decider, report: Report) -> HeldPolicies:
    """Replay one partition of the policy changes; returns what the policy topic holds."""
    held = HeldPolicies()
    for record_key, value in changes.held(partition):
        held.add(record_key, value, report)
    refused, generation = changes.refused(partition), changes.adopted.generation
    compare_policies(changes.events(partition), held, decider, generation, report, refused)
    return held


def replay(settings: File = None, data: Data = None, bootstrap: Bootstrap = None, as_json: Json = False) -> int:
    """
    Derive again what every event and policy change calls for and compare it with keys and policies; changes nothing.

    Exit code 1 when anything is missing, different or unexpected; each difference is listed.
    """
    loaded = load(ProcessorSettings, file=settings, data=data, bootstrap=bootstrap)
    report = verify(loaded, bootstrap_of(loaded), Console(stderr=True))
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        show(report)
    return 0 if report.clean() else 1


def show(report: Report) -> None:
    """Print a report for people."""
    for each in report.differences:
        typer.echo(f"{each.kind}: {each.record_key}: {each.detail}")
    typer.echo(
        f"{report.events} events: {report.identical} records identical, {report.missing} missing, "
        f"{report.different} different, {report.unexpected} unexpected, {report.refused} events refused, "
        f"{report.pending} pending"
    )
