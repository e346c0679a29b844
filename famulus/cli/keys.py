"""`faust -A app keys TOPIC`: judge the key of a topic and other fields."""

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
from famulus.kafka.log_reader import log_consumer, read_to
from famulus.kafka.partitioner import chooser
from famulus.serialization.json_codec import json_of
from famulus.serialization.records import ConsumerRecord

SHOWN = 8  # of more partitions only the minimum and the maximum are shown


class keys(Command):  # Faust names the command after the class
    """Judge the key of a topic by its newest events, and other fields as a key.

    The verdict is good for many keys that recur and are evenly spread; bad for few keys or a hot
    one, so that one partition has most of the events; pointless when nearly every key occurs once,
    so that it keeps no order. No key is shown.

    \b
    For example:
    faust -A app keys order-events
    faust -A app keys order-events --field customer_id --sample 100000 --json
    """  # \b keeps click from rewrapping the paragraph

    options = [  # Faust reads a list here
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
        """Print the verdict on the key and on each field.

        Raises ConfigError when there is no such topic.
        """
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
    """Read about *sample* of the newest records of a topic.

    Each partition contributes in proportion to its length. Raises TimeoutError when no record
    arrives for *timeout_s* seconds.
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
        async for _, records in read_to(consumer, ends, timeout_s=timeout_s):
            found += records
    finally:
        await consumer.stop()
    return found


def starts_of(lengths: Sequence[int], sample: int) -> list[int]:
    """Return the position in each log at which to begin, so that *sample* records are read.

    *lengths* are those of the logs. Each log gives the same fraction of its records.
    """
    total = sum(lengths)
    if total <= sample:
        return [0] * len(lengths)
    return [length - round(length * sample / total) for length in lengths]


def table_of(topic: str, reports: Iterable[Report]) -> Table:
    """Build a table with one row for each choice of a key."""
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
