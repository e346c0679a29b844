"""Tests of the settings of a secured cluster: spellings, refusals, and secrets that stay hidden."""

import ast
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from famulus.config import KafkaConfig, load_settings
from famulus.errors import ConfigError
from tests.support.places import ROOT

USER = {"SaslUsername": "alice", "SaslPassword": "canary"}
OAUTH = {
    "SecurityProtocol": "SASL_SSL",
    "SaslMechanism": "OAUTHBEARER",
    "SaslOauthbearerTokenEndpointUrl": "https://login.example/token",
    "SaslOauthbearerAllowedHosts": ["Login.Example"],
    "SaslOauthbearerClientId": "famulus",
    "SaslOauthbearerClientSecret": "canary",
}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set an empty settings folder for each test."""
    monkeypatch.setenv("APPSETTINGS_DIR", str(tmp_path))
    load_settings.cache_clear()


def loaded(folder: Path, kafka: Mapping[str, object]) -> KafkaConfig:
    """Write the settings to the file and load them."""
    (folder / "appsettings.json").write_text(json.dumps({"Kafka": kafka}))
    return load_settings().kafka


@pytest.mark.parametrize("protocol", ["SaslSsl", "SASL_SSL", "sasl_ssl", "sasl.ssl"])
@pytest.mark.parametrize(
    ("mechanism", "meant"),
    [("Plain", "PLAIN"), ("ScramSha256", "SCRAM-SHA-256"), ("SCRAM-SHA-512", "SCRAM-SHA-512")],
)
def test_spellings_are_one(tmp_path: Path, protocol: str, mechanism: str, meant: str) -> None:
    """The spellings are those of Kafka and of .NET."""
    kafka = loaded(tmp_path, {"SecurityProtocol": protocol, "SaslMechanism": mechanism, **USER})
    assert (kafka.security_protocol, kafka.sasl_mechanism) == ("SASL_SSL", meant)


def test_secrets_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable overrides the file, and may look like a number."""
    monkeypatch.setenv("KAFKA__SASLPASSWORD", "12345")
    monkeypatch.setenv("KAFKA__SASLOAUTHBEARERALLOWEDHOSTS", "")
    kafka = loaded(
        tmp_path, {"SecurityProtocol": "SaslSsl", "SaslMechanism": "Plain", "SaslUsername": "alice"}
    )
    assert kafka.sasl_password.get_secret_value() == "12345"


def test_allowed_hosts_are_a_list_or_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has a list, the variable has one line."""
    assert loaded(tmp_path, OAUTH).sasl_oauthbearer_allowed_hosts == ("login.example",)
    load_settings.cache_clear()
    monkeypatch.setenv("KAFKA__SASLOAUTHBEARERALLOWEDHOSTS", "a.example, login.example")
    assert loaded(tmp_path, OAUTH).sasl_oauthbearer_allowed_hosts == ("a.example", "login.example")


WRONG: list[tuple[dict[str, object], str]] = [
    ({"SecurityProtocol": "SaslSssl"}, "Input should be 'PLAINTEXT', 'SSL'"),
    ({"SecurityProtocol": "SaslSsl", **USER}, "SaslMechanism is missing"),
    ({"SecurityProtocol": "SaslSsl", "SaslMechanism": "GSSAPI", **USER}, "Input should be 'PLAIN'"),
    (
        {"SecurityProtocol": "SaslSsl", "SaslMechanism": "Plain"},
        "PLAIN needs sasl_username and sasl_password",
    ),
    (
        {"SecurityProtocol": "SaslPlaintext", "SaslMechanism": "Plain", **USER},
        "set SecurityProtocol to SASL_SSL",
    ),
    ({**OAUTH, "SecurityProtocol": "SASL_PLAINTEXT"}, "set SecurityProtocol to SASL_SSL"),
    ({"SaslMechanism": "Plain", **USER}, "no effect with SecurityProtocol PLAINTEXT"),
    (
        {"SecurityProtocol": "SSL", **USER},
        "no effect with SecurityProtocol SSL: it needs a SASL protocol",
    ),
    (
        {"SslCaLocation": "ca.pem"},
        "no effect with SecurityProtocol PLAINTEXT: it needs SSL or SASL_SSL",
    ),
    (
        {"SecurityProtocol": "SSL", "SslKeyLocation": "key.pem"},
        "SslKeyLocation needs SslCertificateLocation",
    ),
    ({**OAUTH, **USER}, "have no effect with OAUTHBEARER"),
    ({**OAUTH, "SaslOauthbearerClientSecret": ""}, "needs sasl_oauthbearer_client_secret"),
    (
        {**OAUTH, "SaslOauthbearerTokenEndpointUrl": "file:///etc/passwd"},
        "must be an https:// address",
    ),
    (
        {**OAUTH, "SaslOauthbearerTokenEndpointUrl": "http://169.254.169.254/token"},
        "must be an https:// address",
    ),
    (
        {**OAUTH, "SaslOauthbearerTokenEndpointUrl": "https://canary@login.example/"},
        "without a user in it",
    ),
    (
        {**OAUTH, "SaslOauthbearerTokenEndpointUrl": "https://login.example.evil/"},
        "login.example.evil",
    ),
    ({**OAUTH, "SaslOauthbearerAllowedHosts": []}, "is not among SaslOauthbearerAllowedHosts"),
    (
        {
            "SecurityProtocol": "SaslSsl",
            "SaslMechanism": "Plain",
            **USER,
            "SaslOauthbearerScope": "x",
        },
        "OAUTHBEARER",
    ),
]


@pytest.mark.parametrize(("kafka", "says"), WRONG)
def test_what_does_not_fit_is_refused(tmp_path: Path, kafka: dict[str, object], says: str) -> None:
    """The line names the remedy and shows no secret."""
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, kafka)
    assert says in refused.value.message
    assert "canary" not in refused.value.message


def test_a_password_is_never_printed(tmp_path: Path) -> None:
    """Both the settings and validation errors are printed."""
    kafka = loaded(tmp_path, {"SecurityProtocol": "SaslSsl", "SaslMechanism": "Plain", **USER})
    assert "canary" not in f"{kafka} {kafka!r} {kafka.model_dump()} {kafka.model_dump_json()}"
    with pytest.raises(ValidationError) as refused:
        KafkaConfig.model_validate({"SaslPasswort": "canary"})
    assert "canary" not in str(refused.value)


def test_every_client_is_made_with_the_one_connection() -> None:
    """A client without these options could not log in, or would connect unencrypted."""
    found = []
    for file in (ROOT / "famulus").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in CLIENTS:
                unpacked = [
                    ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg is None
                ]
                found.append(any(name.startswith("client_options(") for name in unpacked))
                assert found[-1], f"{file}:{node.lineno}"
    assert len(found) >= 7


CLIENTS = {"AIOKafkaProducer", "AIOKafkaConsumer", "AIOKafkaAdminClient", "AIOKafkaClient"}
