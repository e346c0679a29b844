"""Kafka's frames, as far as somebody between a client and a broker must know them."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from aiokafka.record.util import calc_crc32c

Side = Literal["request", "answer"]
UNKNOWN = -1
# In a record batch; its checksum stands right before what it is of.
LENGTH_AT, MAGIC_AT, CHECKED_AT = 8, 16, 21
LENGTH = struct.Struct(">i")
CHECKSUM = struct.Struct(">I")
MAGIC = b"\2"


class Api(IntEnum):
    """The kinds of requests, by Kafka's numbers (https://kafka.apache.org/protocol.html#protocol_api_keys)."""

    PRODUCE = 0
    FETCH = 1
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14


COORDINATOR = frozenset(
    {
        Api.OFFSET_COMMIT,
        Api.OFFSET_FETCH,
        Api.FIND_COORDINATOR,
        Api.JOIN_GROUP,
        Api.HEARTBEAT,
        Api.LEAVE_GROUP,
        Api.SYNC_GROUP,
    }
)


@dataclass(frozen=True, slots=True)
class Frame:
    """A request or an answer, without the length in front of it.

    *api* is UNKNOWN when its request was not seen.
    """

    side: Side
    api: int
    data: bytes


class Conversation:
    """Tells the frames of one connection apart: an answer says only to which request it belongs."""

    def __init__(self) -> None:
        self._asked: dict[int, int] = {}

    def request(self, data: bytes) -> Frame:
        """The request that *data* is: the number of its kind, its version, and its own number come first."""
        api, _, number = struct.unpack_from(">hhi", data)
        self._asked[number] = api
        return Frame("request", api, data)

    def answer(self, data: bytes) -> Frame:
        """The answer that *data* is: the number of its request comes first."""
        [number] = struct.unpack_from(">i", data)
        return Frame("answer", self._asked.pop(number, UNKNOWN), data)


def checked(data: bytes) -> Iterator[range]:
    """The bytes of *data* that a checksum is of, for each record batch in it.

    What stands before the checksum, offset and length of the batch, no client could notice.
    """
    at = data.find(MAGIC) - MAGIC_AT
    while at > -MAGIC_AT - 1:
        end = at + LENGTH_AT + LENGTH.size
        if at >= 0 and at + CHECKED_AT < len(data):
            end += LENGTH.unpack_from(data, at + LENGTH_AT)[0]
            [checksum] = CHECKSUM.unpack_from(data, at + CHECKED_AT - CHECKSUM.size)
            if (
                at + CHECKED_AT < end <= len(data)
                and calc_crc32c(data[at + CHECKED_AT : end]) == checksum
            ):
                yield range(at + CHECKED_AT, end)
        at = data.find(MAGIC, at + MAGIC_AT + 1) - MAGIC_AT
