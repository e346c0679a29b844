"""Tests of readers of the group's own topics: foreign records are skipped, faults are reported."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import TopicPartition

from famulus.config import KafkaConfig
from famulus.control.admin_topic import AdminLog
from famulus.control.control_state import ControlState
from famulus.errors import ConfigError
from famulus.kafka.log_reader import poll
from famulus.kafka.record_batches import DAMAGED, NOT_UTF8, TRIES, UnreadableBatchError

AT = TopicPartition("g.admin", 0)


def bad(
    first: int, *, is_damaged: bool = False, following: int | None = None
) -> UnreadableBatchError:
    """Return the error that a reader raises at offset *first*."""
    return UnreadableBatchError(
        AT, first, following, DAMAGED if is_damaged else NOT_UTF8, is_damaged=is_damaged
    )


class Consumer:
    """Stand-in for the consumer of aiokafka: a log in which some offsets raise an error."""

    def __init__(self, log: dict[int, Any], *, heals_after: int = 10**9) -> None:
        self.at = 0
        self.asked = 0
        self._log = log
        self._heals_after = heals_after

    async def position(self, _: TopicPartition) -> int:
        """Return the offset of the next record."""
        return self.at

    def seek(self, _: TopicPartition, offset: int) -> None:
        """Set the offset of the next record."""
        self.at = offset

    async def getmany(
        self, *_: TopicPartition, timeout_ms: int, max_records: int | None
    ) -> dict[TopicPartition, Any]:
        """Return the next records, or raise if the first one is an error, as aiokafka does."""
        self.asked += 1
        found: list[Any] = []
        for offset in sorted(of for of in self._log if of >= self.at)[:max_records]:
            record = self._log[offset]
            if isinstance(record, UnreadableBatchError):
                if self.asked <= self._heals_after:
                    raise record
                record = offset
            if isinstance(record, Exception):
                if found:
                    return self._read(found)
                raise record
            found.append(record)
        return self._read(found)

    def _read(self, found: list[Any]) -> dict[TopicPartition, Any]:
        self.at = max([self.at, *(getattr(record, "offset", record) + 1 for record in found)])
        return {AT: found}


async def read_all(
    consumer: Consumer, skipped: Callable[[UnreadableBatchError], None], end: int
) -> list[Any]:
    """Return the records up to offset *end*."""
    found: list[Any] = []
    while consumer.at < end:
        for records in (await poll(consumer, AT, timeout_ms=1, skipped=skipped)).values():
            found += records
    return found


async def test_what_a_stranger_wrote_is_skipped_and_nothing_else() -> None:
    """A whole batch is unreadable; the records before and behind it arrive once and in order."""
    consumer = Consumer({0: 0, 1: 1, 2: bad(2, following=5), 5: 5, 6: 6})
    skipped: list[int] = []
    assert await read_all(consumer, lambda error: skipped.append(error.first_offset), 7) == [
        0,
        1,
        5,
        6,
    ]
    assert set(skipped) == {2}


async def test_damage_is_asked_for_again_and_then_an_error() -> None:
    """A damaged batch is never skipped, and the records before it arrive first."""
    log = {0: 0, 1: bad(1, is_damaged=True, following=2), 2: 2}
    assert await read_all(Consumer(log, heals_after=TRIES), pytest.fail, 3) == [0, 1, 2]
    consumer = Consumer(log)
    assert await poll(consumer, AT, timeout_ms=1) == {AT: [0]}
    with pytest.raises(UnreadableBatchError):
        await poll(consumer, AT, timeout_ms=1)
    assert consumer.at == 1


@pytest.mark.parametrize(
    ("error", "fault"),
    [(RuntimeError("anything"), RuntimeError), (bad(2, is_damaged=True, following=3), ConfigError)],
)
async def test_who_cannot_follow_the_admin_topic_any_more_says_so(
    error: Exception, fault: type[Exception]
) -> None:
    """A worker that cannot read pauses must not seem to obey them.

    Errors of Kafka itself are no fault: the reader waits for their end.
    """
    faults: list[Exception] = []

    async def on_fault(error: Exception) -> None:
        faults.append(error)

    control_state = ControlState()
    admin = AdminLog(KafkaConfig(), control_state, lambda: None, on_fault)
    pause = {
        "topic": AT.topic,
        "partition": 0,
        "key": b"things",
        "value": b'{"by": "me", "at": "now"}',
    }
    deep = {**pause, "value": b'{"by": "me", "at": "now", "x": ' + b"[" * 5_000}
    log = {0: SimpleNamespace(**deep, offset=0), 1: SimpleNamespace(**pause, offset=1), 2: error}
    consumer: Any = Consumer(log)
    await admin._follow(consumer)
    assert [type(each) for each in faults] == [fault]
    assert control_state.pauses.why("things", 0).startswith("things is paused since now by me")
    assert "delete topic g.admin" in str(faults[0]) or fault is RuntimeError


async def test_a_broker_that_is_away_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader asks the broker again."""
    monkeypatch.setattr("famulus.control.admin_topic.AGAIN_S", 0)
    faults: list[Exception] = []

    async def on_fault(error: Exception) -> None:
        faults.append(error)

    class Away(Consumer):
        async def getmany(
            self, *places: TopicPartition, timeout_ms: int, max_records: int | None
        ) -> Any:
            self.asked += 1
            if self.asked < 3:
                raise KafkaConnectionError
            raise RuntimeError

    away: Any = Away({})
    await AdminLog(KafkaConfig(), ControlState(), lambda: None, on_fault)._follow(away)
    assert (away.asked, [type(error) for error in faults]) == (3, [RuntimeError])
