"""The stage of one leg: topics and a group of its own, the feed, and workers that are hurt and started again."""

import asyncio
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from famulus.config import ConsumerConfig, KafkaConfig, ProducerConfig
from famulus.dev.node import free_port
from famulus.dev.worker import WorkerProcess
from famulus.kafka.admin import create_topics
from torture.cluster import Cluster
from torture.errors import TortureError
from torture.feed import Feed
from torture.load import Payment
from torture.slots import Blow, Marks, Slot, State
from torture.standstill import Standstills, is_green

ROOT = Path(__file__).resolve().parents[1]
OLDER = "run this on the machine that has a newer one"
STATELESS = "run this where the worker was that had it"
PARTITIONS = 4
SESSION_MS = 6_000
SYSTEMS = ("famulus", "faust")
LOOK_S = 0.05
# Workers that ended by themselves while nothing was settled; with more of them something is broken.
ENDED_MAX = 30
STALLED_S = 180.0  # nothing was settled for so long: nothing will be
OWNED_S = 180.0
END_S = 40.0
ENDS = {69, 70}  # how a worker may end by itself that is to be started again, see README
BUG = "a bug of ours"
ORDER_S = 240.0
REFUSED_S = 180.0


@dataclass(frozen=True)
class Leg:
    """A part of a run: so many *workers*, the payments, and how the workers are *hurt* meanwhile.

    With *is_static* a worker keeps its membership when it is started again, so that the group need
    not wait for the session of the dead one. *prepared* is entered before the first worker is
    started. With *is_proxied* workers go through the network that can be hurt.
    """

    name: str
    workers: int
    made: Sequence[Payment]
    hurt: Callable[["Stage"], None]
    is_static: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    prepared: "Callable[[Stage], AbstractContextManager[object]]" = nullcontext
    is_proxied: bool = False
    partitions: int = PARTITIONS


