"""Tests of browser sessions: found by cookie, for a limited time and in limited number."""

from famulus.webserver.sessions import LIFE_S, SESSIONS_MAX, Sessions
from famulus.webserver.tokens import Access


def test_a_session_ends_when_its_time_is_over() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    cookie = sessions.begin(Access.READ, "the token")
    now[0] = LIFE_S - 1
    found = sessions.find(cookie)
    assert found is not None
    assert (found.access, found.token) == (Access.READ, "the token")
    assert "the token" not in repr(found)
    assert found.csrf not in repr(found)
    now[0] = LIFE_S
    assert sessions.find(cookie) is None


def test_the_oldest_session_makes_room() -> None:
    """Repeated logins cannot fill the memory."""
    sessions = Sessions()
    cookies = [sessions.begin(Access.ADMIN, "t") for _ in range(SESSIONS_MAX + 1)]
    assert [sessions.find(cookie) is None for cookie in cookies[:2]] == [True, False]
    assert len(set(cookies)) == len(cookies)


def test_only_the_cookie_itself_finds_a_session() -> None:
    """An ended session is not found either."""
    sessions = Sessions()
    cookie = sessions.begin(Access.READ, "t")
    assert [sessions.find(other) for other in ("", cookie[:-1], f"{cookie}=", "\udce9")] == [
        None
    ] * 4
    sessions.end(cookie)
    assert sessions.find(cookie) is None
