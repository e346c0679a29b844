"""Diagnosis of failed connections. aiokafka only logs why a broker refuses a client.

After a failure this module opens connections of its own to find the reason. A wrong login or
certificate stays wrong and is reported at once. A broker that is down may return.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Iterator
from typing import Any

from aiokafka.conn import create_conn
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from famulus.config import KafkaConfig
from famulus.errors import AccessError, ConfigError, OperatingError, UnavailableError
from famulus.kafka.client import client_options
from famulus.kafka.oauth import TokenError, TokenServerError

KNOCK_MS = 3_000  # limit of one connection; a slower broker counts as unavailable
REFUSED = f"[Errno {errno.ECONNREFUSED}]"
EXPIRED, WRONG_HOST, WRONG_ADDRESS = 10, 62, 64  # OpenSSL's X509_V_ERR_...


async def why_refused(settings: KafkaConfig) -> OperatingError | None:
    """Return why brokers refuse this client, None if none of them does.

    None therefore means that brokers are down, or were for a moment. Connects to every broker of
    `BootstrapServers`, then to those that they name, whose certificates may differ. A PLAINTEXT
    connection has no login to refuse, so None is returned at once.
    """
    if settings.security_protocol == "PLAINTEXT":
        return None
    arguments = client_options(settings)
    waiting = list(_addresses(settings.bootstrap_servers))
    knocked: set[tuple[str, int]] = set()
    while waiting:
        host, port = waiting.pop(0)
        if (host, port) in knocked:
            continue
        knocked.add((host, port))
        try:
            waiting += await _knock(host, port, arguments)
        except (OSError, KafkaError, TimeoutError) as error:
            if (refused := _explained(error, settings, f"{host}:{port}")) is not None:
                return refused
    return None


async def why_away(settings: KafkaConfig) -> str:
    """Return why no broker of `BootstrapServers` can be reached, "" if one can."""
    arguments = client_options(settings)
    addresses = list(dict.fromkeys(_addresses(settings.bootstrap_servers)))
    found = await asyncio.gather(
        *(_why(host, port, arguments, settings) for host, port in addresses)
    )
    return "; ".join(found) if all(found) else ""


async def _why(host: str, port: int, arguments: dict[str, Any], settings: KafkaConfig) -> str:
    try:
        async with asyncio.timeout(KNOCK_MS / 1000):
            await _knock(host, port, arguments)
    except (OSError, KafkaError, TimeoutError, EOFError) as error:
        reason = next(
            filter(None, (_reason(cause, settings) for cause in _causes(error))),
            type(error).__name__,
        )
        return f"{host}:{port} {reason}"
    return ""


def _reason(error: BaseException, settings: KafkaConfig) -> str:
    """Return the meaning of a connection error, "" if only its cause may tell."""
    protocol, text, reason = (
        f"Kafka.SecurityProtocol is {settings.security_protocol}",
        str(error),
        "",
    )
    # asyncio joins the errors of all addresses of a name into one OSError.
    is_refused = text.startswith("Multiple exceptions:") and text.count(REFUSED) == text.count(
        "[Errno"
    )
    if isinstance(error, socket.gaierror):
        reason = f"is a name that is not known here ({error.strerror})"
    elif isinstance(error, ssl.SSLError):
        reason = f"does not speak TLS as we do: a listener without it? {protocol}"
    elif isinstance(error, TimeoutError):
        reason = "does not answer"
    elif isinstance(error, ConnectionRefusedError) or is_refused:
        reason = "refuses connections: nothing listens there"
    elif (
        isinstance(error, (KafkaConnectionError, ConnectionError, EOFError))
        and error.__cause__ is None
    ):
        cure = (
            "a listener without TLS"
            if settings.is_encrypted
            else "a listener that wants TLS, or a login"
        )
        reason = f"ends the connection: {cure}? {protocol}"
    elif isinstance(error, OSError) and error.strerror:
        reason = f"cannot be reached ({error.strerror})"
    return reason


def _addresses(servers: str) -> Iterator[tuple[str, int]]:
    for address in servers.split(","):
        host, _, port = address.strip().rpartition(":")
        yield host.strip("[]"), int(port)


async def _knock(host: str, port: int, arguments: dict[str, Any]) -> list[tuple[str, int]]:
    """Connect as a client does, and return the addresses of the brokers of the cluster.

    Raises the error of aiokafka or of the system when the connection fails.
    """
    known = {name: value for name, value in arguments.items() if name != "bootstrap_servers"}
    connection = await create_conn(host, port, request_timeout_ms=KNOCK_MS, **known)
    try:
        answer = await connection.send(MetadataRequest([]))
    finally:
        connection.close()
    return [(broker[1], broker[2]) for broker in answer.brokers]


def _explained(error: BaseException, settings: KafkaConfig, address: str) -> OperatingError | None:
    """Return the refusal behind *error* as a line for operators, None if it is none.

    The line has no secrets, and no text from the other side.
    """
    for cause in _causes(error):
        explain = _about_tls if isinstance(cause, ssl.SSLError) else _about_login
        if (refused := explain(cause, settings, address)) is not None:
            return refused
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _about_tls(error: BaseException, settings: KafkaConfig, address: str) -> AccessError | None:
    match error:
        case ssl.SSLCertVerificationError():
            return AccessError(_about_theirs(error, address))
        case ssl.SSLError(reason=str(reason)) if "ALERT" in reason:
            return AccessError(_about_ours(reason, settings, address))
    return None


def _about_theirs(error: ssl.SSLCertVerificationError, address: str) -> str:
    cures = {
        EXPIRED: "it must be renewed",
        WRONG_HOST: (
            "Kafka.BootstrapServers and the broker's advertised.listeners must use a "
            "name that it was made for"
        ),
    }
    cures[WRONG_ADDRESS] = cures[WRONG_HOST]
    cure = cures.get(
        error.verify_code, "Kafka.SslCaLocation must name the authority that signed it"
    )
    return (
        f"the certificate of the broker at {address} is not accepted: "
        f"{error.verify_message.rstrip('.')}; {cure}"
    )


def _about_ours(reason: str, settings: KafkaConfig, address: str) -> str:
    alert = reason.partition("ALERT_")[2].replace("_", " ").lower()
    cure = (
        "the one in Kafka.SslCertificateLocation must be valid and signed by an authority "
        "that the broker knows"
    )
    if settings.ssl_certificate_location is None:
        cure = "set Kafka.SslCertificateLocation and SslKeyLocation"
    return f"the broker at {address} does not accept our certificate ({alert}): {cure}"


def _about_login(
    error: BaseException, settings: KafkaConfig, address: str
) -> OperatingError | None:
    server = settings.sasl_oauthbearer_token_endpoint_url
    match error:
        case TokenError():
            cure = "check Kafka.SaslOauthbearerClientId and SaslOauthbearerClientSecret"
            return AccessError(f"no token from {server}: {error.args[0]}; {cure}")
        case TokenServerError():
            return UnavailableError(
                f"no token from {server}: it does not answer as it should ({error.args[0]})"
            )
        case UnsupportedSaslMechanismError():
            return ConfigError(
                f"the broker at {address} does not take SaslMechanism "
                f"{settings.sasl_mechanism}: set another"
            )
        case SaslAuthenticationFailed() if settings.sasl_mechanism == "OAUTHBEARER":
            return AccessError(
                f"the broker at {address} does not accept the token of client "
                f"{settings.sasl_oauthbearer_client_id}: "
                "check Kafka.SaslOauthbearerScope, and the broker's issuer and audience"
            )
        case SaslAuthenticationFailed():
            return AccessError(
                f"the broker at {address} does not let {settings.sasl_username} in by "
                f"{settings.sasl_mechanism}: check "
                "Kafka.SaslUsername and SaslPassword"
            )
    return None
