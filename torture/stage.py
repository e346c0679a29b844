"""The stage of one leg: topics and a group of its own, the feed, and workers that are hurt and started again."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from app.config import ConsumerConfig, KafkaConfig, ProducerConfig
from app.dev.broker import Broker
from app.dev.node import free_port
from app.dev.worker import ROOT, WorkerProcess
from app.errors import OperatingError
from app.observe.health import create_topics
from torture.feed import Feed
from torture.load import Payment
from torture.slots import Blow, Marks, Slot, State

PARTITIONS = 4
SESSION_MS = 6_000
SYSTEMS = ("famulus", "faust")
LOOK_S = 0.05
ENDED_MAX = 40  # workers that ended by themselves; with more of them something is broken
STALLED_S = 90.0  # nothing was settled for so long: nothing will be
GREEN_S = 45.0  # nothing was settled for so long: no worker that has partitions may be green any more
OWNED_S = 60.0
END_S = 40.0


class TortureError(OperatingError):
    """The run could not be brought to its end."""


@dataclass(frozen=True)
class Leg:
    """A part of a run: so many *workers*, the payments, and how the workers are *hurt* meanwhile.

    With *is_static* a worker keeps its membership when it is started again, so that the group need not wait for the
    session of the dead one.
    """

    name: str
    workers: int
    made: Sequence[Payment]
    hurt: Callable[["Stage"], None]
    is_static: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)


class Stage:
    """One leg at work. *system* is one of SYSTEMS, *say* shows a line of progress. Use it as a context manager."""

    def __init__(self, system: str, broker: Broker, folder: Path, leg: Leg, say: Callable[[str], None]) -> None:
        self.broker = broker
        self.kafka = KafkaConfig(
            bootstrap_servers=broker.bootstrap_servers,
            topic_prefix=f"{leg.name}.",
            partitions=PARTITIONS,
            consumer_config=ConsumerConfig(group_id=leg.name, session_timeout_ms=SESSION_MS, heartbeat_interval_ms=500),
            producer_config=ProducerConfig(delivery_timeout_ms=300_000),  # of the feed, which outwaits the broker
        )
        self.leg = leg
        self.system = system
        self.folder = folder / leg.name
        self.ledger = self.folder / "ledger"
        self.slots = [Slot(self.folder / f"state-{number}", free_port()) for number in range(leg.workers)]
        self.feed = Feed(self.kafka, self.kafka.topic("payments"), leg.made)
        self.marks = Marks()
        self.began = time.monotonic()
        self._spare = self.folder / f"state-{leg.workers}"
        self._say = say

    def __enter__(self) -> Self:
        try:
            self._set_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        running = [slot.process for slot in self.slots if slot.process is not None and slot.process.exit_code() is None]
        for process in running:
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGTERM)  # all at once, so that they end side by side
        for process in running:
            try:
                process.wait_exit(END_S)
            except subprocess.TimeoutExpired:
                process.signal(signal.SIGKILL)
                process.wait_exit(END_S)
        self.feed.stop()

    def _set_up(self) -> None:
        self.folder.mkdir(parents=True)
        self.ledger.touch()
        topics = [self.kafka.topic(topic) for topic in ("payments", "payments.dead-letter", "news")]
        asyncio.run(create_topics(self.kafka, dict.fromkeys(topics, PARTITIONS), 30.0))
        if self.system == "famulus":
            check_out(self.folder / "checkout")
        for slot in self.slots:
            self.start(slot)
        self.feed.start()

    # Workers.

    def start(self, slot: Slot, blow: Blow | None = None) -> None:
        """Start a worker, to deal *blow* in time."""
        number = self.slots.index(slot)
        settings = {**self._settings(slot.home), **(blow.settings() if blow is not None else {})}
        if self.leg.is_static:
            settings["CONSUMER_GROUP_INSTANCE_ID"] = f"{self.leg.name}-{number}"
        is_ours = self.system == "famulus"
        slot.process = WorkerProcess(
            settings,
            self.folder / f"worker-{number}-{self.marks.restarts:02}.log",
            web_port=slot.port,
            app="app" if is_ours else "torture.systems.faust_stock",
            cwd=self.folder / "checkout" if is_ours else ROOT,
        )
        slot.blow = blow
        slot.process.start()

    def kill(self, slot: Slot) -> None:
        """SIGKILL, unless it is dead by now."""
        if slot.running.exit_code() is None:
            slot.running.signal(signal.SIGKILL)
            slot.running.wait_exit(10)
        self.marks.kills += 1

    def restart(self, slot: Slot, state: State = "kept", blow: Blow | None = None) -> None:
        """Start a worker again that has ended. *state* `moved` gives it a folder that another one used before."""
        if state == "deleted":
            shutil.rmtree(slot.home, ignore_errors=True)
        elif state == "moved":
            slot.home, self._spare = self._spare, slot.home
        self.marks.restarts += 1
        self.start(slot, blow)

    def owned(self, slot: Slot) -> list[int]:
        """The partitions that a worker has, none while it does not answer."""
        try:
            [subscription] = slot.running.get("/subscriptions/")
        except (OSError, ValueError):
            return []
        return [int(partition) for partition in subscription["next_offsets"]]

    def _all_owned(self) -> list[int]:
        return sorted(partition for slot in self.slots for partition in self.owned(slot))

    # Time.

    def wait_for(self, is_there: Callable[[], bool], limit_s: float) -> bool:
        """Wait until *is_there*, for so long at most, and keep the workers up meanwhile. Whether it came about."""
        deadline = time.monotonic() + limit_s
        while not is_there():
            if time.monotonic() > deadline:
                return False
            self._tend()
            time.sleep(LOOK_S)
        return True

    def let_pass(self, seconds: float) -> None:
        """Let the run go on for a while."""
        self.wait_for(lambda: False, seconds)

    def wait_progress(self, limit_s: float = 60.0) -> None:
        """Wait until the group settles something that it had not settled before, if there is anything."""
        before = self.feed.settled
        self.wait_for(lambda: self.feed.settled > before or self.feed.is_settled, limit_s)

    def allow(self, part: int, of: int) -> None:
        """Let so many parts of the payments go."""
        self.feed.allowed = len(self.feed.made) * part // of
        self.feed.moved_at = time.monotonic()

    def finish(self) -> int:
        """Let everything be written and settled, and say how many records are not when nothing moves any more."""
        self.allow(1, 1)
        self.wait_for(lambda: self.feed.is_settled or time.monotonic() - self.feed.moved_at > STALLED_S, 1_800)
        self.wait_for(lambda: self._all_owned() == list(range(PARTITIONS)) and self._all_answer(), OWNED_S)
        return len(self.feed.made) - self.feed.settled

    def rows(self, table: str) -> Counter[str]:
        """The rows of all workers. What two of them hold is added up, so that it shows."""
        found: Counter[str] = Counter()
        for slot in self.slots:
            try:
                found.update(slot.running.rows(table))
            except OSError as error:
                raise TortureError(f"{error!r} instead of table {table} (log: {slot.running.log})") from error
        return found

    def _tend(self) -> None:
        """Start again what has ended by itself, as a supervisor would."""
        self.feed.check()
        feed, marks, events = self.feed, self.marks, len(self.leg.made)
        if feed.settled < feed.total and time.monotonic() - feed.moved_at > GREEN_S:
            marks.green += any(self._is_green(slot) for slot in self.slots)
        self._say(f"{self.leg.name}: {marks.kills} kills, {feed.settled:,} of {events:,} settled, {feed.sent:,} sent")
        for slot in self.slots:
            code = slot.running.exit_code()
            if code is None or slot.fell_by_blow:
                continue
            marks.ended[code] += 1
            marks.words.append(f"{self.leg.name}, exit code {code}: {slot.last_words}")
            if len(marks.words) > ENDED_MAX:
                raise TortureError(f"workers end and end again: {marks.words[-1]}")
            self.restart(slot)

    def _all_answer(self) -> bool:
        """Whether each worker answers, those without partitions included."""
        try:
            return all(slot.running.answer("/livez") for slot in self.slots)
        except OSError:
            return False

    def _is_green(self, slot: Slot) -> bool:
        try:
            return bool(self.owned(slot)) and slot.running.answer("/readyz")[0] == 200
        except OSError:
            return False

    def _settings(self, home: Path) -> Mapping[str, str]:
        kafka = self.kafka
        common = {"TORTURE_LEDGER": str(self.ledger), "PYTHONPATH": f"{self.folder / 'checkout'}{os.pathsep}{ROOT}"}
        if self.system == "faust":
            return {
                **common, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "TORTURE_STATE": str(home),
                "TORTURE_GROUP": kafka.consumer_config.group_id, "TORTURE_PARTITIONS": str(PARTITIONS),
                "TORTURE_TOPIC": kafka.topic("payments"), "TORTURE_NEWS": kafka.topic("news"),
            }  # fmt: skip
        return {
            **common, "WORKER__DATADIR": str(home), "WORKER__COMMITINTERVALS": "0.2",
            "KAFKA__BOOTSTRAPSERVERS": kafka.bootstrap_servers, "KAFKA__TOPICPREFIX": kafka.topic_prefix,
            "KAFKA__CONSUMERCONFIG__GROUPID": kafka.consumer_config.group_id,
            "KAFKA__CONSUMERCONFIG__SESSIONTIMEOUTMS": str(SESSION_MS),
            "KAFKA__CONSUMERCONFIG__HEARTBEATINTERVALMS": "500", **self.leg.settings,
        }  # fmt: skip


def check_out(folder: Path) -> None:
    """A copy of the project with the tortured handlers in place of its own."""
    for package in ("app", "models"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "appsettings.json", folder)
    (folder / "agents").mkdir()
    (folder / "agents/__init__.py").touch()
    shutil.copy(ROOT / "torture/systems/famulus_agents.py", folder / "agents/payments.py")
