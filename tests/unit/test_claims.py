"""KIDs that callers choose or bring: what the fold takes, who wins a KID, and which key it gets."""

from functools import partial
from itertools import count, islice
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from keymill.core.claim_log import folded as folded_claims
from keymill.core.claim_log import release_of, winner
from keymill.core.claims import claims_of
from keymill.core.derive import derive_chosen
from keymill.core.envelope import unwrap_imported, unwrap_keys
from keymill.core.folding import fold
from keymill.errors import Conflict, InvalidRecord, Misconfigured, Reject, UnknownKey
from keymill.kafka.outgoing import Outgoing
from keymill.kms.keyring import Keyring
from keymill.kms.provider import RootActivation
from schemas import framing, topics
from schemas.codec import encode
from schemas.events import AssetEvent, TrackWish
from schemas.ids import asset_key, claim_key
from schemas.partition import partition_for
from schemas.records import Claim, DeadLetter, KeyOrigin
from schemas.values import CLEAR_LABEL, Scheme
from streams.decide import Decided, Decider
from streams.runs import RawRecord
from tests.agent_rig import AgentRig, bounded
from tests.builders import INTAKE_KEK, K_FP, NOW, at, folded, imported, ingest, rotate, tracks_of
from tests.fakes import MemoryKms
from tests.known import MemoryKnown, decide

PARTITIONS = 4
K, L = b"k" * 16, b"l" * 16
CEK, OTHER_CEK = b"c" * 16, b"d" * 16


def chosen(*names: tuple[str, bytes | None], asset: str = "bbb", **body) -> AssetEvent:
    """An ingest event of tracks, each with the KID that the caller names."""
    return ingest(asset=asset, tracks=tuple(TrackWish(label=label, kid=kid) for label, kid in names), **body)


def brought(label: str = "SD", kid: bytes = K, cek: bytes = CEK, asset: str = "bbb", **body) -> AssetEvent:
    """An ingest event that brings a key."""
    return ingest(asset=asset, tracks=(TrackWish(label=label, kid=kid, imported=imported(kid, cek)),), **body)


class World:
    """A decider over what was written, fed event by event at ascending offsets."""

    def __init__(self, kms: MemoryKms | None = None) -> None:
        self.keyring = Keyring(kms or MemoryKms())
        decode = partial(framing.decode_event, registry=None)
        self.decider = Decider(self.keyring, decode, partitions=PARTITIONS, generation=0)
        self.known = MemoryKnown()
        self.offsets = count()

    def raw(self, event: AssetEvent, offset: int | None = None) -> RawRecord:
        key = asset_key(event.organization, event.asset)
        place = next(self.offsets) if offset is None else offset
        partition = partition_for(key, PARTITIONS)
        return RawRecord(topics.ASSETS.name, partition, place, NOW, 1, key, encode(event), ())

    def take(self, event: AssetEvent, offset: int | None = None) -> Decided:
        return decide(self.decider, self.known, self.raw(event, offset))

    def take_run(self, events: list[AssetEvent]) -> Decided:
        """Events of one partition, that one fetch brought."""
        return decide(self.decider, self.known, *(self.raw(event) for event in events))

    def refused(self, event: AssetEvent) -> DeadLetter:
        decided = self.take(event)
        assert (decided.assets, decided.key_records) == ({}, {})
        (letter,) = decided.dead_letters
        return letter

    def keys(self, asset: str = "bbb") -> dict[bytes, tuple[bytes, KeyOrigin]]:
        """KID to CEK and origin, opened."""
        return {
            track.kid: (key.cek.reveal(), track.origin)
            for record in self.known.keys.values()
            if record.asset == asset
            for track, key in zip(record.tracks, self.opened(record), strict=True)
        }

    def opened(self, record):
        return unwrap_keys(self.keyring.kek("demo", record.kek_epoch), self.keyring.k_fp("demo"), record)

    def chosen_cek(self, kid: bytes, root_version: int = 1) -> bytes:
        return derive_chosen(self.keyring.prk("demo", root_version), "demo", kid).cek.reveal()


@pytest.fixture
def world() -> World:
    return World()


def test_one_key_record_holds_derived_chosen_and_imported_tracks(world: World) -> None:
    """The event's tracks stay together, whatever their keys come from."""
    wishes = (
        TrackWish(label="SD"),
        TrackWish(label="HD", kid=K),
        TrackWish(label="AUDIO", kid=L, imported=imported(L, CEK)),
    )
    decided = world.take(ingest(tracks=wishes))
    assert (len(decided.key_records), decided.dead_letters) == (1, [])
    keys = world.keys()
    assert keys[K] == (world.chosen_cek(K), KeyOrigin.CHOSEN)
    assert keys[L] == (CEK, KeyOrigin.IMPORTED)
    assert [origin for _, origin in keys.values()].count(KeyOrigin.DERIVED) == 1
    assert {claim.kid: claim.fp is None for claim in world.known.claims.values()} == {K: True, L: False}


