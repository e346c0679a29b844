"""Tests of commits that end although topics are deleted, with a client that refuses them."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    IllegalStateError,
    KafkaError,
    NotCoordinatorForGroupError,
    UnknownTopicOrPartitionError,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.types import TP

from famulus.consumer.commits import commit, commit_any
from famulus.consumer.fetcher import ConsumerThread
from tests.support.in_memory.clock import Clock
from tests.unit.consumer.test_faust_commits import PLACE, Ours

A, B = TopicPartition("a", 0), TopicPartition("b", 0)


class Client:
    """A substitute for aiokafka's consumer and all of its parts.

    *there* are the partitions that the cluster has.
    """

    def __init__(self, *there: TopicPartition) -> None:
        self.there, self.known = set(there), {A, B}
        self.tps, self.committed, self.asked, self.refusals = (
            {A, B},
            dict[TopicPartition, int](),
            0,
            list[KafkaError](),
        )
        self.subscription = self.assignment = self.cluster = self
        self._subscription: Any = self
        self._client = self._coordinator = self
        self._commit_lock = asyncio.Lock()

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """Return the partitions in the client's metadata, which may be outdated."""
        return {at.partition for at in self.known if at.topic == topic} or None

    async def force_metadata_update(self) -> None:
        """Update the metadata."""
        self.asked += 1
        self.known = set(self.there)

    async def ensure_coordinator_known(self) -> None:
        """Do nothing, because the coordinator is known."""

    async def _do_commit_offsets(
        self, _: object, offsets: Mapping[TopicPartition, OffsetAndMetadata]
    ) -> None:
        self.committed |= {at: of.offset for at, of in offsets.items() if at in self.there}
        if self.refusals:
            raise self.refusals.pop()
        if not offsets.keys() <= self.there:
            raise UnknownTopicOrPartitionError


async def test_a_deleted_topic_is_left_out_and_the_others_are_committed() -> None:
    """The client may not know of the deletion yet."""
    client = Client(B)
    assert await commit(client, {A: 5, B: 7}) == {A}
    assert client.committed == {B: 7}
    assert await commit(client, {A: 5, B: 8}) == {A}
    assert (client.committed, client.asked) == ({B: 8}, 1)


async def test_a_first_commit_for_other_members_leaves_it_out_too() -> None:
    """The assignment does not matter for such a commit."""
    client = Client(B)
    client.tps = set()
    assert await commit_any(client, {A: 0, B: 0}) == {A}
    assert client.committed == {B: 0}


async def test_a_coordinator_that_moved_is_asked_again() -> None:
    """Otherwise a stop would lose its last commit."""
    client = Client(A, B)
    client.refusals = [NotCoordinatorForGroupError()]
    assert await commit(client, {A: 5}) == set()
    assert client.committed == {A: 5}


async def test_a_commit_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    client = Client(A, B)
    client.refusals = [NotCoordinatorForGroupError() for _ in range(1_000)]
    with pytest.raises(TimeoutError) as raised:
        await commit(client, {A: 5})
    assert isinstance(raised.value.__cause__, NotCoordinatorForGroupError)


async def test_what_stays_refused_is_raised_at_once() -> None:
    """Examples are a missing permission and a partition that is no longer assigned."""
    client = Client(A, B)
    client.refusals = [GroupAuthorizationFailedError()]
    with pytest.raises(GroupAuthorizationFailedError):
        await commit(client, {A: 5})
    with pytest.raises(IllegalStateError):
        await commit(client, {TopicPartition("c", 0): 1})


@pytest.mark.parametrize(
    ("there", "gone"), [({A}, {TP("b", 0)}), (set(), {TP("a", 0), TP("b", 0)})]
)
async def test_a_consumer_knows_what_it_did_not_commit(
    monkeypatch: pytest.MonkeyPatch, there: set[TopicPartition], gone: set[TP]
) -> None:
    """Faust's own bookkeeping would count the offset as committed."""
    client, thread = Client(*there), object.__new__(ConsumerThread)
    monkeypatch.setattr(ConsumerThread, "_ensure_consumer", lambda _: client)
    monkeypatch.setattr(ConsumerThread, "assignment", lambda _: {TP("a", 0), TP("b", 0)})
    app = SimpleNamespace(state_manager=SimpleNamespace(note=lambda tp: f"of {tp.topic}"))
    monkeypatch.setattr(thread, "app", app, raising=False)
    assert await thread._commit({TP("a", 0): 1, TP("b", 0): 2})
    assert thread.uncommitted == gone


async def test_what_was_left_out_is_not_committed_for_faust_either() -> None:
    """Faust then reports the lag of the commit correctly."""
    ours = Ours()
    ours.thread.uncommitted = {PLACE}
    assert await ours.consumer._commit_offsets({PLACE: 3})
    assert ours.consumer._committed_offset[PLACE] is None
    ours.thread.uncommitted = set()
    assert await ours.consumer._commit_offsets({PLACE: 3})
    assert ours.consumer._committed_offset[PLACE] == 3
