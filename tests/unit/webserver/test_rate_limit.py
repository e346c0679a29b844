"""Tests of the limit of login attempts per address."""

from famulus.webserver.rate_limit import ADDRESSES_MAX, GUESSES_MAX, WINDOW_S, LoginRateLimiter


def test_an_address_has_so_many_guesses_a_minute() -> None:
    """Each attempt counts for a minute; other addresses are not affected."""
    now = 0.0
    guesses = LoginRateLimiter(lambda: now)
    for second in range(GUESSES_MAX):
        now = float(second)
        assert guesses.wait_s("a") == 0
        guesses.note("a")
    assert guesses.wait_s("a") == WINDOW_S - now
    assert guesses.wait_s("b") == 0
    now = WINDOW_S + 0.5
    assert guesses.wait_s("a") == 0
    guesses.note("a")
    assert guesses.wait_s("a") == 0.5


def test_many_addresses_take_no_more_room() -> None:
    """The address that was seen last is remembered longest."""
    guesses = LoginRateLimiter(lambda: 0.0)
    for _ in range(GUESSES_MAX):
        guesses.note("a")
    for number in range(ADDRESSES_MAX - 1):
        guesses.note(str(number))
    assert guesses.wait_s("a") > 0
    guesses.note("one more")
    assert guesses.wait_s("a") == 0
    assert len(guesses._found) == ADDRESSES_MAX
