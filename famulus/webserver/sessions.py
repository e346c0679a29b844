"""Sessions of browsers: a cookie stands for a token for some hours, until the worker ends."""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from famulus.webserver.tokens import Access

LIFE_S = 12 * 3600.0
SESSIONS_MAX = 100  # the oldest one goes when there are more


@dataclass(frozen=True)
class Session:
    """A session: the token, its right, and the CSRF token that every act must bring."""

    access: Access
    token: str = field(repr=False)
    csrf: str = field(repr=False)
    until: float


class Sessions:
    """The sessions of one worker. *clock* counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: dict[bytes, Session] = {}  # the oldest first

    def begin(self, access: Access, token: str) -> str:
        """Begin a session for *token* and return the cookie's value."""
        cookie = secrets.token_urlsafe(32)
        self._sessions[_digest(cookie)] = Session(
            access, token, secrets.token_urlsafe(32), self._clock() + LIFE_S
        )
        while len(self._sessions) > SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]
        return cookie

    def find(self, cookie: str) -> Session | None:
        """Return the session of a cookie, None when there is none or it has expired."""
        session = self._sessions.get(_digest(cookie))
        if session is not None and session.until <= self._clock():
            self.end(cookie)
            return None
        return session

    def end(self, cookie: str) -> None:
        """End the session of a cookie, if there is one."""
        self._sessions.pop(_digest(cookie), None)


def _digest(cookie: str) -> bytes:
    """Return the digest by which a session is looked up, in a time that tells nothing."""
    return hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).digest()
