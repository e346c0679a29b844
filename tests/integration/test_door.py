"""The web face's door, at a live worker: who may look, who may act, and what answers carry."""

import http.client
import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from famulus.dev.node import free_port
from famulus.dev.worker import WorkerProcess
from famulus.webserver.auth import ADMIN_FILE, BODY_BYTES, HEADERS, READ_FILE
from famulus.webserver.rate_limit import GUESSES_MAX, REQUESTS_MAX, WINDOW_S
from tests.support.on_kafka.commands import faust, one_line
from tests.support.on_kafka.house import COUNTING, House, wait_for

# Faust's own pages are all switched on; a team's fork adds one that acts, one that breaks, and the
# list of all routes.
PAGES = (
    COUNTING
    + """
from faust.web import Request, Response, View
for prefix, pages in ("/table", "tables"), ("/router", "router"), ("/graph", "graph"), ("/performance", "metrics"):
    app.web.blueprints.add(prefix, f"faust.web.apps.{pages}:blueprint")


@app.page("/act/")
class Act(View):
    async def post(self, request: Request) -> Response:
        return self.json({"body": len(await request.read())})


@app.page("/csrf/")
async def csrf(view: View, request: Request) -> Response:
    return view.json(request["csrf"])


@app.page("/broken/")
async def broken(view: View, request: Request) -> Response:
    raise RuntimeError("a secret of the view")


@app.page("/routes/")
async def routes(view: View, request: Request) -> Response:
    return view.json([[route.method, route.resource.canonical] for route in app.web.web_app.router.routes()])
"""
)
OPEN = 200, 200, 200, 200
# Without a token, with a bad one, with that for reading, with that for acting.
LOOK = 401, 401, 200, 200
# The page that asks is for those who may act, and wants to know what is meant.
ACT = 401, 401, 403, 400
LETTERS = 401, 401, 404, 404  # whose topic is not named
TABLE = {
    "/livez": OPEN,
    "/readyz": OPEN,
    "/startupz": OPEN,
    "/login": OPEN,
    "/tables/": LOOK,
    "/tables/{name}/": LOOK,
    "/tables/{name}/{key}/": (401, 401, 404, 404),
    "/subscriptions/": LOOK,
    "/subscriptions/{topic}/duplicates/": LOOK,
    "/metrics": LOOK,
    "/console": LOOK,
    "/console/subscriptions": LOOK,
    "/console/tables": LOOK,
    "/console/tables/{name}": LOOK,
    "/console/dead-letters": LOOK,
    "/console/dead-letters/list": LETTERS,
    "/console/dead-letters/letter": LETTERS,
    "/console/explain": LOOK,
    "/console/hot-keys": LOOK,
    "/console/events": (401, 401, 406, 406),
    "/console/redrive": ACT,
    "/console/drop": ACT,
    "/console/pause": ACT,
    "/console/resume": ACT,
    "/console/settings": LOOK,
    "/console/workers": LOOK,
    "/console/style.css": LOOK,
    "/console/console.js": LOOK,
    "/openapi.json": LOOK,
    "/paused/": LOOK,
    "/hotkeys/": LOOK,
    "/lag/": LOOK,
    "/seek/": LOOK,
    "/concurrency/": LOOK,
    # Faust's own; some break by themselves, without pydot or for what is no table of Faust's.
    "/": LOOK,
    "/table/": LOOK,
    "/table/{name}/": (401, 401, 404, 404),
    "/table/{name}/{key}/": (401, 401, 503, 503),
    "/router/": LOOK,
    "/router/{name}/": (401, 401, 500, 500),
    "/router/{name}/{key}/": (401, 401, 503, 503),
    "/router/topics": LOOK,
    "/graph/": (401, 401, 500, 500),
    "/performance/": LOOK,
    # The fork's.
    "/routes/": LOOK,
    "/csrf/": LOOK,
    "/broken/": (401, 401, 500, 500),
}
ACTS = {
    ("POST", "/login"): (401, 401, 401, 401),  # the token belongs into the form
    ("POST", "/logout"): (401, 401, 303, 303),
    ("HEAD", "/logout"): (401, 401, 405, 405),
    ("POST", "/act/"): (401, 401, 403, 200),
    ("POST", "/paused/"): (401, 401, 403, 400),
    ("POST", "/console/redrive"): (401, 401, 403, 400),
    ("POST", "/console/drop"): (401, 401, 403, 400),
    ("POST", "/console/pause"): (401, 401, 403, 400),
    ("POST", "/console/resume"): (401, 401, 403, 400),
    ("POST", "/drain/"): (401, 401, 403, 400),
    ("POST", "/seek/"): (401, 401, 403, 400),
    ("POST", "/concurrency/"): (401, 401, 403, 400),
    ("HEAD", "/drain/"): (401, 401, 405, 405),
    ("HEAD", "/act/"): (401, 401, 405, 405),
}
ROUTES = {
    **{(method, path): row for path, row in TABLE.items() for method in ("GET", "HEAD")},
    **ACTS,
}
FILL = {"name": "count", "key": "nobody", "topic": "things"}


