"""State and the other workers of a group, on a real Kafka: copies, a worker that froze, and a long restoring."""

import asyncio
import signal
import time
from collections.abc import Iterator

import psutil
import pytest
import rocksdict

from famulus.dev.worker import WorkerProcess
from famulus.kafka.admin import create_topics
from famulus.producer.producer import Producer
from famulus.state.changelog import (
    CLAIM,
    PROCESSED,
    OwnershipClaim,
    SourcePosition,
    encode,
    epoch_headers,
    row_key,
)
from famulus.state.rocksdb_store import POSITION
from tests.support.on_kafka.house import COUNTING, LIMIT_S, House, wait_for

PARTITIONS = 4
EVENTS = 400


def held(worker: WorkerProcess) -> set[int]:
    """The partitions of a worker."""
    [subscription] = worker.get("/subscriptions/")
    return set(map(int, subscription["next_offsets"]))


def restored(worker: WorkerProcess) -> int:
    """The records that the worker replayed for its last assignment."""
    lines = [
        line
        for line in worker.log.read_text("utf-8", "replace").splitlines()
        if " restored " in line
    ]
    return int(lines[-1].split("records=")[1].split()[0])


def test_copies_follow_and_make_a_takeover_short(house: House) -> None:
    """A copy is as far as its log while the owner works, and when the owner is killed only the rest is replayed."""
    house.build(partitions=PARTITIONS)
    one = house.start("one", ready=0, STATE__STANDBYREPLICAS="1")
    two = house.start("two", ready=0, STATE__STANDBYREPLICAS="1")
    wait_for(lambda: len(held(one)) == len(held(two)) == PARTITIONS // 2)
    house.send(*(house.thing(f"key-{n % 40}", n, partition=n % PARTITIONS) for n in range(EVENTS)))
    house.wait_settled(EVENTS, one, two)
    wait_for(lambda: all(copied(house, number, "one") for number in held(two)))
    for number in range(20):  # the owner works on, the copies follow
        house.send(
            *(house.thing(f"key-{n}", EVENTS + number, partition=n % PARTITIONS) for n in range(40))
        )
    everything = EVENTS + 20 * 40
    house.wait_settled(everything, one, two)
    wait_for(lambda: all(copied(house, number, "one") for number in held(two)))

    logged = sum(len(house.logged(number)) for number in range(PARTITIONS))
    before = one.log.stat().st_size
    two.signal(signal.SIGKILL)
    two.stop()
    one.wait_ready(partitions=PARTITIONS)
    wait_for(lambda: " restored " in one.log.read_text("utf-8", "replace")[before:])
    assert logged > 400
    assert restored(one) < logged / 20, f"replayed {restored(one)} of {logged}"
    assert one.rows("count") == {f"key-{key}": EVENTS // 40 + 20 for key in range(40)}


def copied(house: House, partition: int, name: str) -> bool:
    """Whether a worker's copy of a partition is as far as the log."""
    options = rocksdict.Options(raw_mode=True)
    path = str(house.store(partition, name))
    db = rocksdict.Rdict(path, options, access_type=rocksdict.AccessType.read_only())
    try:
        return int(db.get(POSITION) or -1) == house.logged(partition)[-1].offset
    finally:
        db.close()


FREEZING = (
    COUNTING
    + """

def freeze(step):
    if step == "sending" and Path("freeze").exists():
        Path("freeze").unlink()
        os.kill(os.getpid(), signal.SIGSTOP)


app.probe = freeze
"""
)


@pytest.fixture
def woken() -> Iterator[list[WorkerProcess]]:
    """Workers that must not stay frozen."""
    frozen: list[WorkerProcess] = []
    yield frozen
    for worker in frozen:
        if worker.exit_code() is None:
            worker.signal(signal.SIGCONT)


def test_a_worker_that_froze_while_it_settled_writes_nothing(
    house: House, woken: list[WorkerProcess]
) -> None:
    """It was past its last look at the group.

    It sends, and then it hears of its end from the log or from the group.

    From the log, that the partition was claimed: 70, and one line. From the group, if that is
    faster: it stays up.
    """
    house.build(FREEZING.replace("def freeze", "import os\nimport signal\n\n\ndef freeze"))
    frozen = house.start("frozen")
    house.send(*(house.thing("key", number) for number in range(5)))
    house.wait_settled(5, frozen)
    (house.checkout / "freeze").touch()
    other = house.start("other", ready=0)
    woken.append(frozen)
    house.send(house.thing("key", 5))
    wait_for(lambda: psutil.Process(frozen.pid).status() == psutil.STATUS_STOPPED)
    other.wait_ready(partitions=1)
    house.send(house.thing("key", 6))
    house.wait_settled(7, other)
    frozen.signal(signal.SIGCONT)
    claimed, given_up = (
        f"{house.state_topic}-0 was claimed by",
        "the group gave our partitions to others",
    )
    wait_for(
        lambda: any(
            says in frozen.log.read_text("utf-8", "replace") for says in (claimed, given_up)
        )
    )
    is_claimed = claimed in frozen.log.read_text("utf-8", "replace")
    code = frozen.wait_exit(30) if is_claimed else frozen.stop()
    said = frozen.log.read_text("utf-8", "replace")
    assert code == (70 if claimed in said else 0)
    if claimed in said:
        errors = [line for line in said.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1
        assert claimed in errors[0]
        assert f":{other.pid} while this worker was away" in errors[0]
    wait_for(lambda: other.rows("count") == {"key": 7})  # the other one joins and leaves once more
    house.send(house.thing("key", 7))
    house.wait_settled(8, other)
    assert other.rows("count") == {"key": 8}
    assert other.stop() == 0
    assert house.stored(row_key("count"), name="other") == house.live(row_key("count"))


ROWS = 300_000


def test_a_long_restoring_holds_nothing_up(house: House) -> None:
    """The web views answer and heartbeats go on while a large table comes back."""
    house.build()
    asyncio.run(
        create_topics(house.kafka, {house.state_topic: 1}, LIMIT_S, {"cleanup.policy": "compact"})
    )
    asyncio.run(fill(house))
    began = time.monotonic()
    worker = house.start(ready=0)
    slowest, answers = 0.0, 0

    def is_restored() -> bool:
        nonlocal slowest, answers
        asked = time.monotonic()
        worker.get("/tables/")
        slowest = max(slowest, time.monotonic() - asked)
        text = worker.log.read_text("utf-8", "replace")
        answers += "Setting newly assigned partitions" in text and " restored " not in text
        return bool(held(worker))

    wait_for(is_restored, 60)
    assert restored(worker) >= ROWS
    assert answers >= 3, "nothing was asked while it restored"
    assert slowest < 2, f"a view took {slowest:.1f} s"
    joined = worker.log.read_text("utf-8", "replace").count("Executing _on_partitions_assigned")
    time.sleep(1)
    text = worker.log.read_text("utf-8", "replace")
    assert text.count("Executing _on_partitions_assigned") == joined
    assert "Heartbeat failed" not in text
    assert worker.get("/tables/count/key-0299999/")["value"] == 1
    print(f"restored in {time.monotonic() - began:.1f} s, slowest answer {slowest:.2f} s")


async def fill(house: House) -> None:
    """Write the changelog of a table with many rows, as a worker would have."""
    headers = epoch_headers(1)
    async with Producer(house.kafka) as producer:
        await (
            await producer.send_batch(
                house.state_topic, 0, [(CLAIM, encode(OwnershipClaim(1, "test")))], headers
            )
        )
        for first in range(0, ROWS, 10_000):
            rows = [
                (row_key("count", b"key-%07d" % number), b"1")
                for number in range(first, first + 10_000)
            ]
            rows.append((PROCESSED, encode(SourcePosition(0))))
            await (await producer.send_batch(house.state_topic, 0, rows, headers))
