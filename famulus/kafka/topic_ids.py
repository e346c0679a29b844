"""Ids of topics and cluster: a topic differs from an earlier one of its name by its id.

A topic has an id since Kafka 2.8 (KIP-516), and a cluster had one long before. aiokafka does not
ask for topic ids, so this module has the request.
"""

import asyncio
import random
from base64 import urlsafe_b64encode
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

ID_BYTES = 16
NONE = bytes(ID_BYTES)  # the answer of a broker that has no topic ids yet
FIRST_VERSION = 10  # of the metadata request that returns topic ids
AGAIN_S = 0.2


class Uuid(AbstractType[bytes]):  # type: ignore[misc]  # aiokafka is untyped
    """Protocol type of a topic id, 16 raw bytes."""

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        """Return the bytes unchanged."""
        return value

    @classmethod
    def decode(cls, data: Any) -> bytes:
        """Read the bytes of an id."""
        return bytes(data.read(ID_BYTES))


_BROKER = ("node_id", Int32), ("host", CompactString()), ("port", Int32), ("rack", CompactString())
_PARTITION = (
    ("error_code", Int16),
    ("partition", Int32),
    ("leader", Int32),
    ("leader_epoch", Int32),
    ("replicas", CompactArray(Int32)),
    ("isr", CompactArray(Int32)),
    ("offline", CompactArray(Int32)),
)
_TAGS = ("tags", TaggedFields)
_TOPIC = (
    ("error_code", Int16),
    ("topic", CompactString()),
    ("topic_id", Uuid),
    ("is_internal", Boolean),
    ("partitions", CompactArray(*_PARTITION, _TAGS)),
    ("operations", Int32),
)
_ANSWER = (
    ("throttle_ms", Int32),
    ("brokers", CompactArray(*_BROKER, _TAGS)),
    ("cluster_id", CompactString()),
    ("controller_id", Int32),
    ("topics", CompactArray(*_TOPIC, _TAGS)),
)
_ASKED = "topics", CompactArray(("topic_id", Uuid), ("topic", CompactString()), _TAGS)


class _Answer10(Response):  # type: ignore[misc]
    API_KEY, API_VERSION = 3, 10
    SCHEMA = Schema(*_ANSWER, ("operations", Int32), _TAGS)


class _Answer12(Response):  # type: ignore[misc]
    API_KEY, API_VERSION = 3, 12
    SCHEMA = Schema(*_ANSWER, _TAGS)


class _Request10(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION, RESPONSE_TYPE = 3, 10, _Answer10
    SCHEMA = Schema(
        _ASKED, ("makes", Boolean), ("cluster_operations", Boolean), ("operations", Boolean), _TAGS
    )


class _Request12(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION, RESPONSE_TYPE = 3, 12, _Answer12
    SCHEMA = Schema(_ASKED, ("makes", Boolean), ("operations", Boolean), _TAGS)


class _TopicsRequest(Request[_Request10 | _Request12]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topics: Collection[str]) -> None:
        self._topics: list[tuple[bytes, str, dict[int, bytes]]] = [
            (NONE, topic, {}) for topic in topics
        ]

    def build(self, request_struct_class: Any) -> Any:
        """Build the request for the version that client and broker have agreed on."""
        flags = (False,) * (len(request_struct_class.SCHEMA) - 2)
        return request_struct_class(self._topics, *flags, {})


class Topic(NamedTuple):
    """A topic; *id* is in the form of Kafka's tools, "" if the broker has none."""

    id: str
    partitions: int
    # By partition: the node id of the leader, and its epoch; only where the epoch is known.
    leaders: Mapping[int, tuple[int, int]] = {}


class Topics(NamedTuple):
    """The existing topics of the cluster *cluster_id* ("" if unknown)."""

    cluster_id: str
    of: dict[str, Topic]


async def topics_of(client: Any, names: Collection[str], timeout_s: float) -> Topics:
    """Return those of *names* that exist; the query creates none.

    A failed query is repeated, to a random broker. Raises TopicAuthorizationFailedError, and
    TimeoutError when no broker answers within *timeout_s* seconds.
    """
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                return await _asked(client, sorted(set(names)))
            except TopicAuthorizationFailedError:
                raise
            except KafkaError:
                await client.force_metadata_update()
                await asyncio.sleep(AGAIN_S)


async def _asked(client: Any, names: Collection[str]) -> Topics:
    node = client.get_random_node()
    if node is None:
        node = random.choice(list(client.cluster.brokers())).nodeId  # no secret
    try:
        answer = (await client.send(node, _TopicsRequest(names))).to_object()
    except NotImplementedError:  # the broker is too old for these versions
        answer = (
            await client.send(node, MetadataRequest(names, allow_auto_topic_creation=False))
        ).to_object()
    found: dict[str, Topic] = {}
    for topic in answer["topics"]:
        if topic["error_code"] == TopicAuthorizationFailedError.errno:
            raise TopicAuthorizationFailedError(topic["topic"])
        if not topic["error_code"]:
            partitions = topic["partitions"]
            leaders = {
                of["partition"]: (of["leader"], of["leader_epoch"])
                for of in partitions
                if "leader_epoch" in of
            }
            found[topic["topic"]] = Topic(
                _text(topic.get("topic_id", NONE)), len(partitions), leaders
            )
    return Topics(answer.get("cluster_id") or "", found)


def _text(topic_id: bytes) -> str:
    return "" if topic_id == NONE else urlsafe_b64encode(topic_id).rstrip(b"=").decode()
