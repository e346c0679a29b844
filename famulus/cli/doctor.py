"""`faust -A app doctor`: faults of settings, topics and machine, each with a cure."""

import asyncio
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import click
from faust.cli import option
from rich.text import Text

from famulus.cli.command import Command
from famulus.cli.keys import last_records
from famulus.cli.output import console, print_text
from famulus.condition_watches import may_grow
from famulus.config import KafkaConfig
from famulus.kafka.admin import admin_of
from famulus.kafka.diagnostics import (
    Family,
    Finding,
    Place,
    TopicFacts,
    about_files,
    about_keys,
    about_place,
    about_retired,
    about_times,
    about_topics,
)
from famulus.kafka.group_progress import unread
from famulus.kafka.partitioner import chooser
from famulus.kafka.topic_configs import configs_of
from famulus.processing.subscription import Subscription
from famulus.runtime.tuning import files_max, files_of
from famulus.validation import validate_handlers

CONFIGS = ("cleanup.policy", "retention.ms", "max.message.bytes", "min.insync.replicas")
COLOURS = {"error": "red", "warning": "yellow"}
CHECKS = (
    "settings and handlers against each other, topics, partitions, retention, copies, "
    "partitioner, clock, disk"
)


class doctor(Command):  # Faust names the command after the class
    """Look for faults of settings, handlers, topics, keys, the clock and the disk.

    Changes nothing. Exits with 0 when nothing is found, or warnings only; with 1 when there is an
    error; with 78 when the settings or the handlers are wrong; with 69 when no broker answers.

    \b
    For example:
    faust -A app doctor
    faust -A app doctor --strict --json
    """  # \b keeps click from rewrapping the paragraph

    options = [  # Faust reads a list here
        option(
            "--sample",
            type=click.IntRange(0),
            default=1_000,
            show_default=True,
            help="Records looked at a topic.",
        ),
        option("--strict", "is_strict", is_flag=True, help="A warning is an error."),
        option("--json", "is_json", is_flag=True, help="A JSON object a line."),
    ]

    async def run(self, sample: int, *, is_strict: bool, is_json: bool) -> None:
        """Run all checks and print the findings.

        Exits with 1 when there is an error, or a warning and *is_strict*.
        """
        self.app.dispatcher.check()
        validate_handlers(self.app.subscriptions, self.app.dispatcher, self.app.settings.kafka)
        found = [
            *about_place(place_of(Path(self.app.settings.worker.data_dir))),
            *await self._on_cluster(sample),
        ]
        if is_json:
            for finding in found:
                print_text(asdict(finding))
        else:
            show(found)
        if any(finding.severity == "error" or is_strict for finding in found):
            raise SystemExit(1)

    async def _on_cluster(self, sample: int) -> list[Finding]:
        kafka, timeout_s = self.app.settings.kafka, self.app.settings.worker.startup_timeout_s
        retired = [name for of in (await self.app.find_retired()).values() for name in of]
        families = [self._family(subscription) for subscription in self.app.subscriptions.values()]
        names = {
            name
            for of in families
            for name in (of.source, of.dead_letters, *of.back, *([of.state] if of.state else []))
        }
        topics, brokers = await facts_of(kafka, names, timeout_s)
        found = [finding for of in families for finding in about_topics(of, topics, brokers)]
        waiting = await unread(kafka, retired, timeout_s) if retired else {}
        found += [finding for name in retired for finding in about_retired(name, waiting[name])]
        stores = sum(
            topics[of.source].partitions
            for of in families
            if of.state is not None and of.source in topics
        )
        found += about_files(stores, files_of(stores), files_max())
        sources = [of.source for of in families if of.source in topics and sample]
        for looked in await asyncio.gather(
            *(self._on_records(name, topics[name].partitions, sample) for name in sources)
        ):
            found += looked
        return found

    async def _on_records(self, topic: str, partitions: int, sample: int) -> list[Finding]:
        kafka, timeout_s = self.app.settings.kafka, self.app.settings.worker.startup_timeout_s
        records = await last_records(kafka, topic, partitions, sample, timeout_s)
        setting = kafka.producer_config.partitioner
        placed = [(record.key, record.partition) for record in records if record.key is not None]
        times = about_times(
            topic, (record.timestamp for record in records), time.time_ns() // 1_000_000
        )
        return [*about_keys(topic, partitions, placed, setting, chooser(setting)), *times]

    def _family(self, subscription: Subscription) -> Family:
        dedupe = subscription.options.dedupe
        return Family(
            subscription.topic_name,
            self.app.dead_letter_topic(subscription),
            self.app.redelivery_topics(subscription),
            subscription.state_topic,
            dedupe.longest_ms if dedupe is not None else None,
            may_grow(subscription),
        )


async def facts_of(
    kafka: KafkaConfig, names: Iterable[str], timeout_s: float
) -> tuple[dict[str, TopicFacts], int]:
    """Describe those of the topics *names* that exist, and count the brokers.

    Raises UnavailableError when no broker answers within *timeout_s*, ConfigError when the cluster
    refuses to describe them.
    """
    async with admin_of(kafka, timeout_s) as admin:
        cluster = await admin.describe_cluster()
        described = {
            t["topic"]: t["partitions"]
            for t in await admin.describe_topics(sorted(names))
            if not t["error_code"]
        }
        configs = await configs_of(admin, described, CONFIGS)
    return {
        name: TopicFacts(
            len(partitions), min(len(p["replicas"]) for p in partitions), configs[name]
        )
        for name, partitions in described.items()
    }, len(cluster["brokers"])


def place_of(folder: Path) -> Place:
    """Return whether the state's *folder* is writable, and the size of its disk.

    A folder that does not exist yet is judged by the nearest parent that does.
    """
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    usage = shutil.disk_usage(there)
    return Place(str(folder), os.access(there, os.W_OK), usage.free, usage.total)


def show(found: Sequence[Finding]) -> None:
    """Print the findings as text, each with its cure."""
    out = console()
    for finding in found:
        line = Text.assemble(
            (finding.severity, COLOURS[finding.severity]), f" {finding.subject}: {finding.what}"
        )
        out.print(line, soft_wrap=True)
        out.print(Text(f"  cure: {finding.cure}", "dim"), soft_wrap=True)
    if not found:
        out.print(Text("nothing found", "green"), Text(f"({CHECKS})", "dim"), soft_wrap=True)
