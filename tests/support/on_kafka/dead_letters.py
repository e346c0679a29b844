"""What the tests of the dead letter commands share: a house whose events have failed, and what its commands sent."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer, ConsumerRecord

from famulus.deadletter.failure_kind import FailureKind
from famulus.deadletter.record import DeadLetters, Failure
from famulus.deadletter.redelivery import Redelivery, parse_redelivery
from famulus.errors import DecodeError, PermanentError
from famulus.serialization.records import ProducerRecord
from tests.integration.conftest import settings_of
from tests.support.on_kafka.commands import faust
from tests.support.on_kafka.house import House, wait_for

KINDS: dict[str, tuple[FailureKind, Exception]] = {
    "permanent": (FailureKind.PERMANENT, PermanentError("no")),
    "exhausted": (FailureKind.EXHAUSTED, TimeoutError("no answer")),
    "poison": (FailureKind.POISON, DecodeError("$.number", "Expected `int`, got `str`")),
    "parked": (FailureKind.PARKED, PermanentError("parked")),
}


class Failed:
    """The events of a house, and the letters of those that failed."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.kafka = house.kafka
        self.group = house.group
        self.letters_topic = f"{house.topic}.dead-letter"
        self.back_topic = f"{house.topic}.{house.group}.redrive"
        self.audit_topic = f"{house.topic}.dead-letter.audit"
        self.settings = settings_of(self.kafka, house.folder / "data")

    def read(self, *events: ProducerRecord) -> list[ConsumerRecord]:
        """Send *events* to the source topic, and read them back as a worker would, in the order of their partitions."""
        self.house.send(*events)
        return [
            record
            for number in range(self.house.partitions)
            for record in self.logged(self.house.topic, number)
        ]

    def letter(  # each has a default
        self,
        record: Any,
        kind: str = "permanent",
        *,
        group: str = "",
        hops: int = 0,
        is_large: bool = False,
        at_ms: int | None = None,
    ) -> ProducerRecord:
        """The letter of an event that failed."""
        letters = DeadLetters(self.letters_topic, self.house.partitions, group or self.group, "v1")
        name, error = KINDS[kind]
        handler = "" if kind in ("poison", "parked") else "agents.things.note"
        now_ms = time.time_ns() // 1_000_000 if at_ms is None else at_ms
        letter = letters.letter(record, Failure(name, error, now_ms, handler, 3, now_ms, hops))
        return letter.fallback or letter if is_large else letter

    def fail(self, *letters: ProducerRecord) -> None:
        """Send letters."""
        self.house.send(*letters)

    def dlq(self, *arguments: str, **settings: str) -> tuple[int, str]:
        """Run `faust -A app dlq ...`: its exit code, and everything that it printed."""
        return faust("dlq", *arguments, cwd=self.house.checkout, **{**self.settings, **settings})

    def started(self, *arguments: str, **settings: str) -> "subprocess.Popen[str]":
        """The same, at work."""
        return subprocess.Popen(
            [Path(sys.executable).with_name("faust"), "-A", "app", "dlq", *arguments],
            cwd=self.house.checkout,
            env={**os.environ, **self.settings, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def lines(self, *arguments: str) -> list[dict[str, Any]]:
        """What the command says as JSON. It must succeed."""
        code, output = self.dlq(*arguments, "--json")
        assert code == 0, output
        return list(json_lines(output))

    def open(self) -> list[str]:
        """The origins of the letters that are open, without the topic."""
        return [place_of(line) for line in self.lines("list", "--each")]

    def back(self) -> list[Redelivery]:
        """What was sent back, in the order of each partition."""
        return [
            parse_redelivery(record)
            for n in range(self.house.partitions)
            for record in self.logged(self.back_topic, n)
        ]

    def audits(self) -> list[dict[str, Any]]:
        """What was written down."""
        return [json.loads(record.value) for record in self.logged(self.audit_topic, 0)]

    def logged(self, topic: str, number: int) -> Sequence[Any]:
        """All records of a partition, none of a topic that is not there."""
        if topic not in self.house.admin(lambda admin: admin.list_topics()):
            return []
        return self.house.logged(number, topic)

    def wait_audits(self, count: int = 1) -> None:
        """Wait until so much was written down."""
        wait_for(lambda: len(self.audits()) >= count)


def place_of(line: dict[str, Any]) -> str:
    """PARTITION/OFFSET of a line's origin."""
    return "/".join(str(line["origin"]).rsplit("/", 2)[1:])


def json_lines(output: str) -> Iterator[dict[str, Any]]:
    """The lines of *output* that are JSON; others are for people, on stderr."""
    return (json.loads(line) for line in output.splitlines() if line.startswith("{"))


def in_transaction(kafka: Any, records: Iterable[ProducerRecord], *, is_kept: bool) -> None:
    """Send *records* in a transaction, which is aborted unless it *is_kept*."""

    async def run() -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=kafka.bootstrap_servers, transactional_id=f"{kafka.topic_prefix}tx"
        )
        await producer.start()
        try:
            await producer.begin_transaction()
            for record in records:
                await producer.send(
                    record.topic,
                    record.value,
                    record.key,
                    record.partition,
                    headers=list(record.headers),
                )
            await (producer.commit_transaction() if is_kept else producer.abort_transaction())
        finally:
            await producer.stop()

    asyncio.run(run())