def test_nothing_is_published_before_its_claims_are_read_back(world: World) -> None:
    """The first pass only collects claims; the second one decides by the winner."""
    record = world.raw(chosen(("SD", K)))
    decided = world.decider.begin(None)  # type: ignore[arg-type]
    world.decider.record(record, decided, world.known)
    (claim,) = decided.claims.values()
    assert (claim.asset, claim.key_version, claim.root_version, claim.event.offset) == ("bbb", 1, 1, 0)
    assert (decided.key_records, decided.dead_letters) == ({}, [])


def test_events_without_kids_ask_nobody(world: World) -> None:
    """Throughput of derived keys pays nothing for claims."""
    world.known.claim = world.known.owner = None  # type: ignore[method-assign, assignment]
    assert world.take(ingest("SD", "HD")).dead_letters == []
    assert world.take(rotate(2)).dead_letters == []


def test_a_claimed_kid_is_refused_to_another_asset_with_the_winners_coordinates(world: World) -> None:
    """Nothing changes, and the sender can go and look."""
    world.take(chosen(("SD", K), asset="first"))
    before = dict(world.known.keys)
    letter = world.refused(chosen(("SD", K), ("HD", L), asset="second"))
    partition = partition_for(b"demo/first", PARTITIONS)
    assert (letter.reason, letter.field) == ("kid_taken", "tracks.kid")
    assert (
        f"asset first, key version 1, through the event at drm.assets.v1 partition {partition} offset 0"
        in letter.message
    )
    assert world.known.keys == before
    assert world.known.claim("demo", L) is None, "an event that is refused anyway claims nothing"


@pytest.mark.parametrize(
    "event",
    [
        chosen(("SD", K)),
        chosen(("HD", K), key_version=2),
        brought(),
        brought("HD"),
        chosen(("SD", L)),
    ],
    ids=["same", "another version", "a key for it", "a key for it on another track", "another KID"],
)
def test_only_the_same_material_of_the_same_version_is_a_repeat(world: World, event: AssetEvent) -> None:
    """The KID with another key, under another version, or another KID for the track: refused."""
    world.take(chosen(("SD", K)))
    before = dict(world.known.keys)
    decided = world.take(event)
    assert (decided.dead_letters == []) == (event == chosen(("SD", K)))
    assert world.known.keys == before


def test_a_released_kid_goes_to_whoever_claims_it_next(world: World) -> None:
    """An event claimed two KIDs and was refused: the one that it lost nothing by is free again once it is released."""
    orphan = Claim(
        organization="demo", kid=L, asset="bbb", key_version=2, label="SD", scheme=Scheme.CBCS, root_version=1,
        event=at(0).position,
    )  # fmt: skip
    key = claim_key("demo", L)
    world.known.claims[key] = orphan
    assert world.refused(chosen(("SD", L), asset="second")).reason == "kid_taken"
    stands = folded_claims(orphan, release_of(orphan))
    assert winner(stands) is None
    del world.known.claims[key]  # what a view says of a claim that was released
    assert world.take(chosen(("SD", L), asset="second")).dead_letters == []
    assert world.keys("second") == {L: (world.chosen_cek(L), KeyOrigin.CHOSEN)}
    assert world.refused(chosen(("SD", L))).reason == "kid_taken"


def test_several_tracks_of_a_version_may_share_a_kid(world: World) -> None:
    """One key, in one record or in a later one; never with clear-key HLS."""
    world.take(chosen(("SD", K), ("HD", K)))
    world.take(chosen(("AUDIO", K)))
    assert tracks_of(world.known.assets[b"demo/bbb"]) == [(label, Scheme.CBCS) for label in ("SD", "HD", "AUDIO")]
    assert world.keys() == {K: (world.chosen_cek(K), KeyOrigin.CHOSEN)}
    assert world.refused(chosen((CLEAR_LABEL, K))).reason == "clear_key_shared"


def test_a_tracks_own_derived_kid_is_no_choice(world: World) -> None:
    """A packager that repeats the KID it was given gets the same key, before and after the track exists."""
    world.take(ingest("SD"))
    (own,) = world.keys()
    assert world.take(chosen(("SD", own))).dead_letters == []
    (derived,) = [key for key, _ in world.keys().values()]
    assert world.take(brought(kid=own, cek=derived)).dead_letters == []
    assert world.refused(brought(kid=own, cek=CEK)).reason == "conflict"
    fresh = World()
    assert fresh.take(chosen(("SD", own))).dead_letters == []
    assert fresh.keys() == world.keys()
    assert fresh.known.claims == world.known.claims == {}