class Stay(urllib.request.HTTPRedirectHandler):
    """Redirects are answers here."""

    def redirect_request(self, *_: Any) -> None:
        """Go nowhere."""


OPENER = urllib.request.build_opener(Stay)


def ask(
    worker: WorkerProcess,
    method: str,
    path: str,
    token: str | None,
    body: bytes | None = None,
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer."""
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(worker.url + path, body, headers, method=method)
    try:
        with OPENER.open(request, timeout=30) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def tokens_of(worker: WorkerProcess) -> tuple[str | None, str, str, str]:
    """None, a bad one, that for reading, that for acting."""
    read, admin = ((worker.data / name).read_text().strip() for name in (READ_FILE, ADMIN_FILE))
    return None, read[:-1] + ("A" if read[-1] != "A" else "B"), read, admin


def test_every_route_has_its_row(house: House) -> None:
    """A route without a row fails here, and so does one that lets in whom it should not."""
    house.build(PAGES)
    worker = house.start()
    tokens = tokens_of(worker)
    live = {(method, path) for method, path in worker.get("/routes/")}
    assert live == set(ROUTES), live ^ set(ROUTES)
    found = {
        (method, path): tuple(
            ask(worker, method, path.format(**FILL), token)[0] for token in tokens
        )
        for method, path in ROUTES
    }
    assert found == ROUTES
    described = worker.get("/openapi.json")["paths"]
    assert {(method.upper(), path) for path, of in described.items() for method in of} == {
        (method, path) for method, path in live if method != "HEAD"
    }
    # What is no route tells nothing to strangers; a method that changes things is for acting,
    # wherever it is sent.
    assert tuple(ask(worker, "GET", "/nothing", token)[0] for token in tokens) == (
        401,
        401,
        404,
        404,
    )
    for path in TABLE:
        for method in {"POST", "PUT", "DELETE", "PATCH", "OPTIONS"} - {
            method for method, acts in ACTS if acts == path
        }:
            statuses = tuple(ask(worker, method, path.format(**FILL), token)[0] for token in tokens)
            assert statuses == (401, 401, 403, 405), (method, path)
    for log in (worker.log, *worker.log.parent.glob("*.log")):
        assert not any(token in log.read_text() for token in tokens if token)
    check_answers(worker, tokens)
    check_sessions(worker, tokens[2], tokens[3])
    check_guesses(worker, tokens[2])


def check_answers(worker: WorkerProcess, tokens: tuple[str | None, str, str, str]) -> None:
    """What answers carry and what they keep to themselves; bodies have a limit."""
    none, bad, read, admin = tokens
    for path, token in [
        ("/tables/", none),
        ("/tables/", read),
        ("/livez", none),
        ("/nothing", read),
        ("/broken/", read),
    ]:
        _, headers, body = ask(worker, "GET", path, token, Origin="http://elsewhere.example")
        assert HEADERS.items() <= headers.items(), path
        assert not any(name.lower().startswith("access-control") for name in headers)
        assert b"secret" not in body
    assert ask(worker, "GET", "/tables/", none)[1]["WWW-Authenticate"].startswith("Bearer")
    for path in ("/livez", "/readyz", "/startupz"):
        assert [list(json.loads(ask(worker, "GET", path, token)[2])) for token in (none, bad)] == [
            ["status"]
        ] * 2
        assert len(json.loads(ask(worker, "GET", path, read)[2])) > 1
    for header in (
        f"Basic {read}",
        read,
        f"Bearer {read} {read}",
        "Bearer",
        "Bearer ",
        f"Bearer {read}x",
        "Bearer \xe9",
    ):
        assert ask(worker, "GET", "/tables/", none, Authorization=header)[0] == 401, header
    assert ask(worker, "GET", "/tables/", none, Authorization=f"bearer  {read}")[0] == 200
    assert ask(worker, "GET", f"/tables/?token={read}", none)[0] == 401
    assert ask(worker, "POST", "/act/", admin, b"x" * BODY_BYTES)[2] == b'{"body":%d}' % BODY_BYTES
    assert ask(worker, "POST", "/act/", admin, b"x" * (BODY_BYTES + 1))[0] == 413
    assert chunked(worker, admin) == 411


def check_sessions(worker: WorkerProcess, read: str, admin: str) -> None:
    """A browser logs in, looks, acts with the session's CSRF token alone, and logs out."""
    status, headers, _ = ask(worker, "GET", "/subscriptions/", None, Accept="text/html,*/*")
    assert (status, headers["Location"]) == (303, "/login")
    status, headers, page = ask(worker, "GET", "/login", None)
    assert b'action="/login"' in page
    assert "form-action 'self'" in headers["Content-Security-Policy"]
    assert ask(worker, "POST", "/login", None, f"token={read[:-1]}".encode())[0] == 401
    site = {"Sec-Fetch-Site": "cross-site"}
    assert ask(worker, "POST", "/login", None, f"token={read}".encode(), **site)[0] == 403

    for kind in (
        "application/x-www-form-urlencoded; charset=none",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
    ):
        assert (
            ask(worker, "POST", "/login", None, b"--x\r\ntoken=%ff", **{"Content-Type": kind})[0]
            == 401
        ), kind
    assert ask(worker, "GET", "/tables/", None, Host="no:port", Cookie="famulus-session-80=x")[
        0
    ] in {400, 401}

    cookies = {}
    for token in (read, admin):
        status, headers, _ = ask(worker, "POST", "/login", None, f"token={token}".encode())
        assert (status, headers["Location"]) == (303, "/console")
        cookie, *rules = headers["Set-Cookie"].split("; ")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(rules)
        assert token not in cookie
        cookies[token] = cookie
        assert ask(worker, "GET", "/tables/", None, Cookie=cookie)[0] == 200
        assert ask(worker, "GET", "/tables/", "bad", Cookie=cookie)[0] == 401
    csrf = json.loads(ask(worker, "GET", "/csrf/", None, Cookie=cookies[admin])[2])
    other = json.loads(ask(worker, "GET", "/csrf/", None, Cookie=cookies[read])[2])
    acts: list[tuple[bytes, dict[str, str], int]] = [
        (b"", {}, 403),
        (b"", {"X-CSRF-Token": other}, 403),
        (b"", {"X-CSRF-Token": csrf}, 200),
        (f"csrf={csrf}".encode(), {}, 200),
        (b"csrf=", {}, 403),
    ]
    for body, headers, expected in acts:
        assert (
            ask(worker, "POST", "/act/", None, body, Cookie=cookies[admin], **headers)[0]
            == expected
        )
    assert (
        ask(worker, "POST", "/act/", None, b"", Cookie=cookies[read], **{"X-CSRF-Token": other})[0]
        == 403
    )
    assert ask(worker, "POST", "/logout", None, b"", Cookie=cookies[read])[0] == 403
    assert (
        ask(worker, "POST", "/logout", None, f"csrf={other}".encode(), Cookie=cookies[read])[0]
        == 303
    )
    assert [
        ask(worker, "GET", "/tables/", None, Cookie=cookies[token])[0] for token in (read, admin)
    ] == [401, 200]


def check_guesses(worker: WorkerProcess, read: str) -> None:
    """An address that guesses has to wait, with a good token as well; who sends that in a header has not."""
    for _ in range(GUESSES_MAX + 1):
        status, headers, _ = ask(worker, "POST", "/login", None, b"token=" + b"x" * 32)
        if status == 429:
            break
        assert status == 401
    assert status == 429
    assert 0 < int(headers["Retry-After"]) <= WINDOW_S
    assert ask(worker, "POST", "/login", None, f"token={read}".encode())[0] == 429
    assert ask(worker, "GET", "/login", None)[0] == 200
    assert ask(worker, "GET", "/tables/", read)[0] == 200


SLOW = (
    COUNTING
    + """
from faust.web import Request, Response, View


@app.page("/slow/")
async def slow(view: View, request: Request) -> Response:
    while not Path("go").exists():
        await asyncio.sleep(0.05)
    return view.json("done")
"""
)


def test_only_so_many_requests_are_at_work_and_health_is_always_told(house: House) -> None:
    """Whoever has the token for looking cannot have a worker taken for dead, nor its memory filled."""
    house.build(SLOW)
    worker = house.start()
    read = tokens_of(worker)[2]
    with ThreadPoolExecutor(REQUESTS_MAX) as pool:
        slow = [pool.submit(ask, worker, "GET", "/slow/", read) for _ in range(REQUESTS_MAX)]
        wait_for(lambda: ask(worker, "GET", "/tables/", read)[0] == 503)
        assert ask(worker, "GET", "/tables/", read)[1]["Retry-After"] == "1"
        assert [ask(worker, "GET", path, None)[0] for path in ("/livez", "/readyz")] == [200, 200]
        (house.checkout / "go").touch()
        assert {each.result()[0] for each in slow} == {200}
    assert ask(worker, "GET", "/tables/", read)[0] == 200


def chunked(worker: WorkerProcess, token: str) -> int:
    """The status that a body of unknown length gets."""
    connection = http.client.HTTPConnection(urlsplit(worker.url).netloc, timeout=30)
    body: Any = iter([b"x"])
    connection.request(
        "POST", "/act/", body, {"Authorization": f"Bearer {token}"}, encode_chunked=True
    )
    status = connection.getresponse().status
    connection.close()
    return status


def test_tokens_of_the_settings_take_the_place_of_those_that_are_made(
    house: House, tmp_path: Path
) -> None:
    """One from the environment, one from a file that may change while the worker runs; any address is allowed then."""
    house.build()
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text("b" * 32)
    worker = house.start(
        ready=0,
        WORKER__READTOKEN="a" * 32,
        WORKER__ADMINTOKENFILE=str(file),
        WORKER__WEBBIND="0.0.0.0",
    )
    house.wait_log(worker, "Ready")
    statuses = [
        ask(worker, "GET", "/tables/", token)[0] for token in ("a" * 32, "b" * 32, "c" * 32, None)
    ]
    assert statuses == [200, 200, 401, 401]
    assert not (worker.data / READ_FILE).exists()
    cookie = ask(worker, "POST", "/login", None, b"token=" + b"b" * 32)[1]["Set-Cookie"].split(";")[
        0
    ]
    assert ask(worker, "GET", "/tables/", None, Cookie=cookie)[0] == 200
    file.write_text("d" * 32)
    wait_for(lambda: ask(worker, "GET", "/tables/", "d" * 32)[0] == 200)
    assert ask(worker, "GET", "/tables/", "b" * 32)[0] == 401
    assert ask(worker, "GET", "/tables/", None, Cookie=cookie)[0] == 401  # its token is gone


def test_another_address_without_tokens_is_78(tmp_path: Path) -> None:
    """Also when the command line names it."""
    settings = {
        "WORKER__WEBPORT": str(free_port()),
        "WORKER__DATADIR": str(tmp_path),
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    }
    for arguments, more in [
        (["worker", "--web-bind", "0.0.0.0"], {}),
        (["worker"], {"WORKER__WEBBIND": "::"}),
    ]:
        code, output = faust(*arguments, **settings, **more)
        assert code == 78, output
        assert "would be open to others: set Worker.ReadTokenFile" in one_line(output)
    code, output = faust("worker", "--web-bind", "0.0.0.0", "--without-web", **settings)
    assert code == 69, output
