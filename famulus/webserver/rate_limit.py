"""Rate limits of the web server: guesses at a token, and active requests."""

import time
from collections.abc import Callable

# Wrong tokens that one address shows to /login in WINDOW_S, and times that anybody shows the same
# one.
GUESSES_MAX = 20
# Requests of one address with a wrong token in WINDOW_S: programs go on with an old one for a
# while.
HEADERS_MAX = 600
WINDOW_S = 60.0
ADDRESSES_MAX = 1_000  # that are remembered, the one seen last the longest
REQUESTS_MAX = 50  # at work at once, health checks aside


class LoginRateLimiter:
    """Counts wrong tokens of the last minute, by address or by the digest of the token.

    *clock* returns seconds. A token has 128 bits and cannot be guessed; the limit keeps those who
    try from using up the server's time.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, most: int = GUESSES_MAX
    ) -> None:
        self._clock = clock
        self._most = most
        self._found: dict[str, list[float]] = {}  # times of each address, or digest

    def wait_s(self, address: str) -> float:
        """For how long *address* may not try again, seconds; 0 when it may."""
        recent = self._recent(address)
        return recent[0] + WINDOW_S - self._clock() if len(recent) >= self._most else 0.0

    def note(self, address: str) -> None:
        """Another wrong one by *address*."""
        recent = self._recent(address)
        self._found.pop(address, None)
        self._found[address] = [*recent, self._clock()]
        while len(self._found) > ADDRESSES_MAX:
            del self._found[next(iter(self._found))]

    def _recent(self, address: str) -> list[float]:
        since = self._clock() - WINDOW_S
        return [at for at in self._found.get(address, ()) if at > since]
