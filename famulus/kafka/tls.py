"""TLS contexts: trusted authorities, and the certificate of this client."""

import ssl
from pathlib import Path

from pydantic import SecretStr

from famulus.config.security import SecurityConfig
from famulus.errors import ConfigError


def context_of(settings: SecurityConfig) -> ssl.SSLContext:
    """Return the TLS context for brokers. Raises ConfigError when a file cannot be read."""
    context = authority_of(settings.ssl_ca_location, "Kafka.SslCaLocation")
    if settings.ssl_certificate_location is not None:
        _load_own(
            context,
            settings.ssl_certificate_location,
            settings.ssl_key_location,
            settings.ssl_key_password,
        )
    return context


def _load_own(
    context: ssl.SSLContext, certificate: Path, key: Path | None, password: SecretStr
) -> None:
    try:
        # A function, even without a password: else OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password.get_secret_value)
    except (
        OSError,
        ValueError,
    ) as error:  # ssl.SSLError is an OSError; no password for a locked key a ValueError
        files = f"{certificate} and {key}" if key else str(certificate)
        raise ConfigError(
            f"our certificate and its key cannot be read from {files}: {_reason(error)}; "
            "Kafka.SslCertificateLocation, "
            "SslKeyLocation and SslKeyPassword say where they are, as PEM"
        ) from None


def authority_of(file: Path | None, setting: str) -> ssl.SSLContext:
    """Return a context for TLS 1.2 or newer that trusts *file*'s authorities, else the system's.

    Raises ConfigError, which names the *setting*, when the file cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=file)
    except OSError as error:
        raise ConfigError(
            f"{setting} {file} cannot be read as certificates in PEM: {_reason(error)}"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _reason(error: Exception) -> str:
    """Return the reason of an error without the file's content."""
    if isinstance(error, ssl.SSLError):
        return str(error.reason or "not PEM").replace("_", " ").lower()
    return str(
        getattr(error, "strerror", "") or "the key is locked, its password is missing or too long"
    )
