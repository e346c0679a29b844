"""Tokens for OAUTHBEARER by client credentials (RFC 6749, 4.4), kept for most of their life.

The server's address is https and on an allow-list (`security`), redirects are not followed, and an
answer has limits of time and size: a changed setting must not make this process fetch arbitrary
addresses.
"""

import json
import re
import ssl
import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import aiohttp
from aiokafka import conn
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaConnectionError,
    SaslAuthenticationFailed,
)

from famulus.config.security import SecurityConfig
from famulus.kafka.tls import authority_of

LIMIT_S = 5.0  # of one token request
ANSWER_BYTES = 64 * 1024
USED_OF_LIFE = 0.8  # share of a token's lifetime, after which a new one is requested


class TokenError(AuthenticationFailedError):  # type: ignore[misc]  # aiokafka is untyped
    """The token server refuses a token, and would refuse the next request, too."""


class TokenServerError(KafkaConnectionError):  # type: ignore[misc]  # aiokafka is untyped
    """The token server cannot be reached or has failed; a later request may succeed."""


class Token(NamedTuple):
    """A token and its lifetime in seconds, 0 if the server does not name it."""

    text: str
    lives_s: float


class TokenSource(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka is untyped
    """Token provider that aiokafka calls for each connection.

    *trust* has the certificate authorities of token servers. *clock* returns seconds. Clients in
    several threads share it without a lock: two requests at once only cost a token.
    """

    def __init__(
        self,
        settings: SecurityConfig,
        trust: ssl.SSLContext,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._trust = trust
        self._text = ""
        self._renew_at = 0.0

    async def token(self) -> str:
        """Return a token that is valid now.

        Raises TokenError when the server refuses, TokenServerError when it cannot be reached;
        neither names a secret.
        """
        if self._clock() >= self._renew_at:
            asked_at = self._clock()
            token = await self._ask()
            self._text, self._renew_at = token.text, asked_at + token.lives_s * USED_OF_LIFE
        return self._text

    async def _ask(self) -> Token:
        settings = self._settings
        form = {"grant_type": "client_credentials"}
        if settings.sasl_oauthbearer_scope:
            form["scope"] = settings.sasl_oauthbearer_scope
        client = aiohttp.encode_basic_auth(
            settings.sasl_oauthbearer_client_id,
            settings.sasl_oauthbearer_client_secret.get_secret_value(),
        )
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(LIMIT_S)) as session,
                session.post(
                    settings.sasl_oauthbearer_token_endpoint_url,
                    data=form,
                    headers={"Authorization": client},
                    ssl=self._trust,
                    allow_redirects=False,
                ) as answer,
            ):
                return _token_of(answer.status, await _body(answer))
        except aiohttp.ClientConnectorCertificateError as error:
            reason = getattr(error.certificate_error, "verify_message", "certificate not accepted")
            raise TokenError(
                f"its certificate is not accepted: {reason}; see Kafka.HttpsCaLocation"
            ) from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TokenServerError(type(error).__name__) from None


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for part in answer.content.iter_any():
        body += part
        if len(body) > ANSWER_BYTES:
            raise TokenError(f"it answers with more than {ANSWER_BYTES} bytes")
    return body


def _token_of(status: int, body: bytes) -> Token:
    """Return the token in an answer.

    Of an answer without one, only the error code of RFC 6749 is repeated.
    """
    try:
        fields: Any = json.loads(body)  # Any: JSON
    except ValueError:
        fields = None
    fields = fields if isinstance(fields, dict) else {}
    if status >= 500 or status == 429:
        raise TokenServerError(f"HTTP {status}")
    if status != 200:
        code = str(fields.get("error", ""))
        raise TokenError(
            f"it says HTTP {status}{f', {code}' if re.fullmatch('[a-z_]{1,40}', code) else ''}"
        )
    text, lives = fields.get("access_token"), fields.get("expires_in", 0)
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", text):
        raise TokenError("its answer has no access_token")
    return Token(text, max(0.0, float(lives)) if isinstance(lives, int | float) else 0.0)


class _Login(conn.OAuthAuthenticator):  # type: ignore[misc]  # aiokafka is untyped
    """Login that treats a challenge of the broker as a refusal (RFC 7628).

    aiokafka's own class takes it for success.
    """

    async def step(self, payload: bytes | None) -> Any:
        if payload:
            raise SaslAuthenticationFailed("the broker does not accept the token")
        return await super().step(payload)


conn.OAuthAuthenticator = _Login


@cache
def source_of(settings: SecurityConfig) -> TokenSource:
    """Return the token source that all clients with the same *settings* share.

    Raises ConfigError when `HttpsCaLocation` cannot be read.
    """
    return TokenSource(settings, authority_of(settings.https_ca_location, "Kafka.HttpsCaLocation"))
