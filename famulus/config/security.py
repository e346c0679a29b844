"""Settings for encryption and authentication, with Kafka's names.

A secret is a `SecretStr`, which prints as stars. Settings that would have no effect are refused,
and so are those that would send a password or a token over an unencrypted link. `kafka.client`
turns the settings into arguments of connections.
"""

from pathlib import Path
from typing import Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from famulus.config.section import Section

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
NOTHING = SecretStr("")


class SecurityConfig(Section):
    """Settings of section `Kafka` for encryption and authentication.

    With TLS the broker's certificate and its host name are always verified.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    security_protocol: Protocol = "PLAINTEXT"
    ssl_ca_location: Path | None = Field(
        None, description="PEM file of who signs brokers; else the system's."
    )
    ssl_certificate_location: Path | None = Field(
        None, description="PEM file: our certificate, for mutual TLS."
    )
    ssl_key_location: Path | None = Field(
        None, description="PEM file: its key, unless that is in the same file."
    )
    ssl_key_password: SecretStr = NOTHING
    sasl_mechanism: Mechanism | None = None
    sasl_username: str = ""
    sasl_password: SecretStr = NOTHING
    sasl_oauthbearer_token_endpoint_url: str = Field(
        "", description="https only; gives tokens for client credentials."
    )
    sasl_oauthbearer_allowed_hosts: tuple[str, ...] = Field(
        (), description="The hosts that this URL may have."
    )
    sasl_oauthbearer_client_id: str = ""
    sasl_oauthbearer_client_secret: SecretStr = NOTHING
    sasl_oauthbearer_scope: str = ""
    https_ca_location: Path | None = Field(
        None, description="PEM file of who signs the token server; else the system's."
    )

    @property
    def alone(self) -> "SecurityConfig":
        """Return the security settings without those of subclasses.

        The result is hashable, and equal to another one if the security settings are equal.
        """
        return SecurityConfig(**{name: getattr(self, name) for name in SecurityConfig.model_fields})

    @property
    def is_encrypted(self) -> bool:
        """Return whether connections use TLS."""
        return self.security_protocol in {"SSL", "SASL_SSL"}

    @property
    def is_sasl(self) -> bool:
        """Return whether connections authenticate by SASL."""
        return self.security_protocol in {"SASL_PLAINTEXT", "SASL_SSL"}

    @field_validator(
        "ssl_ca_location",
        "ssl_certificate_location",
        "ssl_key_location",
        "https_ca_location",
        "sasl_mechanism",
        mode="before",
    )
    @classmethod
    def _nothing(cls, value: object) -> object:
        return None if value == "" else value  # an empty environment variable means unset

    @field_validator("sasl_oauthbearer_allowed_hosts", mode="before")
    @classmethod
    def _hosts(cls, value: object) -> object:
        hosts = value.split(",") if isinstance(value, str) else value
        return (
            [str(host).strip().lower() for host in hosts if str(host).strip()]
            if isinstance(hosts, list)
            else hosts
        )

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.is_sasl:
            self._check_login()
        self._refuse_idle("sasl_", "a SASL protocol", is_used=self.is_sasl)
        self._refuse_idle("ssl_", "SSL or SASL_SSL", is_used=self.is_encrypted)
        is_oauth = self.sasl_mechanism == "OAUTHBEARER"
        self._refuse_idle("sasl_oauthbearer_", "SaslMechanism OAUTHBEARER", is_used=is_oauth)
        self._refuse_idle("https_", "SaslMechanism OAUTHBEARER", is_used=is_oauth)
        if self.ssl_key_location and not self.ssl_certificate_location:
            raise ValueError(
                "SslKeyLocation needs SslCertificateLocation, the certificate of that key"
            )
        return self

    def _refuse_idle(self, prefix: str, needed: str, *, is_used: bool) -> None:
        """Raise ValueError for set fields with *prefix* that have no effect.

        An operator who sets one may wrongly believe that the connection is secured.
        """
        found = [
            name
            for name in type(self).model_fields
            if name.startswith(prefix) and getattr(self, name)
        ]
        if found and not is_used:
            raise ValueError(
                f"{', '.join(found)} has no effect with SecurityProtocol {self.security_protocol}"
                f"{f' and SaslMechanism {self.sasl_mechanism}' if self.sasl_mechanism else ''}: "
                f"it needs {needed}"
            )

    def _check_login(self) -> None:
        if self.sasl_mechanism is None:
            raise ValueError(f"SaslMechanism is missing: one of {', '.join(get_args(Mechanism))}")
        if self.sasl_mechanism in {"PLAIN", "OAUTHBEARER"} and not self.is_encrypted:
            raise ValueError(
                f"{self.sasl_mechanism} over {self.security_protocol} lets anybody on the way "
                "read the password or "
                "token: set SecurityProtocol to SASL_SSL"
            )
        if self.sasl_mechanism == "OAUTHBEARER":
            self._require("sasl_oauthbearer_client_id", "sasl_oauthbearer_client_secret")
            self._check_endpoint()
            if self.sasl_username or self.sasl_password:
                raise ValueError(
                    "SaslUsername and SaslPassword have no effect with OAUTHBEARER: it has a "
                    "client id"
                )
        else:
            self._require("sasl_username", "sasl_password")

    def _require(self, *names: str) -> None:
        if missing := [name for name in names if not getattr(self, name)]:
            raise ValueError(f"{self.sasl_mechanism} needs {' and '.join(missing)}")

    def _check_endpoint(self) -> None:
        """Raise ValueError unless the token endpoint uses https and is an allowed host.

        Settings may come from a party that may not reach all hosts that this process can reach
        (CVE-2025-27817).
        """
        url = urlsplit(self.sasl_oauthbearer_token_endpoint_url)
        if url.scheme != "https" or not url.hostname or url.username or url.password:
            raise ValueError(
                "SaslOauthbearerTokenEndpointUrl must be an https:// address without a user in it"
            )
        if url.hostname not in self.sasl_oauthbearer_allowed_hosts:
            raise ValueError(
                f"{url.hostname}, where tokens come from, is not among SaslOauthbearerAllowedHosts"
            )