def test_a_derived_kid_of_another_asset_is_refused(world: World) -> None:
    """And of another track or version of the same one; the message names the event that it came with."""
    world.take(ingest("SD"))
    (own,) = world.keys()
    letter = world.refused(chosen(("SD", own), asset="other"))
    assert letter.reason == "kid_taken"
    assert "asset bbb" in letter.message
    for event in (chosen(("HD", own)), chosen(("SD", own), key_version=2)):
        assert world.refused(event).reason == "kid_taken"


def test_the_claims_root_version_derives_the_key() -> None:
    """What the claim pinned holds, whatever the schedule says by now."""
    kms = MemoryKms(activations=tuple(RootActivation(root_version=n, activates=n - 1) for n in (1, 2)))
    world = World(kms)
    world.take(chosen(("SD", K)))
    assert world.keys() == {K: (world.chosen_cek(K, 2), KeyOrigin.CHOSEN)}
    assert world.known.claim("demo", K).root_version == 2  # type: ignore[union-attr]


def test_a_rotation_gives_derived_keys(world: World) -> None:
    """A KID belongs to one version: what follows is keymill's own."""
    world.take(brought())
    world.take(rotate(2))
    newest = world.known.assets[b"demo/bbb"].versions[1]
    assert [track.kid for key_set in newest.key_sets for track in key_set.tracks] == [None]
    assert sorted(origin for _, origin in world.keys().values()) == ["DERIVED", "IMPORTED"]


def test_a_redelivered_event_is_decided_alike(world: World) -> None:
    """After a kill between claim and record, and after all was written."""
    event = brought()
    first = world.take(event, 3)
    assert world.take(event, 3).key_records == {}
    claimed = World()
    claimed.known.claims = dict(world.known.claims)
    assert claimed.take(event, 3).key_records == first.key_records
    lost = World()
    lost.known.assets = dict(world.known.assets)  # the key record and the claim are not in the view yet
    assert lost.take(event, 3).key_records == first.key_records


def test_a_lost_imported_key_is_left_to_a_repair(world: World) -> None:
    """Another event of the asset must not end the worker: the key is not at hand."""
    world.take(brought())
    world.known.keys.clear()
    decided = world.take(ingest("HD"))
    assert (decided.dead_letters, len(decided.key_records)) == ([], 1)
    assert KeyOrigin.IMPORTED not in [origin for _, origin in world.keys().values()]
    world.take(brought(event_id="again"))
    assert world.keys()[K] == (CEK, KeyOrigin.IMPORTED)


def test_a_key_that_does_not_open_claims_nothing(world: World) -> None:
    """Of another KID, or under an intake KEK that is not there."""
    wrong = imported(L, CEK)
    letter = world.refused(ingest(tracks=(TrackWish(label="SD", kid=K, imported=wrong),)))
    assert (letter.reason, letter.field, world.known.claims) == ("imported_key", "tracks.imported", {})
    assert CEK.hex() not in letter.message


def test_an_accepted_key_that_no_longer_opens_stops_the_worker(world: World) -> None:
    """It opened once: an old copy of the keys is no event's fault."""

    class Restored(MemoryKms):
        def intake_kek(self, epoch=None):
            return 1, MemoryKms().kek("other", 1)

    world.take(brought(), 0)
    world.known.keys.clear()
    again = World(Restored())
    again.known = world.known
    with pytest.raises(Misconfigured, match="restore the newest backup"):
        again.take(brought(), 0)


class OldCopy(MemoryKms):
    """A copy of the keys from before the second root."""

    def hmac(self, organization, root_version, message):
        if root_version == 2:
            raise UnknownKey("no root version 2")
        return super().hmac(organization, root_version, message)


