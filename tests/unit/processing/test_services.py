"""Tests of services: shared by the handlers of an event, made for each attempt, closed after it."""

from collections.abc import AsyncIterator, Callable

import pytest

from famulus.errors import TransientError
from famulus.processing.failures.retry_policy import Policy
from famulus.processing.handlers import handler_for
from tests.support.in_memory.clock import Clock
from tests.support.in_memory.failing import NEVER
from tests.support.in_memory.trial import Trial, Try, trials

Make = Callable[..., Trial]


class Session:
    """A service with a lifetime."""


class House:
    """A registered service and its handlers, with a record of their calls in order."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.happened: list[str] = []
        self.made = 0
        trial.dispatcher._services.register_factory(Session, self.session)

    async def session(self) -> AsyncIterator[Session]:
        """Yield a service, and record when it opens and closes."""
        self.made += 1
        number = self.made
        self.happened.append(f"open {number}")
        yield Session()
        self.happened.append(f"close {number}")

    def handler(self, name: str, fails: int = 0, *, own_services: bool = False) -> None:
        """Add a handler that fails *fails* times."""
        left = fails

        async def call(event: Try, session: Session) -> None:
            nonlocal left
            self.happened.append(name)
            left -= 1
            if left >= 0:
                raise TransientError

        call.__module__, call.__qualname__ = "h", name
        self.trial.dispatcher.add(
            handler_for(Try, call, Policy(), NEVER, own_services=own_services)
        )


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Yield a function that builds trials on a fake clock."""
    async with trials(Clock(monkeypatch)) as build:
        yield build


async def happened(trial: Trial, house: House, *events: str) -> list[str]:
    """Handle *events*, and return what happened meanwhile."""
    trial.start()
    trial.feed(*events)
    await trial.settled(len(events))
    assert not trial.faults
    return house.happened


async def test_the_handlers_of_an_event_share_a_service(make: Make) -> None:
    """The service is closed after the last handler, and each event gets another one."""
    house = House(trial := make())
    house.handler("one")
    house.handler("two")
    each = [["open 1", "one", "two", "close 1"], ["open 2", "one", "two", "close 2"]]
    assert await happened(trial, house, "a", "b") == [*each[0], *each[1]]


async def test_each_attempt_has_services_of_its_own(make: Make) -> None:
    """Services are closed before the event is deferred, so that no attempt inherits their state."""
    house = House(trial := make())
    house.handler("one")
    house.handler("two", fails=1)
    assert await happened(trial, house, "a") == [
        "open 1",
        "one",
        "two",
        "close 1",
        "open 2",
        "two",
        "close 2",
    ]


async def test_a_handler_may_have_services_of_its_own(make: Make) -> None:
    """Each call of such a handler has its own services."""
    house = House(trial := make())
    house.handler("one")
    house.handler("two", own_services=True)
    house.handler("three")
    shown = ["open 1", "one", "open 2", "two", "close 2", "three", "close 1"]
    assert await happened(trial, house, "a") == shown
