"""Tests of exceptions and cancellations in handlers: only the event that caused them fails."""

import asyncio
import builtins
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar

import pytest

from famulus.config import KafkaConfig
from famulus.errors import InvariantError
from famulus.processing.failures.retry_policy import Retry
from famulus.producer.event_bus import EventBus
from famulus.runtime.unawaited import HOOK, watch_unawaited
from famulus.serialization.records import ProducerRecord
from famulus.state.unit_of_work import current_attempt, current_unit
from tests.support.in_memory.clock import Clock
from tests.support.in_memory.trial import LETTERS, Letter, Trial, Try, trials

Make = Callable[..., Trial]
ONCE = Retry(attempts=1)
TENANT: ContextVar[str] = ContextVar("tenant", default="")


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Yield a function that builds trials on a fake clock."""
    async with trials(Clock(monkeypatch)) as build:
        yield build


class Panic(BaseException):  # like that of a Rust extension that panics
    """A `BaseException` that is not Python's own."""


def exception_types() -> Iterator[type[BaseException]]:
    """Yield every built-in exception type, and some others that need care."""
    for of in vars(builtins).values():
        if isinstance(of, type) and issubclass(of, BaseException):
            yield of
    yield from (
        asyncio.CancelledError,
        asyncio.InvalidStateError,
        asyncio.IncompleteReadError,
        Panic,
    )


# Arguments of the types that need more than a text.
ARGUMENTS: dict[type[BaseException], tuple[object, ...]] = {
    ExceptionGroup: ("several", [ValueError("a")]),
    BaseExceptionGroup: ("several", [asyncio.CancelledError(), SystemExit(3)]),
    UnicodeDecodeError: ("utf-8", b"x", 0, 1, "why"),
    UnicodeEncodeError: ("utf-8", "x", 0, 1, "why"),
    UnicodeTranslateError: ("x", 0, 1, "why"),
    asyncio.IncompleteReadError: (b"", 1),
}


def made(of: type[BaseException]) -> BaseException:
    """Return an exception of a type, with the arguments that it needs."""
    return of(*ARGUMENTS.get(of, ("why",)))


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a wait"])
async def test_every_exception_that_python_has_is_a_failed_attempt(
    make: Make, *, waits: bool
) -> None:
    """The dead letter names the type of the exception.

    The events behind it, of its key and of other keys, are handled.
    """
    errors = {of.__qualname__: of for of in exception_types()}
    trial = make(concurrency=2)

    async def do(event: Try) -> None:
        if waits:
            await asyncio.sleep(0.01)
        if event.name in errors:
            raise made(errors[event.name])

    trial.handler("work", do, ONCE)
    trial.start()
    for name in errors:
        trial.feed(f"{name}:{name}", f"{name}:behind", f"other{name}:beside")
    await trial.settled(3 * len(errors))
    assert trial.faults == []
    assert sorted(letter.name for letter in trial.letters) == sorted(errors)
    assert (trial.names().count("behind"), trial.names().count("beside")) == (
        len(errors),
        len(errors),
    )
    said = {
        dict(letter.headers)["ce_id"].decode().partition(":")[2]: dict(letter.headers)[
            "__streams.errors.exception"
        ].decode()
        for letter in trial.sent
        if letter.topic == LETTERS
    }
    assert said["SystemExit"] == "builtins.SystemExit"
    assert said["Panic"].endswith(".Panic")
    assert said["CancelledError"] == "famulus.errors.HandlerCancelledError"


async def cancels_itself(event: Try) -> None:
    """Cancel the current task and suspend."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def cancels_and_returns(event: Try) -> None:
    """Cancel the current task and return without suspending."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def cancels_and_returns_later(event: Try) -> None:
    """Cancel the current task after a wait, and return."""
    await asyncio.sleep(0.01)
    await cancels_and_returns(event)


async def awaits_a_cancelled_future(event: Try) -> None:
    """Await a future that is cancelled elsewhere."""
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.1, future.cancel)
    await future


