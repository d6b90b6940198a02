"""The overlay against its model: what was written and is not known to be read back, no more and no less."""

from hypothesis import given
from hypothesis import strategies as st

from streams.overlay import Overlay
from tests.builders import folded, ingest

PARTITIONS = 3
ASSETS = tuple(folded(ingest(), start=offset) for offset in range(3))

partitions = st.integers(0, PARTITIONS - 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 2), st.sampled_from(ASSETS)),
        st.tuples(st.just("add"), st.integers(3, 4), st.none()),
        st.tuples(st.just("read_back"), partitions, st.integers(0, 40)),
        st.tuples(st.just("clear"), st.none() | st.frozensets(partitions), st.none()),
    ),
    max_size=30,
)


def place(name: int) -> tuple[int, bytes]:
    """Partition and record key of a name: a record key belongs to one partition for ever."""
    return name % PARTITIONS, f"demo/asset-{name}".encode()


@given(steps)
def test_it_holds_what_is_written_and_not_read_back(taken) -> None:
    """After any history of writes, read-backs and clears it agrees with a plain list of what is outstanding."""
    overlay, ends = Overlay(), [0] * PARTITIONS
    outstanding: dict[bytes, tuple[int, int]] = {}
    assets: dict[bytes, object] = {}
    for step, first, second in taken:
        if step == "add":
            partition, key = place(first)
            outstanding[key] = (partition, ends[partition])
            assets[key] = second
            overlay.add(partition, key, ends[partition], second)
            ends[partition] += 1
        elif step == "read_back":
            overlay.read_back(first, second)
            outstanding = {k: (p, offset) for k, (p, offset) in outstanding.items() if p != first or offset >= second}
        else:
            overlay.clear(first)
            outstanding = {k: (p, o) for k, (p, o) in outstanding.items() if first is not None and p not in first}
        for partition, key in map(place, range(5)):
            assert (key in outstanding) == overlay.holds(partition, key)
            assert (assets[key] if key in outstanding else None) is overlay.get(key)
        assert len(outstanding) == len(overlay)


def test_a_later_write_is_awaited_although_an_earlier_one_was_read() -> None:
    """The view has the first record of a key, not yet its second."""
    overlay = Overlay()
    overlay.add(0, b"demo/a", 4, ASSETS[0])
    overlay.add(0, b"demo/a", 9, ASSETS[1])
    overlay.read_back(0, 9)
    assert ASSETS[1] is overlay.get(b"demo/a")
    overlay.read_back(0, 10)
    assert None is overlay.get(b"demo/a")
    assert not overlay.holds(0, b"demo/a")


def test_the_position_is_the_next_offset() -> None:
    """A view at position 5 has read offset 4 and not 5; another partition says nothing."""
    overlay = Overlay()
    overlay.add(1, b"demo/a", 5)
    overlay.read_back(1, 5)
    overlay.read_back(0, 99)
    assert overlay.holds(1, b"demo/a")
    overlay.read_back(1, 6)
    assert 0 == len(overlay)
