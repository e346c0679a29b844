"""What is wrong when a record is not sent: each case on a real broker, one line with its cure, within seconds."""

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest

from famulus.config import KafkaConfig, ProducerConfig
from famulus.dev.broker import Broker
from famulus.errors import ConfigError, PermanentError, TransientError, UnsentError
from famulus.kafka.admin import create_topics
from famulus.producer import batched_send as sending
from famulus.producer import connection
from famulus.producer.fallback_delivery import deliver
from famulus.producer.producer import Producer
from famulus.producer.results import (
    NotAcknowledgedError,
    NotAuthorizedError,
    RecordTooLargeError,
    UnknownTopicError,
)
from famulus.serialization.records import ProducerRecord
from tests.support.on_kafka.house import MODEL, House
from tests.support.on_kafka.systems import set_record_bytes_max

# One process, so that its module's fixtures are made once.
pytestmark = pytest.mark.xdist_group("publish-errors")

HEEDED_S = 30.0  # a change of a topic's settings, by its broker
TINY_BYTES = 5_000
TOPIC, ANY_HOST, LITERAL, WRITE, DENY = 2, "*", 3, 4, 2  # Kafka's numbers


@pytest.fixture
def tiny(kafka: KafkaConfig) -> str:
    """A topic that takes very little."""
    asyncio.run(
        create_topics(kafka, {kafka.topic("tiny"): 2}, 30.0, {"max.message.bytes": str(TINY_BYTES)})
    )
    return kafka.topic("tiny")


def with_producer(kafka: KafkaConfig, **settings: object) -> KafkaConfig:
    """The settings with others of the producer."""
    return kafka.model_copy(update={"producer_config": ProducerConfig.model_validate(settings)})


async def test_a_topic_that_takes_little_is_told_before_and_gets_small_batches(
    kafka: KafkaConfig, tiny: str
) -> None:
    """Size and limit of what is too large, of which nothing is sent; many small records fit all the same."""
    async with Producer(with_producer(kafka, compression_type="none")) as producer:
        with pytest.raises(
            RecordTooLargeError, match=rf"too large: \d+ bytes, the topic's max.*{TINY_BYTES}"
        ) as caught:
            await producer.produce_many("tiny", [(b"a", b"x"), (b"a", bytes(TINY_BYTES))])
        assert isinstance(caught.value, PermanentError)
        assert caught.value.published == [None, None]
        places = await producer.produce_many(
            "tiny", ((b"a", b"%d" % number * 100) for number in range(500))
        )
        assert [place.offset for place in places] == list(range(500))


async def test_compression_counts(kafka: KafkaConfig, tiny: str) -> None:
    """A topic's limit is that of compressed batches."""
    async with Producer(with_producer(kafka, compression_type="zstd")) as producer:
        assert (await producer.produce("tiny", "k", bytes(10 * TINY_BYTES))).offset == 0


async def test_a_limit_that_was_raised_is_found(kafka: KafkaConfig, tiny: str) -> None:
    """Before a record is refused the topic is asked again."""
    async with Producer(with_producer(kafka, compression_type="none")) as producer:
        with pytest.raises(RecordTooLargeError):
            await producer.produce("tiny", "k", bytes(2 * TINY_BYTES))
        await asyncio.to_thread(set_record_bytes_max, kafka, "tiny", 10 * TINY_BYTES)
        last = (await producer.produce("tiny", "k", bytes(2 * TINY_BYTES))).offset
        assert last == 0
        await asyncio.to_thread(set_record_bytes_max, kafka, "tiny", TINY_BYTES)
        with pytest.raises(RecordTooLargeError, match="too large for the topic"):
            async with asyncio.timeout(HEEDED_S):
                while True:  # the broker answers before its logs know of the change
                    last = (await producer.produce("tiny", "k", bytes(2 * TINY_BYTES))).offset
        assert (await producer.produce("tiny", "k", b"x")).offset == last + 1


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Believe it at once that something is missing."""
    monkeypatch.setattr(connection, "MISSING_S", 0.3)
    monkeypatch.setattr(sending, "MISSING_S", 0.3)


async def test_a_missing_topic_is_told_in_seconds(
    kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for the delivery timeout; the engine is told as well."""
    async with Producer(kafka) as producer:
        began_s = time.monotonic()
        with pytest.raises(
            UnknownTopicError, match=r"there is no topic test-.*\.nothing: create it"
        ):
            await producer.produce("nothing", "k", b"x")
        assert time.monotonic() - began_s < 6
        monkeypatch.setattr(connection, "MISSING_S", 0.3)
        with pytest.raises(UnsentError, match=r"there is no topic test-.*\.nothing; create it"):
            await deliver(producer, [ProducerRecord(kafka.topic("nothing"), b"k", b"x")])


@pytest.mark.usefixtures("_quick")
async def test_a_partition_that_is_not_there_is_told(kafka: KafkaConfig, tiny: str) -> None:
    """With how many there are."""
    async with Producer(kafka) as producer:
        with pytest.raises(UnknownTopicError, match="no such partition: there are 2"):
            await producer.produce("tiny", "k", b"x", partition=2)
        assert (await producer.produce("tiny", "k", b"x", partition=1)).offset == 0


@pytest.mark.usefixtures("_quick")
async def test_a_topic_that_goes_away_is_told_in_seconds(kafka: KafkaConfig, tiny: str) -> None:
    """A producer that has written to it finds out."""
    async with Producer(kafka) as producer:
        await producer.produce("tiny", "k", b"x")
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
        await admin.start()
        await admin.delete_topics([tiny])
        await admin.close()
        began_s = time.monotonic()
        with pytest.raises(UnknownTopicError, match="there is no topic"):
            await producer.produce("tiny", "k", b"x")
        assert time.monotonic() - began_s < 8


