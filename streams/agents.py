"""The agents of a processor, put together: deciders over one keyring, owners of the topics that they write to."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from keymill.config import ProcessorSettings
from keymill.kafka.admin import end_offsets
from keymill.kafka.lens import Lens, offsets
from keymill.kafka.producer import Publisher
from keymill.kms.keyring import Keyring
from keymill.snapshot.reader import SnapshotReader
from schemas import framing, topics
from schemas.records import PolicyRecord, TopicAdopted
from schemas.topics import Topic
from streams import decide, decide_requests, policies, policy_repairs
from streams.claimant import Claimant
from streams.owner import Owner
from streams.policies import PolicyKeeper
from streams.provision import Provisioner
from streams.registry import NO_SCHEMAS, SchemaRegistry
from streams.requests import PolicyRequester, Requester
from streams.reread import read_events

Agents = tuple[Provisioner, PolicyKeeper, Requester]


def agents_of(
    settings: ProcessorSettings,
    adopted: Mapping[str, TopicAdopted],
    keyring: Keyring,
    reader: SnapshotReader,
    publisher: Publisher,
    registry: SchemaRegistry | None,
) -> Agents:
    """The agents of a processor, over one view and one publisher."""
    assets, changes = adopted[topics.ASSETS.name], adopted[topics.POLICY_CHANGES.name]
    decoder = partial(framing.decode_event, registry=registry.cached if registry else None)
    schemas = registry or NO_SCHEMAS
    keys = _owner(settings, topics.KEYS, topics.ASSETS, reader, publisher)
    kept = _owner(settings, topics.POLICIES, topics.POLICY_CHANGES, reader, publisher)
    decider = decide.Decider(keyring, decoder, partitions=assets.partitions, generation=assets.generation, goes_on=True)
    keeper = policies.Decider(keyring, partitions=changes.partitions, generation=changes.generation, goes_on=True)
    return (
        Provisioner(
            decider=decider,
            owner=keys,
            partitions=assets.partitions,
            claimant=_claimant(settings, adopted, reader, publisher),
            schemas=schemas,
        ),
        PolicyKeeper(decider=keeper, owner=kept, partitions=changes.partitions),
        Requester(
            decider=_requests(adopted, keyring, decider),
            owner=keys,
            partitions=assets.partitions,
            read=partial(read_events, settings.bootstrap, topics.ASSETS.name),
            of_policies=_policy_requester(settings, adopted, keeper, kept),
            schemas=schemas,
        ),
    )


def _requests(adopted: Mapping[str, TopicAdopted], keyring: Keyring, assets: decide.Decider) -> decide_requests.Decider:
    requests, of_assets = adopted[topics.REQUESTS.name], adopted[topics.ASSETS.name]
    return decide_requests.Decider(
        keyring,
        assets,
        partitions=requests.partitions,
        generation=requests.generation,
        asset_generation=of_assets.generation,
    )


def _policy_requester(
    settings: ProcessorSettings,
    adopted: Mapping[str, TopicAdopted],
    keeper: policies.Decider,
    owner: Owner[PolicyRecord],
) -> PolicyRequester:
    requests, changes = adopted[topics.REQUESTS.name], adopted[topics.POLICY_CHANGES.name]
    return PolicyRequester(
        decider=policy_repairs.Decider(keeper, generation=requests.generation, change_generation=changes.generation),
        owner=owner,
        partitions=changes.partitions,
        read=partial(read_events, settings.bootstrap, topics.POLICY_CHANGES.name),
    )


def _owner(
    settings: ProcessorSettings, target: Topic, source: Topic, reader: SnapshotReader, publisher: Publisher
) -> Owner[Any]:
    end_offset = partial(_end_offset, settings.bootstrap, target.name)
    return Owner(target, source=source, reader=reader, publisher=publisher, end_offset=end_offset)


def _claimant(
    settings: ProcessorSettings, adopted: Mapping[str, TopicAdopted], reader: SnapshotReader, publisher: Publisher
) -> Claimant:
    lens = Lens({"bootstrap.servers": settings.bootstrap})
    places = [(topics.KEYS.name, partition) for partition in range(adopted[topics.KEYS.name].partitions)]
    return Claimant(
        reader,
        publisher,
        key_ends=lambda: offsets(lens.ask_ends(places).answer()),
        partitions=adopted[topics.CLAIMS.name].partitions,
    )


def _end_offset(bootstrap: str, topic: str, partition: int) -> int:
    return end_offsets(bootstrap, topic)[partition]