class Stage:
    """One leg at work.

    *system* is one of SYSTEMS, *say* shows a line of progress. Use it as a context manager.
    """

    def __init__(
        self, system: str, cluster: Cluster, folder: Path, leg: Leg, say: Callable[[str], None]
    ) -> None:
        self.cluster = cluster
        self.kafka = KafkaConfig(
            bootstrap_servers=cluster.bootstrap_servers,
            topic_prefix=f"{leg.name}.",
            partitions=leg.partitions,
            consumer_config=ConsumerConfig(
                group_id=leg.name, session_timeout_ms=SESSION_MS, heartbeat_interval_ms=500
            ),
            # Of the feed, which outwaits the broker.
            producer_config=ProducerConfig(delivery_timeout_ms=300_000),
        )
        self.leg = leg
        self.system = system
        self.folder = folder / leg.name
        self.ledger = self.folder / "ledger"
        self.slots = [
            Slot(self.folder / f"state-{number}", free_port()) for number in range(leg.workers)
        ]
        self.topic = self.kafka.topic("payments")
        self.state_topic = f"{leg.name}-payments-state"
        self.feed = Feed(self.kafka, self.topic, leg.made)
        self.marks = Marks()
        self.now = ""  # what is done to the workers just now, in words
        self.chance = random.Random(leg.name)  # to be repeated, not to be secret
        # A worker that ends with 78 may, when its line has this in it; it is started again at once.
        self.excuse = ""
        self.may_abort = False
        self.began = time.monotonic()
        self._ends = self._settled = 0
        # Of workers started from now on; {home} stands for their data folder.
        self.settings: dict[str, str] = {}
        self.partitions = leg.partitions
        self._standstills = Standstills()
        self._prepared = ExitStack()
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
        running = [
            slot.process
            for slot in self.slots
            if slot.process is not None and slot.process.exit_code() is None
        ]
        for process in running:
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGTERM)  # all at once, so that they end side by side
        for slot in self.slots:
            if slot.process is not None:
                self._ended(slot)
        self.feed.stop()
        self._prepared.close()

    def _set_up(self) -> None:
        self.folder.mkdir(parents=True)
        self.ledger.touch()
        topics = [self.kafka.topic(topic) for topic in ("payments", "payments.dead-letter", "news")]
        asyncio.run(create_topics(self.kafka, dict.fromkeys(topics, self.partitions), 30.0))
        if self.system == "famulus":
            check_out(self.folder / "checkout")
        self._prepared.enter_context(self.leg.prepared(self))
        for slot in self.slots:
            self.start(slot)
        self.feed.start()

    def begin(self, kind: str) -> None:
        """Say what is done to the workers from now on: in the progress, in what is unexpected, in a log with times."""
        self.now = kind
        self._note(f"{kind} ({self.feed.settled} settled)")

    def _note(self, text: str) -> None:
        with (self.folder / "faults.log").open("a", encoding="utf-8") as log:
            print(f"{datetime.now(UTC):%H:%M:%S.%f}", text, file=log)

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
        slot.is_down = False
        slot.process.start()

    def kill(self, slot: Slot) -> None:
        """SIGKILL, unless it is dead by now."""
        slot.is_down = True
        if not slot.has_ended:
            slot.running.signal(signal.SIGKILL)
            slot.running.wait_exit(10)
        self.marks.kills += 1

    def shut(self) -> None:
        """End all workers as a supervisor would, for as long as until they are started again."""
        for slot in self.slots:
            slot.is_down = True
        running = [slot for slot in self.slots if not slot.has_ended]
        for slot in running:
            slot.running.signal(signal.SIGTERM)
        for slot in running:
            code = self._ended(slot)
            # The second: it had not come far enough to heed it.
            if code not in {0, -signal.SIGTERM, *ENDS}:
                self.marks.unexpected.append(
                    f"{self.now}: a worker ended with {code} when it was stopped"
                )

    def _ended(self, slot: Slot) -> int:
        """The exit code of a worker that was told to end, or is killed when it takes too long."""
        try:
            return slot.running.wait_exit(END_S)
        except subprocess.TimeoutExpired:
            slot.running.signal(signal.SIGKILL)
            return slot.running.wait_exit(END_S)

    def open(self) -> None:
        """Start all workers that were shut, and wait until they have all partitions."""
        for slot in self.slots:
            if slot.is_down:
                self.restart(slot)
        self.wait_owned()

    def says(self, *words: str, limit_s: float = REFUSED_S) -> bool:
        """Wait until a worker's /readyz is red and says one of *words*; what it is instead is noted as unexpected."""
        seen: dict[int, object] = {}

        def is_said() -> bool:
            for number, slot in enumerate(self.slots):
                with suppress(OSError, ValueError):
                    seen[number] = status, answer = slot.running.answer("/readyz")
                    if status != 200 and any(word in answer["why"] for word in words):
                        return True
            return False

        if self.wait_for(is_said, limit_s):
            return True
        self.marks.unexpected.append(
            f"{self.now}: no /readyz is red and says one of {words!r}: {seen}"
        )
        return False

    def cure(self, words: str, slot: Slot) -> bool:
        """Do on the machine of a worker what *words* say: the first command in them.

        Whether it succeeds.
        """
        if (found := re.search(r"`faust -A app ([^`]+)`", words)) is None:
            self.marks.unexpected.append(f"{self.now}: it names no command that helps: {words}")
            return False
        command = shlex.split(found[1])
        if "restore-changelog" in command:
            # It deletes nothing, so it does not ask. A machine that has no state, or older copies,
            # says so; if none has the newest, the workers refuse again.
            return self.order(*command, slot=slot, may_say=(OLDER, STATELESS))
        return self.order(*command, "--yes", slot=slot)

    def wait_owned(self) -> bool:
        """Wait until the workers have all partitions. Whether it came about."""
        return self.wait_for(lambda: self._all_owned() == list(range(self.partitions)), OWNED_S)

    def refuses(self, slot: Slot, *says: str) -> bool:
        """Wait until a worker ends with 78 and a line that has one of *says* in it.

        Whether it does.

        What it does instead is noted as unexpected. It is not started again before somebody says
        so.
        """
        slot.is_down = True
        self.wait_for(lambda: slot.has_ended, REFUSED_S)
        code, words = slot.running.exit_code(), slot.last_words
        self._note(f"worker {self.slots.index(slot)} ended with {code}: {words}")
        if code == 78 and any(word in words for word in says):
            return True
        what = "runs on" if code is None else f"ended with {code}"
        slot.running.stop()
        self.marks.unexpected.append(
            f"{self.now}: a worker was to end with 78 and say {says!r}, it {what}: {words}"
        )
        return False

    def all_refuse(self, *says: str) -> None:
        """Wait until every worker has ended as `refuses` wants it."""
        for slot in self.slots:  # before the first is waited for: none is started again meanwhile
            slot.is_down = True
        for slot in self.slots:
            self.refuses(slot, *says)

    def order(self, *command: str, slot: Slot | None = None, may_say: Sequence[str] = ()) -> bool:
        """Run `faust -A app COMMAND` with the settings of a worker, the first one unless told.

        Returns whether it succeeds. That it does not is unexpected, unless it says one of *may_say*.
        """
        slot = slot or self.slots[0]
        done = subprocess.run(  # our own command
            [sys.executable, "-m", "faust", "-A", "app", *command],
            cwd=self.folder / "checkout",
            env={**os.environ, **self._settings(slot.home)},
            capture_output=True,
            text=True,
            timeout=ORDER_S,
            check=False,
        )
        lines = (done.stdout + done.stderr).strip().splitlines() or ["nothing"]
        self._note(f"{' '.join(command)}: {done.returncode}, {lines[-1]}")
        output = " ".join((done.stdout + done.stderr).split())
        if done.returncode and not any(words in output for words in may_say):
            self.marks.unexpected.append(
                f"{self.now}: {' '.join(command)} ended with {done.returncode}: {lines[-1]}"
            )
        return not done.returncode

    def restart(self, slot: Slot, state: State = "kept", blow: Blow | None = None) -> None:
        """Start a worker again that has ended.

        *state* `moved` gives it a folder that another one used before.
        """
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
        """Wait until *is_there*, for so long at most, and keep the workers up meanwhile.

        Whether it came about.
        """
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

    def wait_progress(self, limit_s: float = 60.0) -> bool:
        """Wait until the group settles something that it had not settled before, if there is any.

        Whether it does.
        """
        before = self.feed.settled
        return self.wait_for(lambda: self.feed.settled > before or self.feed.is_settled, limit_s)

    def wait_settled(self, limit_s: float = 120.0) -> bool:
        """Wait until everything that was allowed is settled. Whether it came about."""
        return self.wait_for(lambda: self.feed.is_settled, limit_s)

    def allow(self, part: int, of: int) -> None:
        """Let so many parts of the payments go."""
        self.feed.allowed = len(self.feed.made) * part // of
        self.feed.moved_at = time.monotonic()

    def finish(self) -> int:
        """Let everything be written and settled, and say how many records are not when nothing moves any more."""
        self.allow(1, 1)
        self.wait_for(
            lambda: self.feed.is_settled or time.monotonic() - self.feed.moved_at > STALLED_S, 1_800
        )
        self.wait_for(
            lambda: self._all_owned() == list(range(self.partitions)) and self._all_answer(),
            OWNED_S,
        )
        return len(self.feed.made) - self.feed.sent + self.feed.left

    def rows(self, table: str) -> Counter[str]:
        """The rows of all workers. What two of them hold is added up, so that it shows."""
        found: Counter[str] = Counter()
        for slot in self.slots:
            try:
                found.update(slot.running.rows(table))
            except OSError as error:
                raise TortureError(
                    f"{error!r} instead of table {table} (log: {slot.running.log})"
                ) from error
        return found

    def _tend(self) -> None:
        """Start again what has ended by itself, as a supervisor would."""
        self.feed.check()
        feed, marks, events = self.feed, self.marks, len(self.leg.made)
        number = sum(marks.faults.values())
        self._say(
            f"{self.leg.name}: {number} faults, {feed.settled:,} of {events:,} settled, "
            f"{feed.sent:,} sent; {self.now}"
        )
        self._look_for_standstill()
        for slot in self.slots:
            code = slot.running.exit_code()
            if code is None or slot.is_down or slot.fell_by_blow:
                continue
            marks.ended[code] += 1
            words = (
                f"{self.leg.name}, {self.now or 'nothing is done'}, exit code {code}: "
                f"{slot.last_words}"
            )
            marks.words.append(words)
            is_excused = code == 78 and bool(self.excuse) and self.excuse in words
            # The C++ runtime aborts a process in which no thread can be started.
            is_excused = is_excused or (code == -signal.SIGABRT and self.may_abort)
            if self.system == "famulus" and not is_excused and (code not in ENDS or BUG in words):
                marks.unexpected.append(words)
            self._ends, self._settled = (
                (self._ends + 1 if feed.settled == self._settled else 1),
                feed.settled,
            )
            if self._ends > ENDED_MAX:
                raise TortureError(f"workers end and end again: {marks.words[-1]}")
            self.restart(slot)

    def _look_for_standstill(self) -> None:
        """Note the workers that have work, do nothing for long, and are green without a reason."""
        for worker, partition, since in self._standstills.look(
            time.monotonic(), self.feed.lagging_since.copy(), self._green
        ):
            self.marks.stood_still.add(
                f"{self.leg.name}: worker {worker} was green while partition {partition} had "
                "work and did none of it, "
                f"since second {since - self.began:.0f} of the leg"
            )

    def _green(self) -> dict[int, list[int]]:
        """The workers that say that they are well, and their partitions."""
        return {
            number: self.owned(slot)
            for number, slot in enumerate(self.slots)
            if self._is_green(slot)
        }

    def _all_answer(self) -> bool:
        """Whether each worker answers, those without partitions included."""
        try:
            return all(slot.running.answer("/livez") for slot in self.slots)
        except OSError:
            return False

    def _is_green(self, slot: Slot) -> bool:
        if slot.is_frozen:  # it would not answer for long
            return False
        try:
            return is_green(*slot.running.answer("/readyz"))
        except (OSError, ValueError):
            return False

    def _settings(self, home: Path) -> Mapping[str, str]:
        kafka = self.kafka
        common = {
            "TORTURE_LEDGER": str(self.ledger),
            "PYTHONPATH": f"{self.folder / 'checkout'}{os.pathsep}{ROOT}",
        }
        if self.system == "faust":
            return {
                **common,
                "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
                "TORTURE_STATE": str(home),
                "TORTURE_GROUP": kafka.consumer_config.group_id,
                "TORTURE_PARTITIONS": str(self.partitions),
                "TORTURE_TOPIC": kafka.topic("payments"),
                "TORTURE_NEWS": kafka.topic("news"),
            }
        return {
            **common,
            "WORKER__DATADIR": str(home),
            "WORKER__COMMITINTERVALS": "0.2",
            "KAFKA__BOOTSTRAPSERVERS": self.cluster.hurt_servers
            if self.leg.is_proxied
            else kafka.bootstrap_servers,
            "KAFKA__TOPICPREFIX": kafka.topic_prefix,
            "KAFKA__CONSUMERCONFIG__GROUPID": kafka.consumer_config.group_id,
            "KAFKA__CONSUMERCONFIG__SESSIONTIMEOUTMS": str(SESSION_MS),
            "KAFKA__CONSUMERCONFIG__HEARTBEATINTERVALMS": "500",
            **self.leg.settings,
            **{name: value.replace("{home}", str(home)) for name, value in self.settings.items()},
        }


def check_out(folder: Path) -> None:
    """A copy of the project with the tortured handlers in place of its own."""
    for package in ("app", "models"):
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "appsettings.json", folder)
    (folder / "agents").mkdir()
    (folder / "agents/__init__.py").touch()
    shutil.copy(ROOT / "torture/systems/famulus_agents.py", folder / "agents/payments.py")
