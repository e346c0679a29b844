"""Queries about a consumer group: few requests, however many partitions there are.

This module sends one request to each broker, where aiokafka's consumer asks topic by topic.
aiokafka's admin client reports a group that it may not see as one without commits.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.record.memory_records import MemoryRecords

from famulus.errors import AccessError

T = TypeVar("T")
RETRY_S = 0.1
TIMES_S = 1.0  # limit of a query for timestamps; then positions without an answer are left out
# Fetch size of a partition: a usual batch. A broker sends a larger batch whole if it comes first.
PEEK_BYTES = 64 * 2**10
ANSWER_BYTES = 32 * 2**20
SPECS = {"earliest": -2, "latest": -1, "stable": -1}


@dataclass(frozen=True, slots=True)
class Members:
    """Members of a group: their number, their topics, and the owners of partitions.

    *owners* are named client@host. *are_there* is True if the group has members, also when a group
    of Kafka's new protocol hides them. *each* has every member with its partitions, as a list: two
    members on one machine have the same name.
    """

    count: int
    topics: set[str]
    owners: dict[TopicPartition, str]
    are_there: bool
    each: list[tuple[str, list[TopicPartition]]]


class GroupAdmin:
    """Queries about *group* through *admin*.

    A missing right raises AccessError, except in `leaders` and `times_ms`: they leave topics out.
    """

    def __init__(self, admin: AIOKafkaAdminClient, group: str) -> None:
        self._admin = admin
        self._group = group
        self._leaders: dict[TopicPartition, int] = {}

    async def members(self) -> Members:
        """Return the members of the group."""
        [answer] = await self._patiently(self._described)
        _, _, state, kind, _, found, *_ = answer
        topics: set[str] = set()
        owners: dict[TopicPartition, str] = {}
        each: list[tuple[str, list[TopicPartition]]] = []
        for _, client, host, metadata, assignment in found:
            # Groups of other kinds, such as Kafka Connect's, have metadata of another format.
            is_ours = kind == "consumer"
            if metadata and is_ours:
                topics.update(ConsumerProtocolMemberMetadata.decode(metadata).subscription)
            name = f"{client}@{host.lstrip('/')}"
            has_places = assignment and is_ours
            places = (
                ConsumerProtocolMemberAssignment.decode(assignment).partitions()
                if has_places
                else []
            )
            owners |= dict.fromkeys(places, name)
            each.append((name, list(places)))
        topics |= {at.topic for at in owners}
        is_hidden = state == "Dead" and self._group in await self.groups()
        return Members(len(found), topics, owners, are_there=bool(found) or is_hidden, each=each)

    async def committed(self) -> dict[TopicPartition, int]:
        """Return the committed offset of every partition for which the group has one."""
        return await self._patiently(self._committed)

    async def groups(self) -> set[str]:
        """Return the names of all groups."""
        return {name for name, *_ in await self._patiently(self._admin.list_consumer_groups)}

    async def leaders(self) -> dict[TopicPartition, int]:
        """Return the leader (node id) of every partition of the cluster, -1 without one."""
        self._leaders = {
            TopicPartition(topic["topic"], partition["partition"]): partition["leader"]
            # All topics: a request for one by name may create it.
            for topic in await self._admin.describe_topics()
            if not topic["error_code"]
            for partition in topic["partitions"]
        }
        return self._leaders

    async def offsets(
        self, places: Iterable[TopicPartition], which: Literal["earliest", "latest", "stable"]
    ) -> dict[TopicPartition, int]:
        """Return the earliest, latest or last stable offset of each of *places*.

        The last stable offset is the begin of the first open transaction, without any it is the
        latest offset. Needs `leaders` first. Partitions whose leader does not answer are left out.
        """
        found: dict[TopicPartition, int] = {}
        for leader, mine in self._by_leader(places).items():
            topics = [
                (topic, [(number, SPECS[which]) for number in numbers])
                for topic, numbers in by_topic(mine)
            ]
            answer = await self._send(leader, OffsetRequest(-1, int(which == "stable"), topics))
            for topic, partitions in answer.topics:
                for number, code, _, offset, *_ in partitions:
                    _check(code)
                    if not code:
                        found[TopicPartition(topic, number)] = offset
        return found

    async def times_ms(self, positions: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Return the time (ms since 1970) of the first record from each position on.

        Needs `leaders` first. Positions without a record, as behind a transaction marker, and those
        without an answer within a second are left out.
        """
        found: dict[TopicPartition, int] = {}
        until = time.monotonic() + TIMES_S
        asked = self._by_leader(positions)
        await asyncio.gather(
            *(
                self._times_of(leader, {at: positions[at] for at in places}, until, found)
                for leader, places in asked.items()
            )
        )
        return found

    async def _times_of(
        self,
        leader: int,
        left: dict[TopicPartition, int],
        until: float,
        found: dict[TopicPartition, int],
    ) -> None:
        """Fetch the first batch of all positions, then of those whose batch did not fit."""
        while left and time.monotonic() < until:
            topics = [
                (
                    topic,
                    [
                        (number, left[TopicPartition(topic, number)], PEEK_BYTES)
                        for number in numbers
                    ],
                )
                for topic, numbers in by_topic(left)
            ]
            answer = await self._send(leader, FetchRequest(0, 0, ANSWER_BYTES, 0, topics))
            has_come = False
            for topic, partitions in answer.topics:
                for number, code, _, *_, data in partitions:
                    at = TopicPartition(topic, number)
                    position, time_ms = first_time(data, left[at]) if not code else (left[at], None)
                    has_come |= position > left[at] or time_ms is not None
                    if time_ms is not None:
                        found[at] = time_ms
                        del left[at]
                    else:
                        left[at] = position
            if not has_come:
                return

    async def _described(self) -> Any:
        groups = [
            group
            for answer in await self._admin.describe_consumer_groups([self._group])
            for group in answer.groups
        ]
        for code, *_ in groups:
            _raise(code)
        return groups

    async def _committed(self) -> dict[TopicPartition, int]:
        coordinator = await self._admin.find_coordinator(self._group)
        answer = await self._send(coordinator, OffsetFetchRequest(self._group, None))
        _raise(answer.error_code)
        return {
            TopicPartition(topic, number): offset
            for topic, partitions in answer.topics
            for number, offset, *_ in partitions
            if offset >= 0
        }

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the answer of *ask*; repeat it after a retriable error.

        A coordinator that is starting is such an error. The caller's time limit ends this.
        """
        while True:
            try:
                return await ask()
            except (GroupAuthorizationFailedError, ClusterAuthorizationFailedError) as error:
                raise AccessError(
                    f"the cluster does not let us ask about group {self._group}: allow to "
                    "describe it"
                ) from error
            except KafkaError as error:
                if not error.retriable:
                    raise
                await asyncio.sleep(RETRY_S)

    async def _send(self, node: int, request: Any) -> Any:
        return await self._admin._client.send(node, request)

    def _by_leader(self, places: Iterable[TopicPartition]) -> dict[int, list[TopicPartition]]:
        found: defaultdict[int, list[TopicPartition]] = defaultdict(list)
        for at in places:
            if (leader := self._leaders[at]) >= 0:
                found[leader].append(at)
        return found


def by_topic(places: Iterable[TopicPartition]) -> list[tuple[str, list[int]]]:
    """Group partition numbers by topic."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for at in places:
        found[at.topic].append(at.partition)
    return list(found.items())


def first_time(data: bytes | None, position: int) -> tuple[int, int | None]:
    """Return the time (ms) of the first record in *data* from *position* on, and its offset.

    Without a record: the offset to continue at, behind the gap of compaction or of a transaction
    marker, and None.
    """
    records = MemoryRecords(data or b"")
    while records.has_next():
        batch = records.next_batch()
        if not batch.is_control_batch:
            for record in batch:
                if record.offset >= position:
                    return record.offset, record.timestamp
        position = max(position, batch.next_offset)
    return position, None


def _raise(code: int) -> None:
    if code:
        raise for_code(code)


def _check(code: int) -> None:
    """Raise AccessError if the *code* of a partition is a missing right.

    Other errors of a single partition may be gone at the next query, so they are ignored.
    """
    if code == TopicAuthorizationFailedError.errno:
        raise AccessError(
            "the cluster does not let us read offsets of a topic of the group: allow to describe it"
        )
