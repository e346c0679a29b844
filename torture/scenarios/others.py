"""Topics, folders and offsets that are not what they were: deleted, made anew, emptied, exchanged, of another cluster.

Where a worker is right to refuse, it must say so with 78; then what it says helps is done, and
everything is exact.
"""

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torture import topics
from torture.cluster import Cluster
from torture.faults import Fault, Hit, always, next_slot
from torture.load import record_of
from torture.slots import Slot
from torture.stage import Stage

AGAIN = 40  # payments that are there already, written again for retention to take
RESET = "KAFKA__CONSUMERCONFIG__AUTOOFFSETRESET"
ENDED_S = 180.0
SAID_S = 90.0  # what was done to a running worker is said within a minute, or so
# Is done on each machine, since each has other stores; the rest is done once.
ON_EACH = "restore-changelog"


def _come_back(stage: Stage, *says: str) -> None:
    """Start the workers.

    One that refuses must say why, and what it says helps is done; then they start again.
    """
    for slot in stage.slots:
        if not slot.has_ended:
            slot.running.stop()
        stage.restart(slot)
        slot.is_down = True  # a refusal is looked at here
    stage.wait_for(lambda: all(_has_decided(stage, slot) for slot in stage.slots), ENDED_S)
    refusing = [slot for slot in stage.slots if slot.has_ended]
    if refusing:
        for slot in stage.slots:
            slot.is_down = True
            if slot not in refusing:
                slot.running.stop()
        words = [slot.last_words for slot in refusing if stage.refuses(slot, *says)]
        for slot in stage.slots if any(ON_EACH in line for line in words) else refusing[:1]:
            stage.cure(words[0], slot) if words else None
    for slot in stage.slots:
        if slot.has_ended:
            stage.restart(slot)
        slot.is_down = False
    stage.wait_owned()


def _has_decided(stage: Stage, slot: Slot) -> bool:
    return slot.has_ended or bool(stage.owned(slot))


def _between(
    kind: str,
    change: Callable[[Stage], None],
    *says: str,
    stores: bool = True,
    at_most: int = 1_000_000,
) -> Fault:
    """The fault that *change* is done while no worker runs; without *stores* theirs are lost, too."""

    @contextmanager
    def hurting(stage: Stage) -> Iterator[Hit]:
        stage.wait_settled()
        stage.shut()
        change(stage)
        if not stores:
            for slot in stage.slots:
                shutil.rmtree(slot.home, ignore_errors=True)
        _come_back(stage, *says)
        yield always

    return Fault(kind, hurting, 0.5, at_most)


def _running(kind: str, change: Callable[[Stage], None], *says: str) -> Fault:
    """The fault that *change* is done under the hands of the workers, which have nothing to do just then."""

    @contextmanager
    def hurting(stage: Stage) -> Iterator[Hit]:
        stage.wait_settled()
        for slot in stage.slots:
            slot.is_down = True
        change(stage)
        yield always
        stage.wait_for(
            lambda: stage.feed.is_settled or any(slot.has_ended for slot in stage.slots), ENDED_S
        )
        if not stage.feed.is_settled:
            _come_back(stage, *says)
        for slot in stage.slots:
            slot.is_down = False

    return Fault(kind, hurting, 1.0)


def _source_anew(stage: Stage) -> None:
    topics.renew(stage.kafka, stage.topic)
    stage.feed.beside = -stage.feed.sent


def _changelog_deleted(stage: Stage) -> None:
    topics.delete(stage.kafka, stage.state_topic)


def _changelog_anew(stage: Stage) -> None:
    topics.renew(stage.kafka, stage.state_topic)


def _changelog_emptied(stage: Stage) -> None:
    topics.empty(stage.kafka, stage.state_topic)


def _changelog_exchanged(stage: Stage) -> None:
    """Make it anew, and longer, of the records of its partitions, each one's in the place of another."""
    records = topics.read(stage.kafka, topics.ends_of(stage.kafka, stage.state_topic))
    topics.renew(stage.kafka, stage.state_topic)
    topics.write(
        stage.kafka,
        [topics.moved(record, (record.partition + 1) % stage.partitions) for record in records],
    )


@contextmanager
def _wrong_policy(stage: Stage) -> Iterator[Hit]:
    """Have the broker delete old records of the changelog: refused, until it is compacted again."""
    stage.wait_settled()
    stage.shut()
    before = topics.configs_of(stage.kafka, stage.state_topic)
    topics.set_configs(stage.kafka, stage.state_topic, {**before, "cleanup.policy": "delete"})
    for slot in stage.slots:
        stage.restart(slot)
    stage.all_refuse("cleanup.policy")
    topics.set_configs(stage.kafka, stage.state_topic, before)
    stage.shut()
    stage.open()
    yield always


@contextmanager
def _wrong_place(stage: Stage) -> Iterator[Hit]:
    """Exchange two stores of a worker: refused, until each is where it was."""
    stage.wait_settled()
    slot = next_slot(stage)
    owned = stage.owned(slot)
    stage.shut()
    one, two = (
        slot.home / "state" / stage.state_topic / str(partition) for partition in [*owned, 0, 1][:2]
    )
    if len(owned) < 2 or not (one.exists() and two.exists()):
        stage.open()
        yield lambda: False
        return
    _exchange(one, two)
    stage.restart(slot)
    stage.refuses(slot, "put into the wrong place")
    _exchange(one, two)
    stage.open()
    yield always


