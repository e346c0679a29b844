"""Tests of connections of unknown clients to a real server: limits, timeouts and a bounded log."""

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from famulus.config import WorkerConfig
from famulus.webserver.auth import WebAuth
from famulus.webserver.connections import (
    Complaints,
    Limits,
    Places,
    Runner,
    Site,
    address_of,
    limits_of,
)
from famulus.webserver.rate_limit import REQUESTS_MAX

READ, ADMIN = "r" * 32, "a" * 32
FORM = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 9"
BODILESS = b"POST /login HTTP/1.1\r\nHost: x\r\n" + FORM + b"\r\n\r\n"
HALF = b"GET /tables/ HTT"
GOOD = f"GET /tables/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {READ}\r\n\r\n".encode()
HEALTH = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Visitor:
    """Stand-in for a connection, without a socket."""

    is_open = True

    def abort(self) -> None:
        """Mark the connection as closed."""
        self.is_open = False


async def hello(request: web.Request) -> web.Response:
    """Answer any request."""
    return web.Response(text=f"hello {len(await request.read())}")


@asynccontextmanager
async def served(folder: Path, **settings: Any) -> AsyncIterator[int]:
    """Yield the port of a server with authentication and one view."""
    worker = WorkerConfig.model_validate(
        {"DataDir": folder, "ReadToken": READ, "AdminToken": ADMIN, **settings}
    )
    door = WebAuth(worker)
    door.open()
    app = web.Application(**door.options)
    app.router.add_route("*", "/{path:.*}", hello)
    runner = Runner(app, limits_of(worker))
    await runner.setup()
    site = Site(runner, "127.0.0.1", 0, None)
    await site.start()
    try:
        yield site.port
    finally:
        await runner.cleanup()


async def asked(port: int, request: bytes) -> str:
    """Return the first line of the answer, or an empty text if there is none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return (await reader.readline()).decode().strip()
    except ConnectionError:
        return ""
    finally:
        writer.close()


async def strangers(
    port: int, count: int, sends: bytes
) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open *count* connections that send *sends* and wait."""
    found = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sends)
        found.append((reader, writer))
    return found


@pytest.mark.parametrize("sends", [b"", HALF, BODILESS, BODILESS + b"token="])
async def test_strangers_who_wait_take_no_places(tmp_path: Path, sends: bytes) -> None:
    """The connections hold half requests, or logins without a body, and exceed all limits."""
    async with served(tmp_path, WebConnections=100) as port:
        open_ones = await strangers(port, 4 * REQUESTS_MAX, sends)
        assert await asked(port, GOOD) == "HTTP/1.1 200 OK"
        assert await asked(port, HEALTH) == "HTTP/1.1 200 OK"
        assert await open_ones[0][0].read() == b""  # the oldest was closed to make room
        for _, writer in open_ones:
            writer.close()


async def test_who_has_shown_a_token_does_not_make_room(tmp_path: Path) -> None:
    """Its connection stays open while others come and go, and answers again."""
    async with served(tmp_path, WebConnections=20, WebConnectionsPerAddress=5) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GOOD)
        assert b"hello" in await reader.readuntil(b"hello 0")
        open_ones = await strangers(port, 40, HALF)
        writer.write(GOOD)
        assert b"hello" in await reader.readuntil(b"hello 0")
        for _, other in (*open_ones, (reader, writer)):
            other.close()


async def test_headers_and_bodies_have_their_time(tmp_path: Path) -> None:
    """A request that is incomplete by then is closed or answered, even if bytes keep arriving."""
    async with served(tmp_path, WebHeaderS=0.2, WebBodyS=0.2) as port:
        for sends in (b"", HALF):
            (reader, writer), *_ = await strangers(port, 1, sends)
            assert await reader.read() == b""
            writer.close()
        (reader, writer), *_ = await strangers(port, 1, HALF)
        with contextlib.suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()
        assert await asked(port, BODILESS) == "HTTP/1.1 408 Request Timeout"


async def test_a_second_request_of_a_connection_has_its_time_as_well(tmp_path: Path) -> None:
    """A kept connection is closed if its next request stays incomplete."""
    async with served(tmp_path, WebHeaderS=0.2) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GOOD)
        await reader.readuntil(b"hello 0")
        await asyncio.sleep(0.3)  # longer than WebHeaderS, which does not run between requests
        writer.write(GOOD)
        await reader.readuntil(b"hello 0")
        writer.write(HALF)
        assert await reader.read() == b""
        writer.close()


SECRET = "s3cret-of-somebody"
MALFORMED = [
    f"GET /tables/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\n\r\n\r\n",
    f"GET /tables/ HTTP/1.1\r\nHost: x\r\nCookie: famulus-session-1={SECRET}\n{SECRET}\r\n\r\n",
    f"GET /tables/?token={SECRET} and more HTTP/1.1\r\n\r\n",
    f"{SECRET} / HTTP/1.1\r\n\r\n",
    f"GET / HTTP/1.1\r\n{SECRET}\r\n\r\n",
    f"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: {SECRET}\r\n\r\n",
    f"GET / HTTP/9.9{SECRET}\r\n\r\n",
    f"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {SECRET}\r\n\r\n",
    f"GET / HTTP/1.1\r\nHost: x\r\nX-Long: {SECRET * 1000}\r\n\r\n",
    f"GET /{SECRET * 1000} HTTP/1.1\r\nHost: x\r\n\r\n",
    f"GET http://{SECRET}:x/ HTTP/1.1\r\nHost: x\r\n\r\n",
    f'GET / HTTP/1.1\r\nHost: x\r\nCookie: {SECRET}\x01"(=1; {SECRET}@=2\r\n\r\n',
    (
        f"POST / HTTP/1.1\r\nAuthorization: Bearer {ADMIN}\r\nContent-Encoding: "
        f"gzip\r\nContent-Length: 18\r\n\r\n{SECRET}"
    ),
    (
        f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\nTransfer-Encoding: "
        f"chunked\r\n\r\n{SECRET}\r\n"
    ),
    "\x16\x03\x01\x02" + SECRET,
]


