"""Tests of the harness of `make torture`: the proxy, the choice of faults, the table of results."""

import asyncio
import random
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from rich.console import Console

from famulus.dev.node import HOST, free_port
from torture.errors import TortureError
from torture.faults import Fault, Hit, always, plan
from torture.frames import UNKNOWN, Api, Conversation, Frame, checked
from torture.proxy import Proxy, Rule, Weather, flipped
from torture.scenarios import clock, corrupt, disk, junk, limits, membership, network, others
from torture.segments import batches, change, place_of
from torture.stage import Stage
from torture.standstill import ASK_S, GREEN_S, Standstills, is_green
from torture.verdict import Result, Verdict, overview

LIMIT_S = 10.0


def asked(api: Api, number: int, more: bytes = b"") -> bytes:
    """Return a request without its length."""
    return struct.pack(">hhi", api, 1, number) + more


def test_an_answer_is_of_the_kind_of_its_request() -> None:
    """A response has only the correlation id of its request, and may arrive in another order."""
    conversation = Conversation()
    assert conversation.request(asked(Api.PRODUCE, 7)).api == Api.PRODUCE
    assert conversation.request(asked(Api.FETCH, 8)) == Frame(
        "request", Api.FETCH, asked(Api.FETCH, 8)
    )
    fetched = struct.pack(">i", 8) + b"records"
    assert conversation.answer(fetched) == Frame("answer", Api.FETCH, fetched)
    assert conversation.answer(struct.pack(">i", 7)).api == Api.PRODUCE
    assert conversation.answer(struct.pack(">i", 7)).api == UNKNOWN


def batch(first: int, count: int) -> bytes:
    """Return a record batch as a broker stores it."""
    builder = DefaultRecordBatchBuilder(
        2,
        0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=9_999,
    )
    for number in range(count):
        builder.append(number, timestamp=0, key=b"k", value=b"v", headers=[])
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, first)
    return bytes(data)


def test_a_rule_takes_so_many_frames_of_its_kind() -> None:
    """A rule that flips bytes takes only frames with records."""
    rule = Rule("swallow", "answer", frozenset({Api.PRODUCE}), times=2)
    assert not rule.takes(Frame("request", Api.PRODUCE, b"abc"))
    assert not rule.takes(Frame("answer", Api.FETCH, b"abc"))
    assert [rule.takes(Frame("answer", Api.PRODUCE, b"abc")) for _ in range(3)] == [
        True,
        True,
        False,
    ]
    assert rule.hits == 2
    rule = Rule("flip", "answer", frozenset({Api.FETCH}), times=1)
    assert not rule.takes(Frame("answer", Api.FETCH, bytes(100)))
    assert rule.takes(Frame("answer", Api.FETCH, bytes(100) + batch(0, 1)))


def test_one_byte_is_flipped_that_a_checksum_is_of() -> None:
    """The byte is of any batch of the frame, and never before the checksum."""
    chance, head, one, two = random.Random(1), b"\2" * 40, batch(0, 3), batch(3, 2)
    frame = head + one + b"\2\0\2" + two + b"\2"
    begins = len(head) + 21, len(head) + len(one) + 3 + 21
    ranges = [range(begins[0], len(head) + len(one)), range(begins[1], len(frame) - 1)]
    assert list(checked(frame)) == ranges
    changed = set()
    for _ in range(400):
        found = flipped(frame, chance)
        [at] = [at for at, (old, new) in enumerate(zip(frame, found, strict=True)) if old != new]
        changed.add(at)
    assert changed <= {*ranges[0], *ranges[1]}
    assert len(changed) > 50


