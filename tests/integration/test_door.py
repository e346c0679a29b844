"""The web face's door, at a live worker: who may look, who may act, and what answers carry."""

import http.client
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.dev.node import free_port
from app.dev.worker import WorkerProcess
from app.worker.door import ADMIN_FILE, BODY_BYTES, HEADERS, READ_FILE
from tests.integration.house import COUNTING, House
from tests.integration.test_start import faust, one_line

# Faust's own pages are all switched on; a team's fork adds one that acts, one that breaks, and the list of all routes.
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


@app.page("/broken/")
async def broken(view: View, request: Request) -> Response:
    raise RuntimeError("a secret of the view")


@app.page("/routes/")
async def routes(view: View, request: Request) -> Response:
    return view.json([[route.method, route.resource.canonical] for route in app.web.web_app.router.routes()])
"""
)
LOOK = 401, 401, 200, 200  # without a token, with a bad one, with that for reading, with that for acting
TABLE = {
    "/livez": (200, 200, 200, 200),
    "/readyz": (200, 200, 200, 200),
    "/tables/": LOOK,
    "/tables/{name}/": LOOK,
    "/tables/{name}/{key}/": (401, 401, 404, 404),
    "/subscriptions/": LOOK,
    "/subscriptions/{topic}/duplicates/": LOOK,
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
    "/broken/": (401, 401, 500, 500),
}
ACTS = {("POST", "/act/"): (401, 401, 403, 200), ("HEAD", "/act/"): (401, 401, 405, 405)}
ROUTES = {**{(method, path): row for path, row in TABLE.items() for method in ("GET", "HEAD")}, **ACTS}
FILL = {"name": "count", "key": "nobody", "topic": "things"}


def ask(
    worker: WorkerProcess, method: str, path: str, token: str | None, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer."""
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(worker.url + path, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
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
        (method, path): tuple(ask(worker, method, path.format(**FILL), token)[0] for token in tokens)
        for method, path in ROUTES
    }
    assert found == ROUTES
    # What is no route tells nothing to strangers; a method that changes things is for acting, wherever it is sent.
    assert tuple(ask(worker, "GET", "/nothing", token)[0] for token in tokens) == (401, 401, 404, 404)
    for path in TABLE:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            statuses = tuple(ask(worker, method, path.format(**FILL), token)[0] for token in tokens)
            assert statuses == (401, 401, 403, 405), (method, path)
    for log in (worker.log, *worker.log.parent.glob("*.log")):
        assert not any(token in log.read_text() for token in tokens if token)
    check_answers(worker, tokens)


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
    for path in ("/livez", "/readyz"):
        assert [list(json.loads(ask(worker, "GET", path, token)[2])) for token in (none, bad)] == [["status"]] * 2
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


def chunked(worker: WorkerProcess, token: str) -> int:
    """The status that a body of unknown length gets."""
    connection = http.client.HTTPConnection(urlsplit(worker.url).netloc, timeout=30)
    body: Any = iter([b"x"])
    connection.request("POST", "/act/", body, {"Authorization": f"Bearer {token}"}, encode_chunked=True)
    status = connection.getresponse().status
    connection.close()
    return status


def test_tokens_of_the_settings_take_the_place_of_those_that_are_made(house: House, tmp_path: Path) -> None:
    """One from the environment, one from a file that may change while the worker runs; any address is allowed then."""
    house.build()
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text("b" * 32)
    worker = house.start(
        ready=0, WORKER__READTOKEN="a" * 32, WORKER__ADMINTOKENFILE=str(file), WORKER__WEBBIND="0.0.0.0"
    )
    house.wait_log(worker, "Ready")
    statuses = [ask(worker, "GET", "/tables/", token)[0] for token in ("a" * 32, "b" * 32, "c" * 32, None)]
    assert statuses == [200, 200, 401, 401]
    assert not (worker.data / READ_FILE).exists()


def test_another_address_without_tokens_is_78(tmp_path: Path) -> None:
    """Also when the command line names it."""
    settings = {
        "WORKER__WEBPORT": str(free_port()), "WORKER__DATADIR": str(tmp_path), "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"
    }  # fmt: skip
    for arguments, more in [(["worker", "--web-bind", "0.0.0.0"], {}), (["worker"], {"WORKER__WEBBIND": "::"})]:
        code, output = faust(*arguments, **settings, **more)
        assert code == 78, output
        assert "would be open to others: set Worker.ReadTokenFile" in one_line(output)
    code, output = faust("worker", "--web-bind", "0.0.0.0", "--without-web", **settings)
    assert code == 69, output
