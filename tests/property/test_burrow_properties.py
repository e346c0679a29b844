"""Properties of lag states: for any offsets, the figures and the states are consistent."""

from hypothesis import given
from hypothesis import strategies as st

from famulus.kafka.burrow import LagSample, State, eta_s_of, kept, rates_of, state_of

offsets = st.integers(0, 50)
looks = st.builds(
    lambda at_s, begin, length, committed, is_held: LagSample(
        at_s, begin, begin + length, committed, is_held
    ),
    st.integers(0, 10_000).map(float),
    offsets,
    offsets,
    st.none() | st.integers(0, 120),
    st.booleans(),
)
windows = st.lists(looks, min_size=1, max_size=12).map(
    lambda found: sorted(found, key=lambda look: look.at_s)
)


@given(looks)
def test_lag_is_within_the_log(look: LagSample) -> None:
    """A commit may be below, in or above the log."""
    assert 0 <= look.lag <= look.end - look.begin
    assert look.begin <= look.position <= look.end
    assert not (look.deleted and look.ahead)
    if look.committed is not None:
        assert look.position + look.ahead - look.deleted == look.committed


@given(windows)
def test_states_say_what_they_say(window: list[LagSample]) -> None:
    state = state_of(window)
    if window[-1].lag == 0:
        assert state is State.OK
    if all(look.is_held for look in window):
        assert state is not State.STOPPED
    if state is State.STALLED:
        assert len({look.committed for look in window if look.is_held}) <= 1
    if state is State.REWIND:
        assert len({look.committed for look in window}) > 1
    if len(window) == 1:
        assert state in (State.OK, None)


@given(windows, st.integers(1, 10_000))
def test_time_has_no_origin(window: list[LagSample], by: int) -> None:
    """Any monotonic clock will do."""
    moved = [
        LagSample(look.at_s + by, look.begin, look.end, look.committed, look.is_held)
        for look in window
    ]
    assert state_of(moved) is state_of(window)


@given(windows)
def test_what_is_left_is_a_time_or_unknown(window: list[LagSample]) -> None:
    """Rates and times are never negative, and no lag means no time left."""
    rates, lag = rates_of(window), window[-1].lag
    eta_s = eta_s_of(lag, rates)
    assert rates is None or (rates.arrived >= 0 and rates.consumed >= 0)
    assert eta_s is None or eta_s >= 0
    assert (eta_s == 0.0) == (lag == 0)


@given(windows)
def test_a_window_ends_with_its_last_look(window: list[LagSample]) -> None:
    """The window is a suffix of all samples."""
    found: list[LagSample] = []
    for look in window:
        found = kept(found, look)
    assert found == window[-len(found) :]