@pytest.mark.parametrize(
    "event",
    [ingest("HD"), chosen(("HD", K)), chosen(("SD", K)), brought("HD", K), chosen(("SD", L), asset="another")],
    ids=["no KID", "another track", "the same track", "a key", "another asset"],
)
def test_an_old_copy_of_the_roots_refuses_no_event(event: AssetEvent) -> None:
    """A root that the asset or the winning claim pins and that is not here stops the worker: the event must wait."""
    world = World(MemoryKms(activations=tuple(RootActivation(root_version=n, activates=n - 1) for n in (1, 2))))
    world.take(ingest("SD"))
    world.take(chosen(("SD", L), asset="winner"))
    old = World(OldCopy())
    old.known, old.offsets = world.known, count(100)
    with pytest.raises(Misconfigured, match="newest backup"):
        old.take(event)


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (ingest(tracks=(TrackWish(label="SD", imported=imported(K, CEK)),)), "invalid_record"),
        (chosen(("SD", K), periods=(0, 1)), "kid_with_periods"),
        (chosen(("SD", K), ("SD", L)), "invalid_record"),
        (chosen(("SD", K), ("SD", None)), "invalid_record"),
        (chosen(("SD", K), (CLEAR_LABEL, K)), "clear_key_shared"),
        (
            ingest(tracks=(TrackWish(label="SD", kid=K), TrackWish(label="HD", kid=K, imported=imported(K, CEK)))),
            "invalid_record",
        ),
    ],
)
def test_wishes_that_contradict_themselves_are_refused(event: AssetEvent, code: str) -> None:
    """Before anything is claimed."""
    with pytest.raises(InvalidRecord) as refused:
        fold(event, at=at(0), held=None, root_version=1)
    assert (refused.value.code, refused.value.field) == (code, "tracks.kid")


def test_periods_beside_chosen_tracks_stay_derived() -> None:
    """A live channel's static key may be chosen; its periods' keys never are."""
    held = folded(chosen(("SD", K)), ingest("SD", periods=(0, 2)))
    live = held.versions[0].live
    assert live is not None
    assert [track.kid for track in live.tracks] == [None]


def test_the_intake_binds_organization_kid_and_epoch() -> None:
    """A wrapped key moved to another KID does not open."""
    key = imported(K, CEK)
    assert unwrap_imported(INTAKE_KEK, K_FP, organization="demo", kid=K, imported=key).cek.reveal() == CEK
    for other in ({"kid": L, "organization": "demo"}, {"kid": K, "organization": "other"}):
        with pytest.raises(InvalidRecord):
            unwrap_imported(INTAKE_KEK, K_FP, imported=key, **other)


WISH = st.tuples(st.sampled_from(("SD", "HD", "AUDIO")), st.sampled_from((None, K, L, b"m" * 16)))
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(("a", "b", "c")), st.lists(WISH, min_size=1, max_size=3), st.sampled_from((None, 1, 2)),
        st.booleans(),
    ),
    max_size=12,
)  # fmt: skip


@given(EVENTS)
def test_whatever_is_asked_a_kid_has_one_key_one_asset_and_one_version(asked) -> None:
    """And whatever is refused changes nothing; every accepted event has its key records."""
    world = World()
    owners: dict[bytes, tuple[str, int, bytes]] = {}
    for asset, wishes, key_version, brings in asked:
        tracks = tuple(
            TrackWish(label=label, kid=kid, imported=imported(kid, CEK) if brings and kid else None)
            for label, kid in wishes
        )
        before = dict(world.known.assets)
        decided = world.take(ingest(asset=asset, tracks=tracks, key_version=key_version))
        if decided.dead_letters:
            assert world.known.assets == before
        for record in world.known.keys.values():
            for track in record.tracks:
                mine = (record.asset, record.key_version, track.fp)
                assert owners.setdefault(track.kid, mine) == mine
        for held in world.known.assets.values():
            for version in held.versions:
                names = [(t.label, t.scheme) for key_set in version.key_sets for t in key_set.tracks]
                assert len(names) == len(set(names))
                for key_set in version.key_sets:
                    assert any(record_key.endswith(key_set.digest.hex().encode()) for record_key in world.known.keys)


TOGETHER = tuple(
    islice((name for name in map(str, count()) if not partition_for(asset_key("demo", name), PARTITIONS)), 3)
)
"""Names of assets whose events stand on one partition."""
A, B, _ = TOGETHER
KIDS = (K, L, b"m" * 16)
WISHES = st.dictionaries(st.sampled_from(("SD", "HD")), st.sampled_from((None, *KIDS)), min_size=1)
CHOSEN = st.builds(lambda asset, wishes: chosen(*wishes.items(), asset=asset), st.sampled_from(TOGETHER), WISHES)
BROUGHT = st.builds(
    brought, st.sampled_from(("SD", "HD")), st.sampled_from(KIDS), st.sampled_from((CEK, OTHER_CEK)),
    asset=st.sampled_from(TOGETHER),
)  # fmt: skip
LATER = st.one_of(CHOSEN, BROUGHT).map(lambda event: replace(event, body=replace(event.body, key_version=2)))
ROTATED = st.builds(lambda asset: replace(rotate(2), asset=asset), st.sampled_from(TOGETHER))


