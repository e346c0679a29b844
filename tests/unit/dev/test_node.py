"""Tests of the ports of local brokers and workers."""

import random
from itertools import chain

import pytest

from famulus.dev.node import PORTS, free_port


def test_no_port_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker asks for the ports of all its listeners before it listens on the first."""
    first, second = free_port(), free_port()
    drawn = chain([first, second, first], range(*PORTS))
    monkeypatch.setattr(random, "randrange", lambda *_: next(drawn))
    given = [free_port(), free_port()]
    assert len({first, second, *given}) == 4
