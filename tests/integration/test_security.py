"""Encryption and login against a real broker: each way gets in as it should, and says plainly when it does not."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from faust.types.auth import AuthProtocol

from famulus.config import ConsumerConfig, KafkaConfig
from famulus.dev.node import free_port
from famulus.errors import AccessError, ConfigError, OperatingError, UnavailableError
from famulus.kafka.admin import delete_topics, partitions_of
from famulus.kafka.oauth import TokenSource
from famulus.kafka.tls import authority_of
from famulus.producer.producer import Producer
from famulus.runtime.faust_options import credentials_of
from tests.support.on_kafka.canary import CANARY
from tests.support.on_kafka.commands import faust, one_line
from tests.support.on_kafka.house import House
from tests.support.on_kafka.secured import PASSWORD, SECRETS, Secured, environment, secured

# One process, so that its module's fixtures are made once.
pytestmark = pytest.mark.xdist_group("secured")

WAYS = ["tls", "mtls", "plain", "scram-256", "scram-512", "oauth"]
LIMIT_S = 10.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """One broker for all of these tests."""
    with secured(tmp_path_factory.mktemp("secured")) as cluster:
        yield cluster


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, cluster: Secured) -> dict[str, str]:
    """The settings of one way in."""
    return cluster.ways()[request.param]


@pytest.fixture
def kafka(way: dict[str, str]) -> Iterator[KafkaConfig]:
    """What `conftest.kafka` is, over a secured link."""
    run = f"test-{uuid4().hex[:8]}."
    settings = KafkaConfig.model_validate(
        {**way, "topic_prefix": run, "consumer_config": ConsumerConfig(group_id=f"{run}famulus")}
    )
    yield settings
    asyncio.run(delete_topics(settings, run, LIMIT_S))


def test_a_worker_and_its_commands_get_in(
    house: House, way: dict[str, str], tmp_path: Path
) -> None:
    """Admin, producer, the group's consumer, the changelog's: an event goes the whole way, and a command reads it."""
    house.build()
    worker = house.start("one", ready=1, **environment(way))
    house.send(house.thing("a", 1), house.thing("a", 2))
    house.wait_settled(2, worker)
    assert worker.rows("count") == {"a": 2}
    assert house.live(b"")  # the state changelog, read from outside
    code, output = faust(
        "keys", "things", cwd=house.checkout, **environment(way), **outside(house, tmp_path)
    )
    assert code == 0, output
    code, listed = faust(
        "dlq", "list", cwd=house.checkout, **environment(way), **outside(house, tmp_path)
    )
    assert code == 0, listed
    assert worker.stop() == 0
    text = worker.log.read_text("utf-8", "replace") + output + listed
    assert not [secret for secret in SECRETS if secret in text]


def outside(house: House, tmp_path: Path) -> dict[str, str]:
    """The environment of a command beside a worker of *house*."""
    return {
        "KAFKA__TOPICPREFIX": house.kafka.topic_prefix,
        "KAFKA__CONSUMERCONFIG__GROUPID": house.group,
        "WORKER__DATADIR": str(tmp_path / "command"),
    }


def at(cluster: Secured, listener: str) -> dict[str, str]:
    """Another listener than the right one."""
    return {"BootstrapServers": cluster.broker.address(listener)}


def client(cluster: Secured, name: str) -> dict[str, str]:
    """Another certificate than ours."""
    return {
        "SslCertificateLocation": str(cluster.folder / f"{name}.pem"),
        "SslKeyLocation": str(cluster.folder / f"{name}.key"),
    }


def token(cluster: Secured, kind: str) -> dict[str, str]:
    """Another token than a good one."""
    return {"SaslOauthbearerTokenEndpointUrl": f"{cluster.token_url}/{kind}"}


def nobody(cluster: Secured) -> dict[str, str]:
    """A token server that is not there."""
    return {"SaslOauthbearerTokenEndpointUrl": f"https://127.0.0.1:{free_port()}/good"}


WRONG: dict[str, tuple[str, Callable[[Secured], dict[str, str]], type[OperatingError], str]] = {
    "password": (
        "plain",
        lambda _: {"SaslPassword": f"{PASSWORD}-2"},
        AccessError,
        "let alice in by PLAIN",
    ),
    "scram password": (
        "scram-512",
        lambda _: {"SaslPassword": f"{PASSWORD}-2"},
        AccessError,
        "by SCRAM-SHA-512",
    ),
    "user": (
        "scram-256",
        lambda _: {"SaslUsername": "mallory"},
        AccessError,
        "let mallory in by SCRAM-SHA-256",
    ),
    "mechanism": (
        "plain",
        lambda c: at(c, "OAUTH"),
        ConfigError,
        "does not take SaslMechanism PLAIN",
    ),
    "authority": (
        "tls",
        lambda c: {"SslCaLocation": str(c.folder / "foreign.pem")},
        AccessError,
        "SslCaLocation must",
    ),
    "expired": (
        "tls",
        lambda c: at(c, "EXPIRED"),
        AccessError,
        "certificate has expired; it must be renewed",
    ),
    "host name": (
        "tls",
        lambda c: at(c, "ELSEWHERE"),
        AccessError,
        "not valid for '127.0.0.1'; Kafka.Boot",
    ),
    "no certificate": (
        "tls",
        lambda c: at(c, "MTLS"),
        AccessError,
        "set Kafka.SslCertificateLocation",
    ),
    "foreign certificate": (
        "mtls",
        lambda c: client(c, "foreign-client"),
        AccessError,
        "not accept our certificate",
    ),
    "expired certificate": (
        "mtls",
        lambda c: client(c, "expired-client"),
        AccessError,
        "not accept our certificate",
    ),
    "key password": (
        "mtls",
        lambda _: {"SslKeyPassword": f"{PASSWORD}-2"},
        ConfigError,
        "cannot be read from",
    ),
    "no key password": (
        "mtls",
        lambda _: {"SslKeyPassword": ""},
        ConfigError,
        "cannot be read from",
    ),
    "no authority": (
        "tls",
        lambda _: {"SslCaLocation": "/nowhere.pem"},
        ConfigError,
        "SslCaLocation /nowhere",
    ),
    "client": (
        "oauth",
        lambda _: {"SaslOauthbearerClientId": "other"},
        AccessError,
        "HTTP 401, invalid_client",
    ),
    "token": (
        "oauth",
        lambda c: token(c, "over"),
        AccessError,
        "does not accept the token of client famulus",
    ),
    "redirect": ("oauth", lambda c: token(c, "redirect"), AccessError, "it says HTTP 307"),
    "large answer": ("oauth", lambda c: token(c, "large"), AccessError, "answers with more than"),
    "no token server": ("oauth", nobody, UnavailableError, "should (ClientConnectorError)"),
    "token server in trouble": (
        "oauth",
        lambda c: token(c, "trouble"),
        UnavailableError,
        "(HTTP 503)",
    ),
    "token server": (
        "oauth",
        lambda c: {"HttpsCaLocation": f"{c.folder}/foreign.pem"},
        AccessError,
        "HttpsCaLocation",
    ),
}


PROCESSES = ["password", "scram password", "expired", "foreign certificate", "host name", "token"]


@pytest.mark.parametrize("fault", WRONG)
async def test_a_wrong_way_is_one_line_at_once(cluster: Secured, fault: str) -> None:
    """Whoever asks for anything is told the cause and the cure, without the secret, and nothing is tried for long."""
    name, change, error, says = WRONG[fault]
    settings = KafkaConfig.model_validate({**cluster.ways()[name], **change(cluster)})
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(error) as asked:
            await partitions_of(settings, ["things"], 5 * LIMIT_S)
        with pytest.raises(error) as sent:
            async with Producer(settings):
                pass
    for line in (asked.value.message, sent.value.message):
        assert says in line
        assert CANARY not in line
        assert "\n" not in line


@pytest.mark.parametrize("command", [["worker"], ["topics", "apply"]])
@pytest.mark.parametrize(
    "fault", ["password", "scram password", "expired", "foreign certificate", "host name", "token"]
)
def test_a_process_that_is_not_let_in_ends_with_77(
    cluster: Secured, fault: str, command: list[str]
) -> None:
    """Within the limit of every start (`faust` checks it), and nothing that it prints has the secret in it."""
    name, change, _, says = WRONG[fault]
    settings = environment({**cluster.ways()[name], **change(cluster)})
    code, output = faust(*command, **settings, WORKER__WEBPORT=str(free_port()))
    assert code == 77, output
    assert says in one_line(output)
    assert CANARY not in output


def test_a_password_in_plain_text_is_78(cluster: Secured) -> None:
    """Nobody is asked: it would be on the wire by then."""
    settings = environment(
        {**cluster.ways()["plain"], "SecurityProtocol": "SASL_PLAINTEXT", "SslCaLocation": ""}
    )
    code, output = faust("topics", "apply", **settings)
    assert code == 78, output
    assert "set SecurityProtocol to SASL_SSL" in one_line(output)
    assert CANARY not in output


async def test_scram_needs_no_encryption(cluster: Secured) -> None:
    """It sends no password: whoever reads the link reads the events alone.

    Faust's clients do the same.
    """
    change = {"SecurityProtocol": "SaslPlaintext", "SslCaLocation": "", **at(cluster, "CLEAR")}
    settings = KafkaConfig.model_validate({**cluster.ways()["scram-256"], **change})
    assert await partitions_of(settings, ["things"], LIMIT_S) == {}
    assert getattr(credentials_of(settings), "protocol", None) is AuthProtocol.SASL_PLAINTEXT


async def test_a_token_is_kept_for_most_of_its_life(cluster: Secured) -> None:
    """No request for each connection, and a new token before the old one is over."""
    now = 0.0
    settings = KafkaConfig.model_validate(cluster.ways()["oauth"])
    trust = authority_of(settings.https_ca_location, "Kafka.HttpsCaLocation")
    source = TokenSource(settings, trust, lambda: now)
    first = await source.token()
    now = 239.0  # of 300 seconds
    assert await source.token() == first
    now = 241.0
    assert await source.token() != first


@pytest.mark.parametrize("name", ["plain", "scram-256", "oauth"])
async def test_debug_logs_show_no_login(
    cluster: Secured, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Aiokafka's would show every request, and the request of a login is the password."""
    settings = KafkaConfig.model_validate(cluster.ways()[name])
    with caplog.at_level(logging.DEBUG):
        async with Producer(settings) as producer:
            await producer.stop()
    assert "SaslAuthenticateRequest" in caplog.text
    assert "auth=Bearer" not in caplog.text
    assert not [secret for secret in SECRETS if secret in caplog.text]
