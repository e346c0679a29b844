"""End offsets of leader epochs, which show that a log was truncated and written again.

Every leader of a partition writes its epoch into the batches that it appends, and each has a higher
one (KIP-101, KIP-320). An epoch that ends before a position that was read shows that the log was
truncated. aiokafka neither shows the epoch of a batch nor asks where one ends, so this module
defines the request.
"""

from collections import defaultdict
from collections.abc import Mapping
from struct import Struct
from typing import Any

from aiokafka import TopicPartition
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int16, Int32, Int64, Schema, String

UNKNOWN = -1
CONSUMER = -1  # replica id of a client that is no replica
_head = Struct(">qiib")  # head of a batch: base offset, length, leader epoch, magic
_LENGTH_FROM = 12  # a batch's length does not count these first bytes
_MAGIC = 2  # older batches have no epoch


class _Answer(Response):  # type: ignore[misc]
    API_KEY, API_VERSION = 23, 3
    SCHEMA = Schema(
        ("throttle_ms", Int32),
        (
            "topics",
            Array(
                ("topic", String()),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader_epoch", Int32),
                        ("end_offset", Int64),
                    ),
                ),
            ),
        ),
    )


class _Request(RequestStruct):  # type: ignore[misc]
    API_KEY, API_VERSION, RESPONSE_TYPE = 23, 3, _Answer
    SCHEMA = Schema(
        ("replica_id", Int32),
        (
            "topics",
            Array(
                ("topic", String()),
                (
                    "partitions",
                    Array(
                        ("partition", Int32),
                        ("current_leader_epoch", Int32),
                        ("leader_epoch", Int32),
                    ),
                ),
            ),
        ),
    )


class _EpochEnds(Request[_Request]):  # type: ignore[misc]
    API_KEY = 23

    def __init__(self, epochs: Mapping[TopicPartition, int]) -> None:
        self._topics: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
        for at, epoch in epochs.items():
            self._topics[at.topic].append((at.partition, UNKNOWN, epoch))

    def build(self, request_struct_class: Any) -> Any:
        """Build the request for the version that client and broker have agreed on."""
        return request_struct_class(CONSUMER, list(self._topics.items()))


async def epoch_ends(
    client: Any, leader: int, epochs: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """Ask *leader*, a node id, for the end offsets of *epochs*.

    An end offset is one past the last record of that epoch or of an earlier one. Partitions whose
    epoch the leader does not know are left out. An old broker knows none. Raises what aiokafka
    raises.
    """
    try:
        answer = await client.send(leader, _EpochEnds(epochs))
    except NotImplementedError:  # the broker is too old for this version of the request
        return {}
    return {
        TopicPartition(topic, partition): end
        for topic, partitions in answer.topics
        for code, partition, _, end in partitions
        if not code and end >= 0
    }


def last_epoch(data: bytes) -> int:
    """Return the leader epoch of the last batch in *data* of a fetch, `UNKNOWN` without any."""
    at, found = 0, UNKNOWN
    while at + _head.size <= len(data):
        _, length, epoch, magic = _head.unpack_from(data, at)
        if magic != _MAGIC or length <= 0:
            break
        found = epoch
        at += _LENGTH_FROM + length
    return found
