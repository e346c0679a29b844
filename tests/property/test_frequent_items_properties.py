"""Properties of the sketch of hot keys: its bounds hold for every stream and every merge."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from famulus.observability import frequent_items
from famulus.observability.frequent_items import FrequentItems

SMALL = 8  # counters: a few items overflow the sketch
Stream = list[tuple[str, int]]
STREAMS: st.SearchStrategy[Stream] = st.lists(
    st.tuples(st.sampled_from([f"k{n}" for n in range(40)]), st.integers(0, 1_000)), max_size=200
)


def sketch_of(stream: Stream) -> FrequentItems:
    """Return a sketch of *stream* that overflows soon."""
    sketch = FrequentItems()
    for item, weight in stream:
        sketch.update(item, weight)
    return sketch


def check(sketch: FrequentItems, streams: list[Stream]) -> None:
    """Compare every bound with the exact counts of *streams*."""
    exact: Counter[str] = Counter()
    for stream in streams:
        for item, weight in stream:
            exact[item] += weight
    assert len(sketch._counters) <= SMALL
    assert sketch.error <= sum(exact.values()) / (SMALL / 2)
    found = dict(sketch.frequent())
    for item, weight in exact.items():
        assert weight <= (sketch.estimate(item) or sketch.error)
        assert sketch.estimate(item) <= weight + sketch.error
        # No heavy item is missed, and no light item is reported.
        assert weight <= 2 * sketch.error or item in found
        assert item not in found or weight > sketch.error


@given(stream=STREAMS)
def test_an_item_is_never_further_off_than_the_error(stream: Stream) -> None:
    before, frequent_items.CAPACITY = frequent_items.CAPACITY, SMALL
    try:
        check(sketch_of(stream), [stream])
    finally:
        frequent_items.CAPACITY = before


@given(streams=st.lists(STREAMS, max_size=4))
def test_merged_sketches_have_the_bounds_of_one(streams: list[Stream]) -> None:
    before, frequent_items.CAPACITY = frequent_items.CAPACITY, SMALL
    try:
        merged = FrequentItems()
        for stream in streams:
            merged.merge(sketch_of(stream))
        check(merged, streams)
    finally:
        frequent_items.CAPACITY = before


@given(stream=STREAMS)
def test_few_items_are_counted_exactly(stream: Stream) -> None:
    exact: Counter[str] = Counter()
    for item, weight in stream:
        exact[item] += weight
    sketch = sketch_of(stream)
    assert sketch.error == 0
    assert dict(sketch.frequent()) == {item: n for item, n in exact.items() if n}
