"""Tests of requests and replies without a broker: to which topics and partitions a reply may go."""

import re
from types import SimpleNamespace
from uuid import uuid4

import pytest
from aiokafka.structs import ConsumerRecord

from famulus import Event, Part
from famulus.config import KafkaConfig, RepliesConfig
from famulus.errors import DecodeError
from famulus.producer.event_bus import EventBus
from famulus.producer.producer import Producer
from famulus.producer.reply_headers import (
    ReplyRefusedError,
    ReplyTo,
    RequestError,
    TooManyRequestsError,
    check_id,
    id_for,
    partition_of,
    replies_topic,
    reply_to,
)
from famulus.producer.request_reply import ReplyRouter, reply_in
from famulus.serialization.records import Headers

ANY = "*.replies"


class Question(Event, namespace="test.Question", topic="questions", key="key"):
    """A request."""

    key: str


class Answer(Part, namespace="test.Answer"):
    """A reply, which needs no topic."""

    number: int


def asking(topic: str, partition: str = "0") -> Headers:
    """Return the headers of a request."""
    return [("ce_replytopic", topic.encode()), ("ce_replypartition", partition.encode())]


def test_what_a_request_says_is_what_the_responder_reads() -> None:
    """An event without these headers asks for no reply."""
    place = ReplyTo(replies_topic("web"), 3)
    assert reply_to(place.headers(), ANY) == place == ReplyTo("web.replies", 3)
    assert reply_to([("ce_id", b"1")], ANY) is None


@pytest.mark.parametrize(
    ("topic", "partition", "allowed", "says"),
    [
        ("orders", "0", "*", "replies go to topics named *.replies"),
        ("orders.replies.dead-letter", "0", "*", "replies go to topics named *.replies"),
        ("", "0", "*", "replies go to topics named *.replies"),
        ("../x.replies", "0", "*", "replies go to topics named *.replies"),
        ("x" * 250 + ".replies", "0", "*", "replies go to topics named *.replies"),
        ("pay.replies", "0", "web*.replies, app.replies", "Kafka.Replies.AllowedTopics is"),
        ("WEB.replies", "0", "web.replies", "Kafka.Replies.AllowedTopics is"),
        ("web.replies", "-1", ANY, "no number"),
        ("web.replies", "", ANY, "no number"),
        ("web.replies", "123456", ANY, "no number"),
    ],
)
def test_a_sender_does_not_choose_any_topic(
    topic: str, partition: str, allowed: str, says: str
) -> None:
    """A pattern never allows other topics than those of replies."""
    with pytest.raises(ReplyRefusedError, match=re.escape(says)):
        reply_to(asking(topic, partition), allowed)
    assert reply_to(asking("web.replies", "1"), "app.replies, web*.replies") == ReplyTo(
        "web.replies", 1
    )


def test_an_id_has_one_partition_for_everybody() -> None:
    """The hash is Java's, so the partitions stay the same over releases.

    A process makes ids that fall into its own partition.
    """
    assert [partition_of(request_id, 16) for request_id in ("a", "b", "order-4711")] == [12, 4, 11]
    assert {partition_of(id_for(3, 16, lambda: str(uuid4())), 16) for _ in range(50)} == {3}


@pytest.mark.parametrize("request_id", ["", "a\nb", "x" * 201])
def test_what_cannot_be_an_id_is_said(request_id: str) -> None:
    """The id is checked before anything is sent."""
    with pytest.raises(RequestError, match="printable text"):
        check_id(request_id)


def test_a_reply_of_another_type_is_no_reply() -> None:
    """The error names the types and shows no value."""

    def record(kind: str, value: bytes) -> ConsumerRecord:
        return ConsumerRecord(
            "t", 0, 0, 0, 0, b"", value, None, 0, len(value), [("ce_type", kind.encode())]
        )

    assert reply_in(record("test.Answer", b'{"number":7}'), Answer) == Answer(number=7)
    with pytest.raises(DecodeError, match=r"the reply is a test\.Other, not a test\.Answer"):
        reply_in(record("test.Other", b'{"number":7}'), Answer)
    with pytest.raises(DecodeError, match="number"):
        reply_in(record("test.Answer", b'{"number":"secret"}'), Answer)


async def test_each_has_its_place() -> None:
    """A request inside a handler would block its key; a reply outside of one has no request."""
    producer = Producer(KafkaConfig())
    with pytest.raises(TypeError, match="not for handlers"):
        await EventBus(producer, SimpleNamespace).request(
            Question(key="a"), timeout_s=1, reply_type=Answer
        )
    with pytest.raises(TypeError, match="no request in hand"):
        await EventBus(producer).reply(Answer(number=1))


async def test_open_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request beyond the limit fails at once; the end of a request frees its slot."""

    async def started(_: ReplyRouter) -> None:
        return

    monkeypatch.setattr(ReplyRouter, "_start", started)
    requester = ReplyRouter(KafkaConfig(replies=RepliesConfig(open_max=1)))
    async with requester.slot():
        with pytest.raises(
            TooManyRequestsError, match=r"1 requests wait for replies \(Kafka\.Replies\.OpenMax\)"
        ):
            async with requester.slot():
                pass
    async with requester.slot():
        pass
