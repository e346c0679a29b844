"""Sessions of browsers: found by their cookie, for their time, and not more of them than there is room for."""

from famulus.webserver.sessions import LIFE_S, SESSIONS_MAX, Sessions
from famulus.webserver.tokens import Access


def test_a_session_ends_when_its_time_is_over() -> None:
    """A second before it is there, then it is gone."""
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
    """Whoever logs in again and again fills nothing."""
    sessions = Sessions()
    cookies = [sessions.begin(Access.ADMIN, "t") for _ in range(SESSIONS_MAX + 1)]
    assert [sessions.find(cookie) is None for cookie in cookies[:2]] == [True, False]
    assert len(set(cookies)) == len(cookies)


def test_only_the_cookie_itself_finds_a_session() -> None:
    """Nothing else does, and nothing does after its end."""
    sessions = Sessions()
    cookie = sessions.begin(Access.READ, "t")
    assert [sessions.find(other) for other in ("", cookie[:-1], f"{cookie}=", "\udce9")] == [
        None
    ] * 4
    sessions.end(cookie)
    assert sessions.find(cookie) is None