@contextmanager
def proxied() -> Iterator[Proxy]:
    """Yield a proxy whose target is a free port with no listener yet."""
    target = free_port()
    proxy = Proxy(free_port(), lambda: target, random.Random(1))
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request with its correlation id and its contents."""
    try:
        while True:
            frame = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
            writer.write(struct.pack(">i", len(frame) - 4) + frame[4:])
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def test_frames_pass_are_lost_and_arrive_in_pieces() -> None:
    """The weather and the rules of the proxy decide, and may change at any time."""
    with proxied() as proxy:
        server = await asyncio.start_server(answering, HOST, proxy._target())
        async with server, asyncio.timeout(LIMIT_S):

            async def ask(number: int, size: int = 10) -> bytes:
                frame = asked(Api.PRODUCE, number, bytes(size))
                writer.write(struct.pack(">i", len(frame)) + frame)
                return await reader.readexactly(size + 8)

            reader, writer = await asyncio.open_connection(HOST, proxy.port)
            assert (await ask(1))[4:8] == struct.pack(">i", 1)
            proxy.weather = Weather(is_splitting=True, latency_s=0.01)
            assert len(await ask(2, 5_000)) == 5_008
            proxy.clear()
            proxy.rules = [Rule("swallow", "answer", frozenset({Api.PRODUCE}), 1)]
            writer.write(struct.pack(">i", 8) + asked(Api.PRODUCE, 3))
            assert (await ask(4))[4:8] == struct.pack(">i", 4), (
                "the answer to 3 was to be swallowed"
            )
            proxy.rules = [Rule("reset", "request", frozenset({Api.PRODUCE}), 1)]
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await ask(5)
            proxy.clear()
            reader, writer = await asyncio.open_connection(HOST, proxy.port)
            await ask(6)
            assert proxy.close(is_reset=True) == 1
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await ask(7)
            proxy.weather = Weather(is_refusing=True)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                reader, writer = await asyncio.open_connection(HOST, proxy.port)
                await ask(8)


def test_all_kinds_come_in_turn() -> None:
    """Each kind occurs at least once, and no more often than its limit.

    Equal seeds give equal plans.
    """

    @contextmanager
    def hurting(stage: Stage) -> Iterator[Hit]:
        yield always

    faults = [Fault("a", hurting), Fault("b", hurting), Fault("c", hurting, at_most=1)]
    planned = [fault.kind for fault in plan(faults, 8, random.Random(1))]
    assert Counter(planned) in (Counter(a=4, b=3, c=1), Counter(a=3, b=4, c=1))
    assert planned == [fault.kind for fault in plan(faults, 8, random.Random(1))]
    assert sorted(fault.kind for fault in plan(faults, 1, random.Random(1))) == ["a", "b", "c"]
    assert [fault.kind for fault in plan(faults[2:], 5, random.Random(1))] == ["c"]


def test_batches_of_a_segment_are_found(tmp_path: Path) -> None:
    """A second change of the same byte restores it."""
    made = [batch(0, 3), batch(3, 1), batch(4, 5)]
    segment = tmp_path / "00000000000000000000.log"
    # The broker preallocates segment files.
    segment.write_bytes(b"".join(made) + bytes(100))
    assert [(first, last) for first, last, _, _ in batches(segment.read_bytes())] == [
        (0, 2),
        (3, 3),
        (4, 8),
    ]
    path, at = place_of(tmp_path, 3)
    assert (path, at) == (segment, len(made[0]) + 61)
    before = segment.read_bytes()
    change(path, at)
    assert [
        i
        for i, (old, new) in enumerate(zip(before, segment.read_bytes(), strict=True))
        if old != new
    ] == [at]
    change(path, at)
    assert segment.read_bytes() == before
    with pytest.raises(TortureError, match="no batch with offset 9"):
        place_of(tmp_path, 9)


EXACT = Verdict(
    events=10, unique=9, unsettled=0, lost=0, duplicated=0, wrong_sums=0, unpublished=0, reordered=0
)


def test_the_table_has_a_line_for_each_scenario_and_one_for_all() -> None:
    """Kinds and faults are counted, and the verdicts of several legs are added up."""
    wrong = Verdict(
        events=5,
        unique=5,
        unsettled=1,
        lost=2,
        duplicated=3,
        wrong_sums=4,
        unpublished=5,
        reordered=6,
    )
    good = Result(Counter(a=2, b=1), [EXACT, EXACT], seconds=1.0)
    bad = Result(
        Counter(c=1),
        [wrong],
        stood_still=["it was green"],
        unexpected=["it ended with 1"],
        seconds=2.0,
    )
    assert good.cells() == [2, 20, 3, 0, 0, 0, 0, 0, 0, 1]
    assert bad.cells() == [1, 5, 1, 2, 3, 9, 6, 2, 1, 2]
    console = Console(width=200)
    with console.capture() as captured:
        console.print(overview({"good": good, "bad": bad}, "all"))
    assert [cell.strip() for cell in captured.get().splitlines()[-2].strip("│").split("│")] == [
        "all",
        "3",
        "25",
        "4",
        "2",
        "3",
        "9",
        "6",
        "2",
        "1",
        "3",
    ]


@pytest.mark.parametrize("what", ["stood_still", "unexpected", "nothing judged"])
def test_more_than_the_sums_must_be_right(what: str) -> None:
    """A result with right sums can still be wrong.

    A worker was green without progress, something unexpected happened, or there is no verdict.
    """
    result = Result(Counter(a=1), [EXACT])
    assert result.is_exact
    if what == "nothing judged":
        result.verdicts = []
    else:
        getattr(result, what).append("something")
    assert not result.is_exact


def test_a_worker_that_does_nothing_must_not_be_green() -> None:
    """A worker may be green without progress for GREEN_S.

    The time starts again if the worker has just started, or was red in between.
    """
    standstills, asked_for = Standstills(), 0

    def green() -> dict[int, list[int]]:
        nonlocal asked_for
        asked_for += 1
        return {0: [0, 1], 1: [2]}

    lagging_since = {0: 0.0, 3: 0.0}
    assert standstills.look(ASK_S - 1, lagging_since, green) == []
    assert asked_for == 0, "workers that are asked all the time have no time"
    assert standstills.look(50.0, lagging_since, green) == []
    assert standstills.look(50.1, lagging_since, green) == []
    assert asked_for == 1
    assert standstills.look(51.0 + GREEN_S, lagging_since, green) == [(0, 0, 0.0)]
    assert standstills.look(53.0 + GREEN_S, lagging_since, lambda: {1: [2]}) == [], (
        "it is red by now"
    )
    assert standstills.look(55.0 + GREEN_S, lagging_since, green) == []
    assert standstills.look(57.0 + 2 * GREEN_S, {0: 55.0 + GREEN_S}, green) == [], (
        "something was settled"
    )


def test_a_reason_is_as_good_as_red() -> None:
    """An operator has paused the worker, or its handlers wait for something."""
    assert is_green(200, {"why": "", "waiting": [], "paused": []})
    assert not is_green(503, {})
    assert not is_green(200, {"paused": ["all"]})
    assert not is_green(200, {"waiting": ["the breaker"]})


def test_there_are_kinds_enough() -> None:
    """The README names this number."""
    subjects = network, corrupt, disk, others, clock, junk, limits
    kinds = [
        fault.kind
        for of in (*(s.FAULTS for s in subjects), membership.STORM, membership.STAND_BY)
        for fault in of
    ]
    assert len(kinds) == len(set(kinds)) >= 24
