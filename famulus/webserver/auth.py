"""Access to the web server: authentication, rights, limits, and the headers of every answer.

`GET` and `HEAD` need the read token, every other method the admin token, which may read as well.
This rule holds for every route of the server, Faust's own and a team's included, and for paths that
do not exist. Only the login form and the health checks are open; the latter show details to a
request with a token. Before `open` nothing is let in.

The load has limits, see `rate_limit` and `connections`, and so has each request: the bytes of its
body, the seconds until it is complete, the seconds of its processing. A request counts as active
when it is complete.

Faults of a sender are never errors of the server: bodies that are not UTF-8 are refused here, and
so is what a view finds to be wrong (`BadRequestError`).

A token comes in a header, or was sent to `/login`: then a cookie stands for it, and requests that
act bring the session's CSRF token as well, in the header `X-CSRF-Token` or the form's field `csrf`.
Views find it in `request["csrf"]`.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import json
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import structlog
from aiohttp import web

from famulus.config import WorkerConfig
from famulus.errors import BadRequestError, ConfigError
from famulus.webserver.connections import Connection, address_of
from famulus.webserver.rate_limit import HEADERS_MAX, REQUESTS_MAX, LoginRateLimiter
from famulus.webserver.sessions import Session, Sessions
from famulus.webserver.tokens import Access, Token, TokenFile, made_token

log = structlog.get_logger()
HEALTH = frozenset(
    {(method, path) for method in ("GET", "HEAD") for path in ("/livez", "/readyz", "/startupz")}
)
OPEN = HEALTH | {(method, "/login") for method in ("GET", "HEAD")}
LOGIN, LOGOUT = ("POST", "/login"), ("POST", "/logout")
BODY_BYTES = 64 * 1024
REQUEST_S = 30.0
TEXTS = {"application/json", "application/x-www-form-urlencoded"}
# In the data folder, when the settings give none.
READ_FILE, ADMIN_FILE = "web-read-token", "web-admin-token"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WebAuth:
    """Guards the web server of one worker."""

    def __init__(self, worker: WorkerConfig) -> None:
        self._worker = worker
        self._tokens: dict[Access, Token | TokenFile] = {}
        self._sessions = Sessions()
        # By address, and by token. What comes in headers keeps nobody from logging in at the same
        # address.
        self._logins, self._tokens_tried, self._headers = (
            LoginRateLimiter(),
            LoginRateLimiter(),
            LoginRateLimiter(most=HEADERS_MAX),
        )
        self._at_work = 0  # requests

    @property
    def options(self) -> dict[str, Any]:  # Any: aiohttp's
        """The keyword arguments of aiohttp's Application that put this door before every route."""
        return {"middlewares": [self.pass_on], "client_max_size": BODY_BYTES}

    def check(self, bind: str) -> None:
        """Raise ConfigError when other machines reach *bind* and the settings have no token."""
        if not (self.is_given or is_loopback(bind)):
            raise ConfigError(
                f"the web views on {bind} would be open to others: set Worker.ReadTokenFile "
                "and Worker.AdminTokenFile "
                "(or ReadToken, AdminToken), or bind to 127.0.0.1, or start with --without-web"
            )

    def open(self) -> None:
        """Read the tokens, or make them in the data folder if the settings have none.

        Raises ConfigError when a token is missing, or could be guessed.
        """
        worker, folder = self._worker, Path(self._worker.data_dir)
        found = {
            Access.READ: _token(
                "ReadToken", worker.read_token.get_secret_value(), worker.read_token_file
            ),
            Access.ADMIN: _token(
                "AdminToken", worker.admin_token.get_secret_value(), worker.admin_token_file
            ),
        }
        if not self.is_given:
            found = {
                Access.READ: made_token("Worker.ReadToken", folder / READ_FILE),
                Access.ADMIN: made_token("Worker.AdminToken", folder / ADMIN_FILE),
            }
            log.info(
                "web views take the tokens in these files",
                to_look=folder / READ_FILE,
                to_act=folder / ADMIN_FILE,
            )
        self._tokens = {access: token for access, token in found.items() if token is not None}
        if len({token.text for token in self._tokens.values()}) < len(self._tokens):
            raise ConfigError(
                "Worker.ReadToken and Worker.AdminToken are the same: whoever may look could act"
            )

    def log_in(self, offered: str, address: str) -> str | None:
        """Begin a session for a good token and return the cookie's value.

        Returns None for another token, and counts it.
        """
        access = self.access_of(offered)
        if access > Access.NONE:
            return self._sessions.begin(access, offered)
        self._logins.note(address_of(address))
        self._tokens_tried.note(_digest(offered))
        return None

    def log_out(self, request: web.Request) -> None:
        """End the session of *request*, if there is one."""
        self._sessions.end(request.cookies.get(cookie_name(request), ""))

    def access_of(self, offered: str) -> Access:
        """Return the right of the token *offered*, NONE if it is not good."""
        sent = offered.encode("utf-8", "surrogatepass")
        # Every token is compared, each in constant time: how long it takes tells nothing.
        fits = [
            access
            for access, token in self._tokens.items()
            if hmac.compare_digest(sent, token.text.encode())
        ]
        return max(fits, default=Access.NONE)

    def may_still_read(self, request: web.Request) -> bool:
        """Return True if the sender of *request* may still read.

        Its session may have ended, or its token may have been replaced.
        """
        return self._who(request)[0] >= Access.READ

    @web.middleware
    async def pass_on(self, request: web.Request, handler: Next) -> web.StreamResponse:
        """Let the request through to *handler* or answer it here, in JSON, within a time limit."""
        response: web.StreamResponse
        try:
            async with asyncio.timeout(REQUEST_S):
                response = await self._refusal(request) or await self._answer(request, handler)
        except TimeoutError:
            response = _refuse(503, f"it took longer than {REQUEST_S:g} s")
        except web.HTTPException as error:
            kept = {name: error.headers.get(name, "") for name in ("Allow", "Location")}
            response = _refuse(error.status, error.reason.lower(), **kept)
        except BadRequestError as error:
            response = _refuse(400, str(error))
        except (web.RequestPayloadError, web.PayloadAccessError):
            response = _refuse(400, "the body cannot be read")
        except (
            Exception
        ) as error:  # whatever a view does wrong: the log has it, the answer shows nothing of it
            # The sender left: nobody is at fault.
            if isinstance(error, ConnectionError) and request.transport is None:
                response = _refuse(400, "the request was not whole")
            else:
                log.exception("a web view is broken", resource=request.match_info.route.resource)
                response = _refuse(500, "the worker's log says what is wrong")
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    async def _answer(self, request: web.Request, handler: Next) -> web.StreamResponse:
        """Return the view's answer, or a refusal under load. Health checks are never refused."""
        if (request.method, request.path) in HEALTH:  # a worker is not ended for being looked at
            return await handler(request)
        if self._at_work >= REQUESTS_MAX:
            return _refuse(
                503, f"{REQUESTS_MAX} requests are at work already", **{"Retry-After": "1"}
            )
        self._at_work += 1
        try:
            return await handler(request)
        finally:
            self._at_work -= 1

    async def _refusal(self, request: web.Request) -> web.Response | None:
        """Return the refusal of a request, None when it may pass.

        The sender's right is noted for the views.
        """
        access, session = self._who(request)
        request["access"], request["csrf"] = access, session.csrf if session else ""
        if isinstance(request.protocol, Connection):
            request.protocol.know(is_known=access > Access.NONE)
        if access < need_of(request.method, request.path):
            return self._wrong_token(request, access) or _closed(request, access)
        if refused := await self._body(request):
            return refused
        if (request.method, request.path) == LOGIN:
            return await self._login_refusal(request)
        if (
            session
            and request.method not in {"GET", "HEAD"}
            and not await _is_meant(request, session)
        ):
            return _refuse(
                403,
                (
                    "send the session's CSRF token, as the header X-CSRF-Token or the form's "
                    "field csrf"
                ),
            )
        return None

    async def _login_refusal(self, request: web.Request) -> web.Response | None:
        """Return a refusal for an address, or a token, with too many failed logins; else None."""
        digest = _digest((await form_field(request, "token")).strip())
        wait_s = max(
            self._logins.wait_s(address_of(request.remote)), self._tokens_tried.wait_s(digest)
        )
        return _too_many(wait_s) if wait_s else None

    def _wrong_token(self, request: web.Request, access: Access) -> web.Response | None:
        """Count a wrong token in a header; the answer to one too many of an address.

        Good ones are never kept out.
        """
        if access > Access.NONE or not _bearer(request):
            return None
        address = address_of(request.remote)
        if wait_s := self._headers.wait_s(address):
            return _too_many(wait_s)
        self._headers.note(address)
        return None

    async def _body(self, request: web.Request) -> web.Response | None:
        """Wait for the body, and say why when it is no good one.

        A body of files is left to the view that takes it.
        """
        if request.body_exists and request.content_length is None:
            return _refuse(411, "say how long the body is")
        if (request.content_length or 0) > BODY_BYTES:
            return _refuse(413, f"the body is larger than {BODY_BYTES} bytes")
        if not request.body_exists or request.content_type.startswith("multipart/"):
            return None
        try:
            async with asyncio.timeout(self._worker.web_body_s):
                body = await request.read()
        except TimeoutError:
            response = _refuse(408, f"the body did not come within {self._worker.web_body_s:g} s")
            response.force_close()
            return response
        try:
            body.decode()
        except UnicodeDecodeError:
            if request.content_type in TEXTS:
                return _refuse(400, "the body is not UTF-8")
        return None

    def _who(self, request: web.Request) -> tuple[Access, Session | None]:
        """Return the right of a request by its token or session.

        A session ends when its token is replaced.
        """
        if request.headers.get("Authorization"):
            offered = _bearer(request)
            return self.access_of(offered) if offered else Access.NONE, None
        session = self._sessions.find(request.cookies.get(cookie_name(request), ""))
        if session is None or self.access_of(session.token) != session.access:
            return Access.NONE, None
        return session.access, session

    @property
    def is_given(self) -> bool:
        """Return True if the settings have a token, so that none is made."""
        worker = self._worker
        return bool(
            worker.read_token
            or worker.admin_token
            or worker.read_token_file
            or worker.admin_token_file
        )


