"""Connections of the web server: limits on their number and on the time for headers.

A connection is a stranger's until a request on it has sent a token, and again after a request
without one. When there are too many connections, of one address or in all, the stranger that has
been there longest is closed for the new one. A client without a token can therefore not take the
place of a health check or of a token holder, or the descriptors that the process needs.

aiohttp's own messages about malformed requests quote them, and they may contain a token. The
messages here name the address only, at a limited rate.
"""

import asyncio
import ipaddress
import json
import math
import os
import resource
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, cast

import structlog
from aiohttp import web

from famulus.config import WorkerConfig

log = structlog.get_logger()
IDLE_S = 75.0  # between two requests of one connection; longer than what scrapes metrics waits
LINGER_S = 2.0  # the rest of a body that nobody wants is read so long, that its sender may see why
SAY_S = 10.0  # between two lines about strangers
CONNECTIONS_MIN = 16
DESCRIPTORS_SHARE = 4  # connections take one of so many descriptors
ACCEPT_AT_ONCE = 8  # connections that are taken before one of them is looked at
BACKLOG = 128  # connections that the kernel holds


class Closable(Protocol):
    """A connection, as far as counting goes."""

    def abort(self) -> None:
        """Close it at once."""


@dataclass(frozen=True)
class Limits:
    """Limits of connections *in_all* and of strangers *of_address*; seconds of headers and body."""

    in_all: int
    of_address: int
    header_s: float
    body_s: float


def limits_of(worker: WorkerConfig) -> Limits:
    """Return the limits by the settings, and by the descriptors that the process may have."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = (
        math.inf if descriptors == resource.RLIM_INFINITY else descriptors // DESCRIPTORS_SHARE
    )
    in_all = int(min(worker.web_connections, max(allowed, CONNECTIONS_MIN)))
    of_address = min(worker.web_connections_per_address, max(in_all // 2, 1))
    return Limits(in_all, of_address, worker.web_header_s, worker.web_body_s)


class Places:
    """The open connections: strangers by address, the oldest first, and token holders."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._strangers: dict[Closable, str] = {}
        self._known: dict[Closable, str] = {}
        self._of: dict[str, int] = {}  # strangers by address
        self.closed = 0  # for want of room, since the start

    def __len__(self) -> int:
        return len(self._strangers) + len(self._known)

    def enter(self, one: Closable, address: str) -> bool:
        """Give *one* of *address* a place, maybe the oldest stranger's.

        False when token holders have all.
        """
        if self._of.get(address, 0) >= self._limits.of_address:
            self._close(next(other for other, its in self._strangers.items() if its == address))
        elif len(self) >= self._limits.in_all:
            if not self._strangers:
                self.closed += 1
                return False
            self._close(next(iter(self._strangers)))
        self._add(one, address)
        return True

    def leave(self, one: Closable) -> None:
        """Take the place of *one* away, if it has one."""
        self._known.pop(one, None)
        address = self._strangers.pop(one, None)
        if address is not None:
            self._of[address] -= 1
            if not self._of[address]:
                del self._of[address]

    def know(self, one: Closable, *, is_known: bool) -> None:
        """Note whether the last request on *one* has shown a token."""
        here = self._known if is_known else self._strangers
        address = self._known.get(one) or self._strangers.get(one)
        if one in here or address is None:
            return
        self.leave(one)
        if is_known:
            self._known[one] = address
        else:
            self._add(one, address)

    def _add(self, stranger: Closable, address: str) -> None:
        self._strangers[stranger] = address
        self._of[address] = self._of.get(address, 0) + 1

    def _close(self, one: Closable) -> None:
        self.closed += 1
        self.leave(one)
        one.abort()


