"""Connection options of every aiokafka client in the process."""

import logging
from typing import Any

from famulus.config import KafkaConfig

# The import limits aiokafka's decompression, for every client that is made here.
from famulus.kafka import decompression as _unpacking  # noqa: F401
from famulus.kafka.oauth import source_of
from famulus.kafka.tls import context_of


def client_options(settings: KafkaConfig) -> dict[str, Any]:  # Any: aiokafka is untyped
    """Return the keyword arguments that producers, consumers and admin clients share.

    Certificate files are read again for each client, so that the next one uses a renewed
    certificate. Raises ConfigError when a file cannot be read.
    """
    arguments: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": settings.security_protocol,
    }
    if settings.is_encrypted:
        arguments["ssl_context"] = context_of(settings)
    if settings.is_sasl:
        arguments["sasl_mechanism"] = settings.sasl_mechanism
        if settings.sasl_mechanism == "OAUTHBEARER":
            arguments["sasl_oauth_token_provider"] = source_of(settings.alone)
        else:
            arguments["sasl_plain_username"] = settings.sasl_username
            arguments["sasl_plain_password"] = settings.sasl_password.get_secret_value()
    return arguments


# Requests and answers with a password or token, or with events.
PRIVATE = "SaslAuthenticate", "Produce", "Fetch"


def _hide_bytes(record: logging.LogRecord) -> bool:
    """Hide the bytes of logins and of events in aiokafka's debug log."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            type(arg).__name__ if type(arg).__name__.startswith(PRIVATE) else arg
            for arg in record.args
        )
    return True


logging.getLogger("aiokafka.conn").addFilter(_hide_bytes)
