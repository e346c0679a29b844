"""Bytes that change: on their way, in both directions, and on the broker's disk."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from aiokafka import TopicPartition

from torture import topics
from torture.faults import Fault, Hit, always, next_slot
from torture.frames import Api, Side
from torture.load import record_of
from torture.proxy import Rule
from torture.scenarios.network import ruled
from torture.segments import change, place_of, stopped
from torture.stage import Stage

OTHERS_S = 180.0


def _flips(kind: str, side: Side, api: Api) -> Fault:
    def hurting(stage: Stage) -> AbstractContextManager[Hit]:
        return ruled(stage, Rule("flip", side, frozenset({api}), 1))

    return Fault(kind, hurting)


@contextmanager
def _while_restoring(stage: Stage) -> Iterator[Hit]:
    slot = next_slot(stage)
    stage.kill(slot)
    with ruled(stage, Rule("flip", "answer", frozenset({Api.FETCH}), 2)) as has_hit:
        stage.restart(slot, "deleted")
        yield has_hit


@contextmanager
def _in_source(stage: Stage) -> Iterator[Hit]:
    """Change a batch that nobody misses, a payment that is there already: its partition stops until a seek.

    The other partitions get on meanwhile.
    """
    stage.wait_settled()
    stage.shut()
    before = topics.ends_of(stage.kafka, stage.topic)
    again = record_of(stage.feed.made[0], stage.topic)
    topics.write(stage.kafka, [again])
    stage.feed.beside += 1
    after = topics.ends_of(stage.kafka, stage.topic)
    [damaged] = [at for at in after if after[at] > before[at]]
    with stopped(stage.cluster) as logs:
        change(*place_of(logs / f"{damaged.topic}-{damaged.partition}", before[damaged]))
    stage.open()
    yield always
    stage.says("faust -A app seek")
    if not stage.wait_for(lambda: set(stage.feed.lagging_since) <= {damaged.partition}, OTHERS_S):
        stage.marks.unexpected.append(
            f"{stage.now}: the other partitions do not get on: {stage.feed.lagging_since}"
        )
    where = "--partition", str(damaged.partition), "--to-offset", str(after[damaged])
    stage.order("seek", "payments", *where, "--yes")


@contextmanager
def _in_changelog(stage: Stage) -> Iterator[Hit]:
    """Change the last batch of a changelog while no store is there: who needs it refuses, until it is put right."""
    stage.wait_settled()
    stage.shut()
    partition = stage.chance.randrange(stage.partitions)
    end = topics.ends_of(stage.kafka, stage.state_topic)[
        TopicPartition(stage.state_topic, partition)
    ]
    with stopped(stage.cluster) as logs:
        damaged = place_of(logs / f"{stage.state_topic}-{partition}", end - 1)
        change(*damaged)
    for slot in stage.slots:
        stage.restart(slot, "deleted")
        slot.is_down = True  # a refusal is looked at here
    stage.wait_for(lambda: any(slot.has_ended for slot in stage.slots), OTHERS_S)
    stage.refuses(
        next((slot for slot in stage.slots if slot.has_ended), stage.slots[0]), "cannot be restored"
    )
    for slot in stage.slots:
        stage.kill(slot)  # the others refuse, too, or are about to
    with stopped(stage.cluster):
        change(*damaged)
    stage.open()
    yield always


FAULTS = (
    _flips("byte of a fetched batch changed", "answer", Api.FETCH),
    _flips("byte of a written batch changed", "request", Api.PRODUCE),
    Fault("byte of a fetched batch changed while a worker restores", _while_restoring),
    Fault("byte of a source changed on the broker's disk", _in_source, 1.0, at_most=2),
    Fault("byte of a changelog changed on the broker's disk", _in_changelog, 1.0, at_most=2),
)