async def awaits_a_cancelled_task(event: Try) -> None:
    """Await a task that is cancelled."""
    task = asyncio.create_task(asyncio.sleep(3600))
    asyncio.get_running_loop().call_later(0.1, task.cancel)
    await task


async def gathers_a_cancelled_task(event: Try) -> None:
    """Gather two tasks of which one is cancelled."""
    task = asyncio.create_task(asyncio.sleep(3600))
    asyncio.get_running_loop().call_later(0.1, task.cancel)
    await asyncio.gather(asyncio.sleep(0.01), task)


async def is_cancelled_in_a_group(event: Try) -> None:
    """Cancel the task in which a task group runs."""
    async with asyncio.TaskGroup() as group:
        task = asyncio.current_task()
        assert task is not None
        group.create_task(asyncio.sleep(3600))
        asyncio.get_running_loop().call_later(0.1, task.cancel)


async def cancels_all(event: Try) -> None:
    """Cancel every task of the pool, as faulty clean-up code does."""
    for task in asyncio.all_tasks():
        if task.get_name().startswith("crew-"):
            task.cancel()


CANCELLING = [
    cancels_itself,
    cancels_and_returns,
    cancels_and_returns_later,
    awaits_a_cancelled_future,
    awaits_a_cancelled_task,
    gathers_a_cancelled_task,
    is_cancelled_in_a_group,
    cancels_all,
]


@pytest.mark.parametrize("do", CANCELLING, ids=lambda do: do.__name__)
async def test_a_cancellation_stays_with_its_event(
    make: Make, do: Callable[[Try], Awaitable[None]]
) -> None:
    """The event is retried and then dead-lettered, or is handled if its handler returned.

    Other events are not affected.
    """
    trial = make(concurrency=3)

    async def work(event: Try) -> None:
        if event.name == "bad":
            await do(event)
        else:
            await asyncio.sleep(0)

    trial.handler("work", work, Retry(2, 0.5))
    trial.start()
    trial.feed("a:1", "k:bad", "b:2", "k:3", "c:4")
    await trial.settled(5)
    trial.feed("k:5", "d:6")  # a task that waits for work has been cancelled as well
    await trial.settled(7)
    assert trial.faults == []
    assert sorted(set(trial.names())) == ["1", "2", "3", "4", "5", "6", "bad"]
    if trial.letters:
        assert trial.letters == [Letter("bad", "exhausted", "work", 2)]
    else:
        assert trial.count("work", "bad") == 1
    if do not in {cancels_and_returns, cancels_and_returns_later, cancels_all}:
        assert trial.letters
    if do is not cancels_all:
        assert all(trial.names().count(name) == 1 for name in "123456")


async def test_an_attempt_that_was_cancelled_is_tried_again(make: Make) -> None:
    """A cancellation is transient even where unclassified errors are permanent.

    No circuit breaker counts it.
    """
    trial = make()
    left = 1

    async def do(event: Try) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            await awaits_a_cancelled_future(event)

    trial.handler("work", do, Retry(3, 0.5), unclassified="permanent")
    trial.start()
    trial.feed("k:e")
    await trial.settled(1)
    assert ([call.attempt for call in trial.calls], trial.letters) == ([1, 2], [])


async def test_a_task_of_the_crew_that_ends_ends_the_worker(make: Make) -> None:
    """The end of an idle task must be noticed, too."""
    trial = make()

    async def do(event: Try) -> None:
        await asyncio.sleep(0)

    trial.handler("work", do)
    trial.start()
    trial.feed("k:e")
    await trial.settled(1)

    async def ends(waits_for: object) -> bool:
        raise asyncio.CancelledError

    trial.task_pool._undisturbed = ends  # type: ignore[method-assign]  # a bug of the engine
    for hand in trial.task_pool.slots:
        assert hand.task is not None
        hand.task.cancel()
    await trial.until(lambda: bool(trial.faults))
    assert isinstance(trial.faults[0], InvariantError)