def _exchange(one: Path, two: Path) -> None:
    kept = one.with_name("kept")
    one.rename(kept)
    two.rename(one)
    kept.rename(two)


@contextmanager
def _other_cluster(stage: Stage) -> Iterator[Hit]:
    """Give a worker a data folder that it has used with another cluster: refused, until it gets its own back."""
    stage.wait_settled()
    stage.shut()
    slot = next_slot(stage)
    own, slot.home = slot.home, stage.folder / "state-elsewhere"
    with Cluster() as other:
        kafka = stage.kafka.model_copy(update={"bootstrap_servers": other.bootstrap_servers})
        names = (stage.topic, f"{stage.topic}.dead-letter", stage.kafka.topic("news"))
        topics.make(kafka, dict.fromkeys(names, stage.partitions))
        topics.write(
            kafka, [record_of(payment, stage.topic) for payment in stage.feed.made[:AGAIN]]
        )
        stage.settings["KAFKA__BOOTSTRAPSERVERS"] = other.bootstrap_servers
        ledger = stage.ledger.with_name("ledger-elsewhere")
        stage.settings["TORTURE_LEDGER"] = str(ledger)
        stage.start(slot)
        stage.wait_for(
            lambda: ledger.exists() and ledger.read_bytes().count(b"\n") >= AGAIN // 2, ENDED_S
        )
        slot.is_down = True
        slot.running.stop()
        del stage.settings["KAFKA__BOOTSTRAPSERVERS"], stage.settings["TORTURE_LEDGER"]
    stage.restart(slot)
    stage.refuses(slot, "cluster")
    shutil.rmtree(slot.home, ignore_errors=True)
    slot.home = own
    stage.open()
    yield always


@contextmanager
def _partitions_added(stage: Stage) -> Iterator[Hit]:
    """Add partitions to the source: keys would move away from their rows, so it is said, until they are taken back."""
    stage.wait_settled()
    for slot in stage.slots:
        slot.is_down = True
    topics.add_partitions(stage.kafka, stage.topic, stage.partitions + 2)
    stage.wait_for(lambda: any(slot.has_ended for slot in stage.slots), SAID_S)
    if any(slot.has_ended for slot in stage.slots):  # then each is to notice it
        stage.all_refuse("partitions")
    else:
        stage.says("partitions", limit_s=1.0)
    stage.shut()
    topics.delete(stage.kafka, stage.topic)
    topics.make(stage.kafka, {stage.topic: stage.partitions})
    stage.feed.beside = -stage.feed.sent
    _come_back(stage, "made anew")
    yield always


def _overtaken(reset: str) -> Fault:
    @contextmanager
    def hurting(stage: Stage) -> Iterator[Hit]:
        """Have retention take what frozen workers have not read, but no payment that is not there already."""
        stage.wait_settled()
        if stage.settings.get(RESET, "earliest") != reset:
            stage.shut()
            stage.settings[RESET] = reset
            stage.open()
        running = [slot for slot in stage.slots if slot.running.exit_code() is None]
        for slot in running:
            slot.running.signal(signal.SIGSTOP)
        try:
            chosen = stage.chance.sample(
                stage.feed.made[: stage.feed.sent], min(AGAIN, stage.feed.sent)
            )
            topics.write(stage.kafka, [record_of(payment, stage.topic) for payment in chosen])
            stage.feed.beside += len(chosen)
            topics.empty(stage.kafka, stage.topic)
            yield lambda: stage.feed.sent == stage.feed.allowed
        finally:
            for slot in running:
                slot.running.signal(signal.SIGCONT)

    return Fault(f"retention in front of a running group, reset {reset}", hurting, 0.2)


def _overtaken_down(reset: str) -> Fault:
    def change(stage: Stage) -> None:
        stage.settings[RESET] = reset
        chosen = stage.chance.sample(
            stage.feed.made[: stage.feed.sent], min(AGAIN, stage.feed.sent)
        )
        topics.write(stage.kafka, [record_of(payment, stage.topic) for payment in chosen])
        stage.feed.beside += len(chosen)
        topics.empty(stage.kafka, stage.topic)

    return _between(f"retention in front of a stopped group, reset {reset}", change, "retention")


FAULTS = (
    _between("source made anew between runs", _source_anew, "made anew"),
    _running("source made anew while workers run", _source_anew, "made anew"),
    _between("changelog deleted between runs", _changelog_deleted, "changelog"),
    _running("changelog deleted while workers run", _changelog_deleted, "changelog"),
    _between("changelog made anew between runs", _changelog_anew, "changelog"),
    _between("changelog emptied", _changelog_emptied, "changelog"),
    _between("changelog exchanged, and longer", _changelog_exchanged, "changelog"),
    Fault("changelog with cleanup.policy=delete", _wrong_policy, 0.5),
    Fault("stores of a worker exchanged", _wrong_place, 0.5),
    Fault("data folder of another cluster", _other_cluster, 0.5, at_most=1),
    Fault("partitions added while workers run", _partitions_added, 0.5, at_most=1),
    *(_overtaken(reset) for reset in ("earliest", "latest")),
    *(_overtaken_down(reset) for reset in ("earliest", "latest")),
)