class Unlucky:
    """A partitioner of a team's own that is wrong."""

    def get_partition(self, key: bytes, partition_count: int) -> int:
        """One too many."""
        return partition_count


async def test_a_partitioner_that_is_wrong_loses_nothing(
    kafka: KafkaConfig, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script is told; the engine tries again until it is mended."""
    monkeypatch.setitem(sys.modules, "house", SimpleNamespace(Unlucky=Unlucky))
    async with Producer(with_producer(kafka, partitioner="house.Unlucky")) as producer:
        with pytest.raises(ConfigError, match=r"house\.Unlucky gave 2 for a key and 2 partitions"):
            await producer.produce("tiny", "k", b"x")
        with pytest.raises(UnsentError, match=r"house\.Unlucky gave 2"):
            await deliver(producer, [ProducerRecord(tiny, b"k", b"x")])


@pytest.fixture(scope="module")
def own_broker() -> Iterator[Broker]:
    """A broker that a test may stop, and that knows ACLs; who has none may do all."""
    config = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with Broker(config=config) as broker:
        yield broker


async def test_a_topic_that_we_must_not_write_to_is_told(own_broker: Broker) -> None:
    """At once, with the cure and EX_NOPERM."""
    kafka = KafkaConfig(bootstrap_servers=own_broker.bootstrap_servers)
    await create_topics(kafka, {"forbidden": 1, "allowed": 1}, 30.0)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    request = CreateAclsRequest(
        TOPIC, "forbidden", LITERAL, "User:ANONYMOUS", ANY_HOST, WRITE, DENY
    )
    await admin._client.send(admin._client.get_random_node(), request)
    await admin.close()
    async with Producer(kafka) as producer:
        with pytest.raises(
            NotAuthorizedError, match="does not let us write to topic forbidden: ask for an ACL"
        ) as caught:
            await producer.produce("forbidden", "k", b"x")
        assert caught.value.exit_code == 77
        assert (await producer.produce("allowed", "k", b"x")).offset == 0


async def test_a_broker_that_is_away_is_told_and_leaves_in_time(own_broker: Broker) -> None:
    """Whether a record may have been sent; the producer's end does not wait for the broker."""
    kafka = with_producer(
        KafkaConfig(bootstrap_servers=own_broker.bootstrap_servers), delivery_timeout_ms=1_500
    )
    await create_topics(kafka, {"away": 1, "unseen": 1}, 30.0)
    async with Producer(kafka) as producer:
        await producer.produce("away", "k", b"x")
        own_broker.nodes[0].pause()
        with pytest.raises(
            NotAcknowledgedError, match=r"1500 ms .* it may have been sent, or still be"
        ) as caught:
            await producer.produce("away", "k", b"x")
        assert caught.value.may_be_sent
        assert isinstance(caught.value, TransientError)
        with pytest.raises(NotAcknowledgedError, match="nothing of it was sent") as caught:
            await producer.produce("unseen", "k", b"x")
        assert not caught.value.may_be_sent
        own_broker.nodes[0].kill()
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 7


async def test_what_could_not_leave_while_the_broker_was_gone_leaves_when_it_is_back(
    own_broker: Broker,
) -> None:
    """The engine is told to try again, although not even a new producer can be had; the same one goes on afterwards."""
    if own_broker.nodes[0].has_ended():
        own_broker.restart(own_broker.nodes[0])
    kafka = with_producer(
        KafkaConfig(bootstrap_servers=own_broker.bootstrap_servers), delivery_timeout_ms=1_500
    )
    await create_topics(kafka, {"gone": 1}, 30.0)
    async with Producer(kafka) as producer:
        await deliver(producer, [ProducerRecord("gone", b"k", b"0")])
        own_broker.nodes[0].kill()
        for _ in range(2):
            with pytest.raises(UnsentError, match="does not take records for gone"):
                await deliver(producer, [ProducerRecord("gone", b"k", b"1")])
        own_broker.restart(own_broker.nodes[0])
        async with asyncio.timeout(30):
            while True:
                with suppress(UnsentError):
                    await deliver(producer, [ProducerRecord("gone", b"k", b"2")])
                    break
        assert (await producer.produce("gone", "k", b"3")).offset >= 2


LARGE = """


class Copy(Event, namespace="tiny.Copy", topic="tiny", key="key"):
    key: str
    text: str
"""
COPYING = """
@handles(Thing)
async def copy(thing: Thing, bus: front.EventBus) -> None:
    await bus.publish(Copy(key=thing.key, text=random.randbytes(thing.number).hex()))
"""


def test_an_event_that_could_never_leave_is_a_dead_letter_at_once(house: House, tiny: str) -> None:
    """Too large for MaxRequestSize, or for its topic: its cause is set aside with the size, and nobody waits for it."""
    house.build("import random\n\n" + COPYING, models=MODEL + LARGE)
    worker = house.start()
    house.send(*(house.thing("k", number) for number in (600_000, 10, 4 * TINY_BYTES, 20)))
    house.wait_settled(4, worker)
    outcomes = house.outcomes(worker)
    assert (outcomes["handled"], outcomes["dead_lettered"], outcomes["retried"]) == (2, 2, 0)
    letters = house.logged(topic=f"{house.topic}.dead-letter")
    reasons = [dict(letter.headers)["__streams.errors.message"].decode() for letter in letters]
    assert "Kafka.ProducerConfig.MaxRequestSize is 1048576" in reasons[0]
    assert f"the topic's max.message.bytes is {TINY_BYTES}" in reasons[1]
    assert worker.exit_code() is None