async def test_malformed_requests_write_no_log_at_will(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line names the address; no line and no answer repeats the request."""
    caplog.set_level(logging.INFO)
    async with served(tmp_path) as port:
        for request in MALFORMED * 3:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request.encode("latin-1"))
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                answer = await reader.read()
                assert SECRET.encode() not in answer, request
                assert b" 500 " not in answer, request
            writer.close()
        assert await asked(port, HEALTH) == "HTTP/1.1 200 OK"
    said = [record.getMessage() for record in caplog.records if record.name != "asyncio"]
    assert SECRET not in caplog.text
    assert "Bearer" not in caplog.text
    assert sum("malformed" in line for line in said) == 1
    assert len(said) < 5
    assert any("address=127.0.0.1" in line for line in said)


async def test_a_body_that_is_no_text_is_bad_input(tmp_path: Path) -> None:
    """JSON and forms must be UTF-8 at every path."""
    async with served(tmp_path) as port:
        for kind in ("application/json", "application/x-www-form-urlencoded"):
            request = (
                "POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
                f"{ADMIN}\r\nContent-Type: {kind}\r\n"
            )
            assert "400" in await asked(port, request.encode() + b"Content-Length: 1\r\n\r\n\xff")


SERVER = """
import asyncio, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from pathlib import Path
from tests.unit.webserver.test_connections import served

async def main():
    async with served(Path(sys.argv[1])) as port:
        print(port, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


def test_health_answers_while_strangers_want_all_descriptors(tmp_path: Path) -> None:
    """The process has 256 descriptors and gets 600 half requests; its log stays short."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path)],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert server.stdout is not None
    address = "127.0.0.1", int(server.stdout.readline())
    with contextlib.ExitStack() as stack:
        for number in range(600):
            one = stack.enter_context(socket.create_connection(address, timeout=10))
            with contextlib.suppress(ConnectionError):
                one.sendall((b"", HALF, BODILESS)[number % 3])
            if number % 50 == 49:
                for request in (HEALTH, GOOD):
                    with socket.create_connection(address, timeout=10) as asking:
                        asking.sendall(request)
                        assert asking.recv(15) == b"HTTP/1.1 200 OK"
    _, errors = server.communicate("", timeout=30)
    assert server.returncode == 0
    assert len(errors) < 2_000


def test_places_are_those_of_an_address_and_of_all() -> None:
    """The oldest unknown client of the same address is closed first, else the oldest of all.

    Clients with a token are never closed.
    """
    places = Places(Limits(in_all=4, of_address=2, header_s=1, body_s=1))
    first, second, third, known = Visitor(), Visitor(), Visitor(), Visitor()
    assert all([places.enter(first, "a"), places.enter(second, "a"), places.enter(third, "a")])
    assert [each.is_open for each in (first, second, third)] == [False, True, True]
    places.enter(known, "b")
    places.know(known, is_known=True)
    assert places.enter(Visitor(), "c")
    fifth = Visitor()
    assert places.enter(fifth, "d")
    assert not second.is_open
    assert known.is_open
    assert len(places) == 4
    # Its last request has no token, so it counts as the newest unknown client.
    places.know(known, is_known=False)
    places.enter(Visitor(), "e")
    assert (third.is_open, known.is_open) == (False, True)
    assert places.closed == 3


def test_nobody_makes_room_where_token_holders_have_all() -> None:
    """The new connection is closed and counted."""
    places = Places(Limits(in_all=1, of_address=1, header_s=1, body_s=1))
    known = Visitor()
    places.enter(known, "a")
    places.know(known, is_known=True)
    assert not places.enter(Visitor(), "a")
    assert places.closed == 1
    places.leave(known)
    assert places.enter(Visitor(), "a")
    assert len(places) == 1


def test_complaints_have_a_bounded_rate(caplog: pytest.LogCaptureFixture) -> None:
    """The next line has the number of lines left out."""
    now = 0.0
    complaints = Complaints(lambda: now)
    for second in range(25):
        now = float(second)
        complaints.note("a malformed request", "a")
    assert len(caplog.records) == 3
    assert complaints.count == 25


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (("10.0.0.1", 1), "10.0.0.1"),
        (("2001:db8::1", 1, 0, 0), "2001:db8::/64"),
        ("2001:db8::ffff", "2001:db8::/64"),
        (("::ffff:10.0.0.1", 1, 0, 0), "10.0.0.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        (None, ""),
    ],
)
def test_an_address_is_what_one_host_has(peer: object, address: str) -> None:
    """A host with IPv6 has a whole /64 network."""
    assert address_of(peer) == address
