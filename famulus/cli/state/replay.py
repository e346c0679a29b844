"""`state replay`: drop the state of a subscription, and set its position.

A worker continues at the position in its state, so resetting only the group's offsets changes
nothing. The reset and the new position are one record batch. An interruption therefore leaves the
old state or the new one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from aiokafka import TopicPartition

from famulus.application import Famulus
from famulus.cli.control_client import cancel_seeks
from famulus.cli.state.json_lines import claimed, prepare_state
from famulus.errors import ConfigError
from famulus.inspection.changelog_reader import (
    Fold,
    answered,
    belonging,
    places_of,
    reading,
    source_partitions,
)
from famulus.kafka.group_members import check_empty, commit_for, committed_of
from famulus.kafka.log_reader import log_consumer
from famulus.processing.subscription import Subscription
from famulus.state.changelog import PROCESSED, RESET, SourcePosition, encode

# The start of all partitions, offsets of some partitions, or a time for all partitions.
Start = Literal["earliest"] | dict[int, int] | datetime


@dataclass(frozen=True)
class Step:
    """Plan for one partition. *fold* None means that it has no state."""

    source: TopicPartition
    state: TopicPartition | None
    fold: Fold | None
    committed: int | None
    position: int

    @property
    def again(self) -> int:
        """Return how many records are handled again; below 0, how many are skipped."""
        processed = self.fold.next_offset if self.fold is not None else None
        done = processed if processed is not None else self.committed
        return 0 if done is None else done - self.position


def start_of(text: str) -> Start:
    """Parse the value of `--from`.

    A time is in UTC unless it names another zone. Raises ValueError when the text cannot be parsed.
    """
    if text == "earliest":
        return "earliest"
    try:
        pairs = [pair.split(":") for pair in text.split(",")]
        if all(len(pair) == 2 and pair[0].isdecimal() and pair[1].isdecimal() for pair in pairs):
            return {int(partition): int(offset) for partition, offset in pairs}
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            "earliest, PARTITION:OFFSET,... or a time such as 2026-01-31T12:00:00+00:00"
        ) from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


async def planned(app: Famulus, subscription: Subscription, start: Start) -> list[Step]:
    """Plan a replay from *start* on, partition by partition.

    Raises ConfigError while the group has members, or when *start* is outside the log.
    """
    kafka, timeout_s = app.settings.kafka, app.settings.worker.startup_timeout_s
    await check_empty(kafka, timeout_s)
    count = await source_partitions(app, subscription)
    positions = await _positions(
        app, [TopicPartition(subscription.topic_name, n) for n in range(count)], start
    )
    committed = await committed_of(kafka, positions, timeout_s)
    states = (await places_of(app, [subscription]))[subscription]
    steps = []
    async with reading(app) as logs:
        for source, position in positions.items():
            number = source.partition
            fold = await logs.fold(states[number]) if number < len(states) else None
            state = (
                TopicPartition(subscription.state_topic, number)
                if subscription.state_topic
                else None
            )
            steps.append(Step(source, state, fold, committed[source], position))
    return steps


async def _positions(
    app: Famulus, places: list[TopicPartition], start: Start
) -> dict[TopicPartition, int]:
    consumer = log_consumer(app.settings.kafka)
    async with answered(app):
        try:
            await consumer.start()
            consumer.assign(places)
            begins, ends = (
                await consumer.beginning_offsets(places),
                await consumer.end_offsets(places),
            )
            if isinstance(start, datetime):
                at_ms = round(start.timestamp() * 1000)
                found = await consumer.offsets_for_times(dict.fromkeys(places, at_ms))
                return {at: found[at].offset if found.get(at) else ends[at] for at in places}
        finally:
            await consumer.stop()
    if start == "earliest":
        return dict(begins)
    assert isinstance(start, dict)
    topic = places[0].topic
    wanted = {TopicPartition(topic, number): offset for number, offset in sorted(start.items())}
    for at, offset in wanted.items():
        if at not in begins:
            raise ConfigError(
                f"topic {topic} has no partition {at.partition}; there are {len(places)}"
            )
        if not begins[at] <= offset <= ends[at]:
            raise ConfigError(
                f"{topic}-{at.partition} has the offsets {begins[at]} to {ends[at]}, not {offset}"
            )
    return wanted


async def replay(app: Famulus, subscription: Subscription, steps: list[Step]) -> None:
    """Reset the state and commit the new positions.

    Pending seeks of the partitions are cancelled. Raises ConfigError while the group has members,
    InvariantError when a worker writes meanwhile.
    """
    kafka, timeout_s = app.settings.kafka, app.settings.worker.startup_timeout_s
    await check_empty(kafka, timeout_s)
    await cancel_seeks(app, [step.source for step in steps])
    if subscription.state_topic is not None:
        count = await source_partitions(app, subscription)
        await prepare_state(app, subscription, count, may_grow=len(steps) == count)
        await _reset(
            app, subscription, {step.state: step for step in steps if step.state is not None}
        )
    await commit_for(kafka, {step.source: step.position for step in steps}, timeout_s)


async def _reset(
    app: Famulus, subscription: Subscription, steps: Mapping[TopicPartition, Step]
) -> None:
    folds = {at: step.fold or Fold() for at, step in steps.items()}
    async with claimed(app, steps, folds) as claims:
        here = await belonging(app, subscription)
        for at, _, writer in claims:
            processed = here.taken_on(SourcePosition(steps[at].position), at.partition)
            await writer.write([(RESET, b""), (PROCESSED, encode(processed))])
        for _, fold, writer in claims:  # tombstones of the old state, for compaction
            await writer.write(
                (key, None)
                for key in (*fold.rows, *fold.packs, *fold.failure_state, *fold.unreadable)
            )
