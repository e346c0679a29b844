"""Handlers that raise anything, cancel anything and leave tasks behind, on a real worker: only their events suffer."""

import signal

from famulus.dev.worker import WorkerProcess
from tests.support.on_kafka.house import LIMIT_S, House, wait_for

BAD = """
import os
import sys
from app import EventBus, PermanentError


class Panic(BaseException):
    pass


async def cancelled_by_a_timer():
    task = asyncio.create_task(asyncio.sleep(3600))
    asyncio.get_running_loop().call_later(0.05, task.cancel)
    await task


async def cancels_all():
    for task in asyncio.all_tasks():
        if task.get_name().startswith("crew-"):
            task.cancel()
    await asyncio.sleep(0)


class Unspeakable(Exception):
    def __str__(self):
        return self.response.status


@handles(Thing, retry=Retry(2, 0.05))
async def note(thing: Thing, delivery: Delivery) -> None:
    if thing.note == "cancelled": raise asyncio.CancelledError
    if thing.note == "timer": await cancelled_by_a_timer()
    if thing.note == "itself":
        asyncio.current_task().cancel()
        await asyncio.sleep(1)
    if thing.note == "quietly": asyncio.current_task().cancel()
    if thing.note == "all" and delivery.attempt == 1: await cancels_all()
    if thing.note == "exit": sys.exit(f"no {thing.key}")
    if thing.note == "interrupt": raise KeyboardInterrupt
    if thing.note == "generator": raise GeneratorExit
    if thing.note == "panic": raise Panic
    if thing.note == "group": raise BaseExceptionGroup("all", [asyncio.CancelledError(), SystemExit(1)])
    if thing.note == "unspeakable": raise Unspeakable
    count[thing.key] += 1
"""
NOTES = [
    "cancelled",
    "timer",
    "itself",
    "quietly",
    "all",
    "exit",
    "interrupt",
    "generator",
    "panic",
    "group",
    "unspeakable",
]
LATE = """
from app import EventBus
from famulus import Event


class Done(Event, namespace="things.Done", topic="done", key="key"):
    key: str
    by: str


queue = asyncio.Queue()
flusher = None


async def flush(bus):
    while True:
        await bus.publish(await queue.get())


async def later(bus, done, heard):
    await asyncio.sleep(0.3)
    try:
        await bus.publish(done)
    except RuntimeError as error:
        Path(heard).write_text(str(error))


@handles(Thing, retry=Retry(2, 0.1))
async def note(thing: Thing, bus: EventBus, delivery: Delivery) -> None:
    global flusher
    if thing.note == "flusher":
        flusher = flusher or asyncio.create_task(flush(app.bus))
        queue.put_nowait(Done(key=thing.key, by="flusher"))
    if thing.note == "later":
        asyncio.create_task(later(bus, Done(key=thing.key, by="later"), "heard"))
    if thing.note == "gather":
        parts = [asyncio.create_task(later(bus, Done(key=thing.key, by=f"{delivery.attempt}"), "failed")) for _ in "12"]
        if delivery.attempt == 1:
            raise ValueError
        await asyncio.gather(*parts)
"""
STALLED = """
@handles(Thing)
async def note(thing: Thing) -> None:
    if thing.note == "stall":
        app.assigned.task_pool._list = lambda processor: None  # a bug of ours, as it were
        app.assigned.task_pool._has_leader = True
        app.assigned.task_pool._lead = stuck
        await asyncio.sleep(0)


async def stuck(slot):
    await asyncio.sleep(3600)
"""


def letters(house: House) -> list[str]:
    """The keys of the dead letters, sorted."""
    return sorted(letter.key.decode() for letter in house.logged(0, f"{house.topic}.dead-letter"))


def is_green(worker: WorkerProcess) -> bool:
    """Whether the worker takes part, as its probe says."""
    return bool(worker.answer("/readyz")[0] == 200)


def test_whatever_a_handler_raises_only_its_event_suffers(house: House) -> None:
    """A dead letter each; before and after a restart; the worker stops with 0."""
    house.build(BAD)
    worker = house.start(ready=1)
    for note in NOTES:
        house.send(
            house.thing(note, 0, note), house.thing(note, 1), house.thing("good", NOTES.index(note))
        )
    house.wait_settled(3 * len(NOTES), worker)
    assert is_green(worker)
    rows = worker.rows("count")
    survivors = {"quietly": 2, "all": 2}  # one returned, the other succeeds at its second attempt
    assert rows == {"good": len(NOTES), **{note: survivors.get(note, 1) for note in NOTES}}
    assert letters(house) == sorted(set(NOTES) - survivors.keys())
    assert worker.stop() == 0
    log = worker.log.read_text()
    assert "a bug of ours" not in log
    worker = house.start(ready=1)
    house.send(house.thing("good", 99))
    house.wait_settled(3 * len(NOTES) + 1, worker)
    assert (worker.rows("count")["good"], worker.stop()) == (len(NOTES) + 1, 0)


def test_what_outlives_its_handler_publishes_by_itself_or_hears_why_not(house: House) -> None:
    """Never into nothing, and never into another attempt."""
    house.build(LATE)
    done = house.kafka.topic("done")
    house.make_topics(done)
    worker = house.start(ready=1)
    house.send(*(house.thing("a", number, "flusher") for number in range(3)))
    house.send(house.thing("b", 0, "later"), house.thing("c", 0, "gather"))
    house.wait_settled(5, worker)
    wait_for(lambda: len(house.logged(0, done)) >= 6 and (house.checkout / "failed").exists())
    by = sorted(
        (record.value or b"").split(b'"by":"')[1].split(b'"')[0].decode()
        for record in house.logged(0, done)
    )
    assert by == ["2", "2", "flusher", "flusher", "flusher", "later"]
    assert not (house.checkout / "heard").exists()
    assert "await what a handler starts" in (house.checkout / "failed").read_text()
    assert worker.stop() == 0


def test_a_worker_that_stands_still_is_never_green_and_ends(house: House) -> None:
    """The probe names the partition; the exit code is that of a broken invariant; the next worker does the rest."""
    house.build(STALLED)
    worker = house.start(ready=1, WORKER__STALLTIMEOUTS="1", WORKER__STALLEXITS="4")
    house.send(house.thing("a", 0, "stall"))
    house.wait_settled(1, worker)
    house.send(house.thing("a", 1), house.thing("b", 0))
    wait_for(lambda: not is_green(worker))
    assert f"{house.topic}-0 stands still" in worker.answer("/readyz")[1]["why"]
    wait_for(lambda: worker.exit_code() is not None)
    assert worker.exit_code() == 70
    house.wait_log(worker, "stands still for")
    worker = house.start("two", ready=1)
    house.wait_settled(3, worker)
    worker.signal(signal.SIGTERM)


def test_a_handler_that_stops_the_event_loop_ends_the_worker_in_words(house: House) -> None:
    """With the exit code of a broken invariant, and without a traceback of ours as the last line."""
    house.build(
        "@handles(Thing)\nasync def note(thing: Thing) -> None:\n"
        "    asyncio.get_running_loop().stop()\n    await asyncio.sleep(1)\n"
    )
    worker = house.start(ready=1)
    house.send(house.thing("a"))
    assert worker.wait_exit(LIMIT_S) == 70
    house.wait_log(worker, "Error: the event loop was stopped")