class Complaints:
    """Lines about what strangers send, at most one in SAY_S. *clock* counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_s = 0.0
        self.count = 0
        self._unsaid = 0

    def note(self, what: str, address: str) -> None:
        """Say *what* came from *address*, or count it for the next line."""
        self.count += 1
        if self._clock() < self._next_s:
            self._unsaid += 1
            return
        log.warning(what, address=address, more_since_the_last_line=self._unsaid)
        self._next_s, self._unsaid = self._clock() + SAY_S, 0


class Doorway(web.Server):
    """aiohttp's server of connections, with limits."""

    def __init__(self, server: web.Server, limits: Limits) -> None:
        super().__init__(
            server.request_handler,
            request_factory=server.request_factory,
            **(server._kwargs | {"keepalive_timeout": IDLE_S, "lingering_time": LINGER_S}),
        )
        self.limits = limits
        self.places = Places(limits)
        self.complaints = Complaints()

    def __call__(self) -> web.RequestHandler:
        """Make a connection that is about to open."""
        return Connection(self, loop=self._loop, **self._kwargs)


class Connection(web.RequestHandler):
    """One connection, closed when there is no place for it or its headers take too long."""

    def __init__(self, doorway: Doorway, **options: Any) -> None:  # Any: aiohttp's
        super().__init__(doorway, **options)
        self._doorway = doorway
        self._overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, or close."""
        if not self._doorway.places.enter(self, address_of(transport.get_extra_info("peername"))):
            self._force_close = True
            cast(asyncio.Transport, transport).abort()
            return
        super().connection_made(transport)
        self._begin_headers()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give the place back."""
        self._end_headers()
        self._doorway.places.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receive data; the time limit of the headers begins with the first byte of a request."""
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._end_headers()
        elif self._overdue is None and self._waiter is not None and not self._messages:
            self._begin_headers()

    def know(self, *, is_known: bool) -> None:
        """Note whether the request at work has shown a token."""
        self._doorway.places.know(self, is_known=is_known)

    def abort(self) -> None:
        """Close at once; what was not sent yet is lost."""
        transport = self.transport
        self.force_close()
        if transport is not None:
            transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that cannot be read, or that broke, without a word of it."""
        del message
        if status < 500:
            self._doorway.complaints.note("a malformed request", address_of(request.remote))
        else:
            self.log_exception("", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("a part of an answer was sent already")
        why = (
            "this is no HTTP request that can be read"
            if status < 500
            else "the worker's log says what is wrong"
        )
        body = json.dumps({"error": why}).encode()
        response = web.Response(body=body, status=status, content_type="application/json")
        response.force_close()
        return response

    def log_exception(self, *args: Any, exc_info: Any = None, **_: Any) -> None:
        """Log a broken connection by the type of its error: the text may quote a request."""
        del args
        self._doorway.complaints.note(
            f"a connection broke: {type(exc_info).__name__}", address_of(self.peername)
        )

    def _begin_headers(self) -> None:
        self._overdue = self._loop.call_later(self._doorway.limits.header_s, self.abort)

    def _end_headers(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None


class Runner(web.AppRunner):
    """aiohttp's runner of an application, behind a `Doorway`."""

    __slots__ = ("limits",)

    def __init__(self, app: web.Application, limits: Limits) -> None:
        super().__init__(app, access_log=None)
        self.limits = limits

    async def _make_server(self) -> web.Server:
        return Doorway(await super()._make_server(), self.limits)


class Site(web.TCPSite):
    """A TCP port to listen on.

    The backlog is short, since each connection takes a descriptor before it can be refused.
    """

    def __init__(
        self, runner: Runner, host: str | None, port: int | None, ssl_context: Any
    ) -> None:
        super().__init__(runner, host, port, ssl_context=ssl_context, backlog=ACCEPT_AT_ONCE)

    async def start(self) -> None:
        """Listen; the kernel holds more connections than are taken at once."""
        await super().start()
        for each in cast(asyncio.Server, self._server).sockets:
            with socket.socket(fileno=os.dup(each.fileno())) as listening:
                listening.listen(BACKLOG)


def address_of(peer: object) -> str:
    """Return the address of a peer as limits count it.

    Of IPv6 it is the /64 network, all of which one host may own.
    """
    host = str(peer[0]) if isinstance(peer, tuple) else str(peer or "")
    with suppress(ValueError):
        address = ipaddress.ip_address(host.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address):
            mapped = address.ipv4_mapped
            return str(mapped) if mapped else str(ipaddress.ip_network((address, 64), strict=False))
    return host