# Context variables.


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a wait"])
async def test_no_event_sees_the_context_variables_of_another(make: Make, *, waits: bool) -> None:
    """Every event starts with a clean context, on a task that handled others before."""
    seen: dict[str, str] = {}
    trial = make(concurrency=1)

    async def do(event: Try) -> None:
        seen[event.name] = TENANT.get()
        if event.name in {"1", "4"}:
            TENANT.set(f"t{event.name}")
        if waits:
            await asyncio.sleep(0.01)
            assert TENANT.get() == (f"t{event.name}" if event.name in {"1", "4"} else "")

    trial.handler("work", do)
    trial.start()
    trial.feed(*(f"k:{number}" for number in range(1, 8)))
    await trial.settled(7)
    assert seen == dict.fromkeys("1234567", "")
    assert len(trial.task_pool.slots) == 1


async def test_a_variable_that_was_set_before_the_crew_began_is_seen_by_all(make: Make) -> None:
    """A handler's change of the variable is undone for the next event."""
    seen: list[str] = []
    token = TENANT.set("house")
    trial = make(concurrency=2)

    async def do(event: Try) -> None:
        seen.append(TENANT.get())
        TENANT.set(event.name)

    trial.handler("work", do)
    trial.start()
    trial.feed("a:1", "b:2", "c:3")
    await trial.settled(3)
    TENANT.reset(token)
    assert seen == ["house"] * 3


async def test_a_task_that_is_made_while_another_event_waits_begins_clean(make: Make) -> None:
    """The pool makes this task in the middle of the other event's handler."""
    seen: list[str] = []
    trial = make(concurrency=2)

    async def do(event: Try) -> None:
        seen.append(TENANT.get())
        TENANT.set(event.name)
        await asyncio.sleep(1)

    trial.handler("work", do)
    trial.start()
    trial.feed("a:1", "b:2")
    await trial.settled(2)
    assert (seen, len(trial.task_pool.slots)) == (["", ""], 2)


# Effects belong to an attempt.


def leave(name: str) -> None:
    """Publish a record as the bus does."""
    unit = current_attempt()
    assert unit is not None
    unit.publish(ProducerRecord("out", None, name.encode(), [("ce_id", b"k:out")]))


async def test_what_a_failed_attempt_left_running_does_nothing(make: Make) -> None:
    """A leftover task gets `AttemptEndedError` and cannot publish into the next attempt."""
    heard: list[str] = []
    trial = make()

    async def part(number: int) -> None:
        await asyncio.sleep(0.3)
        try:
            leave(str(number))
        except RuntimeError as error:
            heard.append(f"{type(error).__name__}: {error}")

    async def do(event: Try) -> None:
        is_first = len(trial.calls) == 1
        parts = [asyncio.create_task(part(number)) for number in (1, 2)]
        if is_first:
            raise ValueError("the first time")
        await asyncio.gather(*parts)

    trial.handler("work", do, Retry(2, 0.1))
    trial.start()
    trial.feed("k:e")
    await trial.settled(1)
    assert sorted(record.value or b"" for record in trial.sent if record.topic == "out") == [
        b"1",
        b"2",
    ]
    assert len(heard) == 2
    assert all(text.startswith("AttemptEndedError: handler h.work has failed") for text in heard)


async def test_what_a_timed_out_attempt_left_running_does_nothing(make: Make) -> None:
    """In this case the handler itself was cancelled."""
    heard: list[type[BaseException]] = []
    trial = make()

    async def part() -> None:
        await asyncio.sleep(3)
        try:
            leave("late")
        except RuntimeError as error:
            heard.append(type(error))

    async def do(event: Try) -> None:
        task = asyncio.create_task(part())
        if len(trial.calls) == 1:
            await asyncio.sleep(60)
        task.cancel()

    trial.handler("work", do, Retry(2, 4.0), timeout_s=1.0)
    trial.start()
    trial.feed("k:e")
    await trial.settled(1)
    assert [call.attempt for call in trial.calls] == [1, 2]
    assert ([error.__name__ for error in heard], trial.sent) == (["AttemptEndedError"], [])