def may_read(request: Any) -> bool:  # Any: Faust's type of aiohttp's request
    """Return True if the sender may read: open views show others no more than needed."""
    return cast(Access, request.get("access", Access.NONE)) >= Access.READ


def may_act(request: Any) -> bool:  # Any: as above
    """Return True if the sender may act: pages show the controls to no other."""
    return cast(Access, request.get("access", Access.NONE)) >= Access.ADMIN


async def form_field(request: web.Request, name: str) -> str:
    """Return a field of the request's form; empty if it cannot be read.

    Forms with files are not parsed, since that would write a stranger's files to disk.
    """
    if request.content_type != "application/x-www-form-urlencoded":
        return ""
    try:
        value = (await request.post()).get(name, "")
    except (LookupError, ValueError):
        return ""
    return value if isinstance(value, str) else ""


def cookie_name(request: web.Request) -> str:
    """Return the name of a session's cookie: browsers do not tell ports of a host apart."""
    address = request.get_extra_info("sockname")
    return f"famulus-session-{address[1] if isinstance(address, tuple) else 0}"


def is_loopback(bind: str) -> bool:
    """Return True if an address to listen on is reachable from this machine only.

    A name other than localhost never is.
    """
    try:
        return bind.lower() == "localhost" or ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return False


def need_of(method: str, path: str) -> Access:
    """Return the right that a method and path need."""
    route = method, path
    if route in OPEN or route == LOGIN:
        return Access.NONE
    return Access.READ if method in {"GET", "HEAD"} or route == LOGOUT else Access.ADMIN