def runs_of(events: st.SearchStrategy[AssetEvent]) -> st.SearchStrategy[list[list[AssetEvent]]]:
    """What several fetches bring."""
    return st.lists(st.lists(events, min_size=1, max_size=6), max_size=4)


class Raced(MemoryKnown):
    """A `Lookup` behind the claims of another partition's processor: what that has won is read when one asks too."""

    def __init__(self, kids: frozenset[bytes]) -> None:
        super().__init__()
        events = [chosen(("SD", kid), asset="far") for kid in kids]
        won = [claim for event in events for claim in claims_of(event, folded(event), at(0).position).values()]
        self.quicker = {claim_key("demo", claim.kid): claim for claim in won}

    def claim_all(self, decided: Decided) -> None:
        self.claims = {key: self.quicker.get(key, claim) for key, claim in decided.claims.items()} | self.claims


def require_alike(runs: list[list[AssetEvent]], quicker: frozenset[bytes] = frozenset()) -> None:
    """Runs are decided as their events one by one."""
    together, single = World(), World()
    together.known, single.known = Raced(quicker), Raced(quicker)
    for run in runs:
        events = [replace(event, event_id=str(number)) for number, event in enumerate(run)]
        refused = [(letter.offset, letter.reason) for letter in together.take_run(events).dead_letters]
        letters = [letter for event in events for letter in single.take(event).dead_letters]
        assert refused == [(letter.offset, letter.reason) for letter in letters]
        assert together.known == single.known


@given(runs_of(st.one_of(CHOSEN, BROUGHT, LATER, ROTATED)))
@example([[chosen(("SD", L), asset=A), chosen(("SD", L), asset=B), chosen(("SD", K), asset=B, key_version=2)]])
def test_a_run_is_decided_as_its_events_one_by_one(runs) -> None:
    """Whoever stands first on the partition has the KID, however many events one fetch brings."""
    require_alike(runs)


@given(runs_of(CHOSEN), st.frozensets(st.sampled_from(KIDS), max_size=2))
@example([[chosen(("SD", L), asset=A), chosen(("SD", K), asset=A), chosen(("SD", K), asset=B)]], frozenset({L}))
@example(
    [[chosen(("SD", L), asset=A), chosen(("SD", K), ("HD", None), asset=A), chosen(("HD", KIDS[2]), asset=A)]],
    frozenset({L}),
)
def test_so_is_one_that_another_partition_has_forestalled(runs, quicker: frozenset[bytes]) -> None:
    """What rests on a claim that is lost claims nothing."""
    require_alike(runs, quicker)


def test_refusals_are_conflicts_or_invalid() -> None:
    """A sticky KID is a conflict: 409 at the gateway."""
    held = folded(chosen(("SD", K)))
    with pytest.raises(Conflict) as refused:
        fold(chosen(("SD", L)), at=at(1), held=held, root_version=1)
    assert refused.value.field == "tracks.kid"
    assert isinstance(refused.value, Reject)
    assert claim_key("demo", K) == b"demo/" + K.hex().encode()


def test_a_view_keeps_the_first_claim(tmp_path: Path) -> None:
    """Whatever stands behind it; a claim under another KID's record key is quarantined."""
    rig = AgentRig(tmp_path / "view", topics.CLAIMS)
    try:
        (first,) = claims_of(chosen(("SD", K)), folded(chosen(("SD", K))), at(3).position).values()
        later = replace(first, asset="other")
        misplaced = replace(first, kid=L)
        sent = [(K, first), (K, later), (b"m" * 16, misplaced)]
        records = [
            Outgoing(topic=rig.target, record_key=claim_key("demo", kid), value=encode(each)) for kid, each in sent
        ]
        bounded(rig.publisher.publish(records))
        rig.follow()
        assert rig.reader.claim("demo", K) == first
        assert (
            rig.reader.claim("demo", L) is rig.reader.claim("demo", b"m" * 16) is rig.reader.claim("other", K) is None
        )
        assert [each.reason for each in rig.reader.rejected()] == ["record_key_of_another"]
        assert rig.reader.regressions() == []
    finally:
        rig.close()


def test_a_key_that_opened_once_opens_for_nobody_else() -> None:
    """Copied into another organization's event, or under another fingerprint, it is refused after it was taken."""
    world = World(MemoryKms(names=("demo", "other")))
    world.take(brought())
    copied = replace(brought(), organization="other")
    assert world.refused(copied).reason == "imported_key"
    wish = TrackWish(label="HD", kid=K, imported=replace(imported(K, CEK), fp=b"f" * 16))
    assert world.refused(ingest(tracks=(wish,))).reason == "imported_key"
