"""Holes of stock Faust in reading, acking and committing: one scenario, two systems, opposite results.

What stock Faust must fail at is said at the place. When a new Faust passes there, the test fails:
the hole is closed upstream. Its other holes are in tests/unit/consumer/test_faust_offsets.py and
test_faust_commits.py.
"""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from famulus.config import KafkaConfig
from famulus.dev.worker import WorkerProcess
from tests.integration.conftest import PARTITIONS
from tests.integration.test_worker import read_all
from tests.support.on_kafka.systems import System, happened, set_record_bytes_max

COMMITS_S = 1.5  # several commit intervals of 0.2 s
Wait = Callable[..., None]


@pytest.fixture(params=["famulus", "stock"])
def system(
    request: pytest.FixtureRequest,
    kafka: KafkaConfig,
    make_topics: Callable[..., None],
    start_worker: Callable[..., WorkerProcess],
    tmp_path: Path,
) -> Iterator[System]:
    """Each of the two systems in turn, with the topics `things` and `results`."""
    make_topics("things", "results")
    folder: Path = tmp_path / "stock"
    if request.param == "famulus":
        folder = request.getfixturevalue("checkout")
    folder.mkdir(exist_ok=True)
    made = System(request.param, folder, kafka, start_worker)
    yield made
    made.end()


def test_an_event_in_hand_is_not_passed_by_a_commit(system: System, wait_settled: Wait) -> None:
    """The first event is at work while later ones end; the worker is killed; the next one handles it again."""
    events = [happened("sleeps"), *(happened(f"good-{number}") for number in range(9))]
    system.send(*events)
    worker = system.start(concurrency=5)
    system.wait_noted("end", *(f"good-{number}" for number in range(9)))
    time.sleep(COMMITS_S)
    system.kill(worker)
    system.wake()
    system.start()
    wait_settled("things", expected=len(events))
    with system.stock_breaks("neither handled nor set aside: .*sleeps"):
        system.check_kept(events)


def test_an_event_behind_a_hole_in_the_log_is_not_passed(
    system: System, wait_settled: Wait
) -> None:
    """Transactions leave markers in the log.

    Stock Faust counts the record behind a marker as part of the hole.
    """
    system.send_in_transaction(happened("good-1"), happened("good-2"))
    system.send_in_transaction(happened("sleeps"))
    system.send(happened("good-3"))
    worker = system.start(concurrency=5)
    system.wait_noted("end", "good-1", "good-2", "good-3")
    time.sleep(COMMITS_S)
    system.kill(worker)
    system.wake()
    system.start()
    wait_settled("things", expected=6)
    with system.stock_breaks("neither handled nor set aside: .*sleeps"):
        system.check_kept([happened("sleeps")])


def test_an_event_whose_handler_fails_is_kept(system: System, wait_settled: Wait) -> None:
    """Ours tries it again and sets it aside.

    Stock Faust acks it on the way out of the agent and starts a new one.
    """
    events = [happened("good-1"), happened("fails"), happened("good-2")]
    system.send(*events)
    system.start()
    system.wait_noted("end", "good-2")
    wait_settled("things", expected=len(events))
    with system.stock_breaks("neither handled nor set aside: .*fails"):
        system.check_kept(events)


def test_poison_takes_no_healthy_neighbour_with_it(system: System, wait_settled: Wait) -> None:
    """Stock Faust acks what it cannot decode ahead of what waits before it; that is then passed by the commit."""
    good = [happened(name) for name in ("sleeps", "good-1", "good-2", "good-3")]
    poison = [b"\xff not JSON", b'{"no": "name"}', None]
    system.send(good[0], poison[0], good[1], poison[1], good[2], poison[2], good[3])
    # Faust needs no second one to lose events.
    worker = system.start(concurrency=1 if system.is_stock else 5)
    system.wait_noted("begin", "sleeps")
    time.sleep(COMMITS_S)
    system.kill(worker)
    system.wake()
    system.start()
    wait_settled("things", expected=7)
    with system.stock_breaks("neither handled nor set aside: .*sleeps.*good-1.*good-2"):
        system.check_kept(good)
    with system.stock_breaks("neither handled nor set aside: .*not JSON.*no.*None"):
        system.check_kept(poison)


def test_handlers_that_fail_at_once_do_not_end_the_worker(system: System) -> None:
    """Stock Faust allows an agent one restart in 10 ms, and ends with exit code 1 at the second, or gets stuck."""
    fails = [happened(f"fails-{number}") for number in range(8)]
    worker = system.start(concurrency=4)
    system.send(*fails)
    system.wait_noted("begin", "fails-0", "fails-1")
    with suppress(subprocess.TimeoutExpired):
        worker.wait_exit(10 if system.is_stock else 2)
    with system.stock_breaks("ended with exit code 1|handles nothing any more"):
        assert worker.exit_code() is None, f"ended with exit code {worker.exit_code()}"
        system.send(happened("good"))
        try:
            system.wait_noted("end", "good")
        except TimeoutError:  # once in some hundred runs stock Faust is stopping for ever
            raise AssertionError("it handles nothing any more") from None
        system.check_kept(fails)


def test_a_worker_that_joins_repeats_nothing_that_has_ended(system: System) -> None:
    """Ours commits what has ended before it gives partitions up. Stock Faust forgets it first."""
    names = [f"good-{number}" for number in range(40)]
    for partition in range(PARTITIONS):
        system.send(*map(happened, names[partition::PARTITIONS]), partition=partition)
    system.start("first", commit_interval_s=60)
    system.wait_noted("end", *names)
    system.start("second", commit_interval_s=60)
    deadline, wave = time.monotonic() + 60, 0
    while len({noted.pid for noted in system.noted("end")}) < 2:
        assert time.monotonic() < deadline, "the second worker handles nothing"
        for partition in range(PARTITIONS):
            system.send(happened(f"later-{wave}-{partition}"), partition=partition)
        wave += 1
        time.sleep(0.3)
    with system.stock_breaks("handled again: .*good"):
        ended = [noted.name for noted in system.noted("end")]
        again = [name for name in names if ended.count(name) > 1]
        assert not again, f"handled again: {again}"


def test_what_could_not_be_published_is_not_committed(
    system: System, kafka: KafkaConfig, wait_settled: Wait
) -> None:
    """The topic refuses records as large as those that the handler publishes, until somebody allows them."""
    set_record_bytes_max(kafka, "results", 1_000)
    events = [happened("publishes-1"), happened("publishes-2")]
    system.send(*events)
    worker = system.start()
    system.wait_noted("end", "publishes-1", "publishes-2")
    time.sleep(COMMITS_S)
    worker.stop()
    set_record_bytes_max(kafka, "results", 1_000_000)
    system.start()
    wait_settled("things", expected=len(events))
    published = {record.key for record in read_all(kafka, "results")}
    with system.stock_breaks("committed, but not published"):
        assert published == {b"publishes-1", b"publishes-2"}, (
            f"committed, but not published: {published}"
        )