def _closed(request: web.Request, access: Access) -> web.Response:
    """Return the refusal of a request without the right; browsers go to the login form."""
    if access > Access.NONE:
        return _refuse(403, "this token is for reading alone")
    if request.method == "GET" and "text/html" in request.headers.get("Accept", ""):
        return _refuse(303, "log in", Location="/login")
    why = (
        "send the header `Authorization: Bearer TOKEN`, or log in at /login; the worker's "
        "log says where the token is"
    )
    return _refuse(401, why, **{"WWW-Authenticate": 'Bearer realm="famulus"'})


async def _is_meant(request: web.Request, session: Session) -> bool:
    """Return True if an act comes from a page of this worker, not of another site."""
    sent = request.headers.get("X-CSRF-Token") or await form_field(request, "csrf")
    return hmac.compare_digest(sent.encode("utf-8", "surrogatepass"), session.csrf.encode())


def _token(name: str, given: str, file: str) -> Token | TokenFile | None:
    """Return the token of the settings NAME and NAMEFile, None when neither is set."""
    if given and file:
        raise ConfigError(f"Worker.{name} and Worker.{name}File are both set: choose one")
    if given:
        return Token(f"Worker.{name}", given)
    return TokenFile(f"Worker.{name}File", Path(file)) if file else None


def _bearer(request: web.Request) -> str:
    """Return the token in the request's header, empty without one."""
    scheme, _, offered = request.headers.get("Authorization", "").partition(" ")
    return offered.strip() if scheme.lower() == "bearer" else ""


def _digest(token: str) -> str:
    """Return the digest by which a wrong token is counted: the text may be nearly right."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _too_many(wait_s: float) -> web.Response:
    return _refuse(429, "too many wrong tokens", **{"Retry-After": str(math.ceil(wait_s))})


def _refuse(status: int, why: str, **headers: str) -> web.Response:
    """Return an error as one line of JSON, as the views do."""
    sent = {name: value for name, value in headers.items() if value}
    body = json.dumps({"error": why}).encode()
    return web.Response(body=body, status=status, content_type="application/json", headers=sent)