async def test_a_handlers_leftover_is_outside_of_the_next_handler(make: Make) -> None:
    """A leftover task neither writes rows nor publishes in the name of the next handler."""
    found: list[object] = []
    trial = make()

    async def late() -> None:
        await asyncio.sleep(0.1)
        found.append(current_attempt())
        unit = current_unit()
        assert unit is not None
        try:
            unit.write(b"row", b"1")
        except TypeError as error:
            found.append(str(error))

    async def first(event: Try) -> None:
        asyncio.get_running_loop().create_task(late())

    async def second(event: Try) -> None:
        await asyncio.sleep(1)

    trial.handler("first", first)
    trial.handler("second", second)
    trial.start()
    trial.feed("k:e")
    await trial.settled(1)
    assert found == [None, "a table was changed after the event that it was changed for was done"]
    assert (trial.count("first", "e"), trial.count("second", "e"), b"row" in trial.stored) == (
        1,
        1,
        False,
    )


async def test_rows_of_an_event_are_its_own_from_handler_to_handler(make: Make) -> None:
    """Another event that touches such a row waits until all handlers of the first have ended."""
    trial = make(concurrency=4)

    async def touch(event: Try) -> None:
        unit = current_unit()
        assert unit is not None
        value = int(unit.row(b"shared") or 0)
        await asyncio.sleep(0.1)
        unit.write(b"shared", b"%d" % (value + 1))

    trial.handler("first", touch)
    trial.handler("second", touch)
    trial.start()
    trial.feed("a:1", "b:2", "c:3")
    await trial.settled(3)
    assert (trial.stored[b"shared"], trial.letters, trial.faults) == (b"6", [], [])


class Sent:
    """A substitute for a producer whose checks of large records take a while."""

    settings = KafkaConfig()

    def __init__(self) -> None:
        self.records: list[ProducerRecord] = []

    def is_small(self, record: ProducerRecord) -> bool:
        """Return False, so that every record is checked."""
        return False

    @property
    def claims(self) -> "Sent":
        """The store of large payloads."""
        return self

    async def check_in(self, record: ProducerRecord) -> ProducerRecord:
        """Return the record after half a second."""
        await asyncio.sleep(0.5)
        return record

    async def check(self, record: ProducerRecord) -> None:
        """Accept the record."""

    async def send(self, record: ProducerRecord) -> None:
        """Record *record* as sent."""
        self.records.append(record)


@pytest.mark.parametrize("fails", [False, True], ids=["handled", "failed"])
async def test_a_large_event_that_is_checked_when_its_attempt_ends_is_sent_by_itself(
    make: Make, *, fails: bool
) -> None:
    """The event is too late for the unit of work.

    After a failed attempt the publish is refused.
    """
    trial, sent, heard = make(), Sent(), []
    bus = EventBus(sent, current_attempt)  # type: ignore[arg-type]

    async def late(event: Try) -> None:
        try:
            await bus.publish(event)
        except RuntimeError as error:
            heard.append(type(error).__name__)

    tasks = []

    async def do(event: Try) -> None:
        tasks.append(asyncio.create_task(late(event)))
        await asyncio.sleep(0.1)
        if fails:
            raise ValueError

    trial.handler("work", do, ONCE)
    trial.start()
    trial.feed("k:e")
    await trial.settled(1)
    await asyncio.sleep(1)
    assert [record for record in trial.sent if record.topic == "t"] == []
    assert (len(sent.records), heard) == ((0, ["AttemptEndedError"]) if fails else (1, []))


async def test_a_call_that_is_not_awaited_fails_its_attempt(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the check the event would count as handled although the call never ran."""
    monkeypatch.setattr(warnings, HOOK, getattr(warnings, HOOK))  # restored at the end
    watch_unawaited()
    trial = make()

    async def forgotten() -> None: ...

    async def do(event: Try) -> None:
        if event.name == "bad":
            forgotten()  # type: ignore[unused-coroutine]

    trial.handler("work", do, ONCE)
    trial.start()
    trial.feed("a:1", "a:bad", "a:2")
    with pytest.warns(RuntimeWarning, match="never awaited"):
        await trial.settled(3)
    assert (trial.letters, trial.names()) == (
        [Letter("bad", "exhausted", "work", 1)],
        ["1", "bad", "2"],
    )
