"""`faust -A app keys TOPIC`: whether the key of a topic is a good one, and what another field would give."""

import asyncio
from collections.abc import Iterable, Sequence

import click
from aiokafka import AIOKafkaConsumer, TopicPartition
from faust.cli import argument, option
from rich.table import Table
from rich.text import Text

from famulus.cli.command import Command
from famulus.cli.output import console, print_text
from famulus.config import KafkaConfig
from famulus.errors import ConfigError
from famulus.kafka.admin import partitions_of
from famulus.kafka.key_analysis import KeyStudy, Report
from famulus.kafka.log_reader import log_consumer
from famulus.kafka.partitioner import chooser
from famulus.serialization.json_codec import json_of
from famulus.serialization.records import ConsumerRecord

POLL_MS = 500
SHOWN = 8  # partitions: more are shown as the least and the most


class keys(Command):  # the class's name is the command's
    """Judge the key of a topic by its last events, and what other fields of them would give as a key.

    good: many keys that come again, evenly spread. bad: few keys, or a hot one, so that one
    partition has the most. pointless: nearly every key comes once, so it keeps no order. No key is
    shown.

    \b
    For example:
    faust -A app keys order-events
    faust -A app keys order-events --field customer_id --sample 100000 --json
    """  # click wants that control character, to leave the lines as they are

    options = [  # as Faust wants it
        argument("topic"),
        option(
            "--field",
            "fields",
            multiple=True,
            help="Look at this field; several times for several.",
        ),
        option(
            "--sample",
            type=click.IntRange(1),
            default=10_000,
            show_default=True,
            help="So many events at most.",
        ),
        option("--json", "is_json", is_flag=True, help="A JSON object a line."),
    ]

    async def run(self, topic: str, fields: Sequence[str], sample: int, *, is_json: bool) -> None:
        """Do it."""
        settings = self.app.settings
        name = settings.kafka.topic(topic)
        timeout_s = settings.worker.startup_timeout_s
        count = (await partitions_of(settings.kafka, [name], timeout_s)).get(name)
        if count is None:
            raise ConfigError(f"there is no topic {name}")
        study = KeyStudy(count, chooser(settings.kafka.producer_config.partitioner), fields)
        for record in await last_records(settings.kafka, name, count, sample, timeout_s):
            study.note(record.key, record.partition, json_of(record.value))
        if is_json:
            for report in study.reports():
                print_text({"topic": name, **report.as_json()})
        else:
            out = console()
            out.put(table_of(name, study.reports()))
            for report in study.reports():
                out.print(f"{report.key}: {report.why}", soft_wrap=True)


async def last_records(
    kafka: KafkaConfig, topic: str, partitions: int, sample: int, timeout_s: float
) -> list[ConsumerRecord]:
    """The newest records of a topic, in all about *sample*, of each partition the part that it has of all.

    What does not come within *timeout_s* after the last one is left out.
    """
    places = [TopicPartition(topic, number) for number in range(partitions)]
    found: list[ConsumerRecord] = []
    consumer: AIOKafkaConsumer = log_consumer(kafka)
    await consumer.start()
    try:
        begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        starts = starts_of([ends[place] - begins[place] for place in places], sample)
        consumer.assign(places)
        for place, start in zip(places, starts, strict=True):
            consumer.seek(place, begins[place] + start)
        left = {
            place
            for place, start in zip(places, starts, strict=True)
            if begins[place] + start < ends[place]
        }
        while left:
            async with asyncio.timeout(timeout_s):
                batches = await consumer.getmany(*left, timeout_ms=POLL_MS)
            for place, records in batches.items():
                found += [record for record in records if record.offset < ends[place]]
            left = {place for place in left if await consumer.position(place) < ends[place]}
    finally:
        await consumer.stop()
    return found


def starts_of(lengths: Sequence[int], sample: int) -> list[int]:
    """Where to begin in logs of such *lengths*, so that each gives the same part of its records, *sample* in all."""
    total = sum(lengths)
    if total <= sample:
        return [0] * len(lengths)
    return [length - round(length * sample / total) for length in lengths]


def table_of(topic: str, reports: Iterable[Report]) -> Table:
    """For people."""
    table = Table(title=f"Keys of {topic}")
    for heading in (
        "key",
        "verdict",
        "events",
        "without",
        "keys",
        "largest",
        "skew",
        "by partition",
    ):
        is_text = heading in {"key", "verdict", "by partition"}
        table.add_column(heading, justify="left" if is_text else "right", overflow="fold")
    colours = {"good": "green", "bad": "red", "pointless": "yellow", "unclear": "dim"}
    for of in reports:
        verdict = Text(of.verdict, colours[of.verdict])
        numbers = (
            f"{of.events:,}",
            f"{of.missing:,}",
            f"{of.keys:,}",
            f"{of.largest:.1%}",
            f"{of.skew:.2f}",
        )
        table.add_row(Text(of.key), verdict, *numbers, _partitions(of.partitions))
    return table


def _partitions(events: Sequence[int]) -> str:
    if len(events) > SHOWN:
        return f"{min(events)} to {max(events)}"
    return " ".join(map(str, events))
