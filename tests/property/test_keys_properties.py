"""Properties of a key report: for any keys, its figures are consistent."""

from hypothesis import given
from hypothesis import strategies as st

from famulus.kafka.key_analysis import Tally
from famulus.kafka.partitioner import BUILT_IN


@given(
    keys=st.lists(st.none() | st.binary(max_size=2), max_size=200),
    partitions=st.integers(1, 9),
    name=st.sampled_from(sorted(BUILT_IN)),
)
def test_the_figures_add_up(keys: list[bytes | None], partitions: int, name: str) -> None:
    """Every record is counted once, and shares and skew are within their limits."""
    tally = Tally("key", partitions, BUILT_IN[name])
    for key in keys:
        tally.note(key)
    report = tally.report()
    assert report.events + report.missing == len(keys)
    assert sum(report.partitions) == report.events
    assert len(report.partitions) == partitions
    assert report.keys <= report.events
    if report.events:
        assert 0 < report.largest <= 1 <= report.skew <= partitions
