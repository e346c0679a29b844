"""`faust -A app claims`: list the payloads in the payload store, and sweep expired ones."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby

import click
from faust.cli import argument, option

from famulus.cli.command import Command
from famulus.deadletter.topics import SUFFIX, is_way_of
from famulus.errors import ClaimStoreError, ConfigError, UnavailableError
from famulus.kafka.topic_configs import retentions
from famulus.processing.failures.retry_policy import delays_of
from famulus.producer.payload_store import Blob

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Kept:
    """Retention of the payloads of one topic.

    *seconds* is infinite for payloads that are kept forever. *why* lists the parts of the sum, or
    says why the payloads are kept forever.
    """

    seconds: float
    why: str


class claims(Command):  # Faust names the command after the class
    """List the payloads that were too large for Kafka, and remove those no longer needed.

    The payloads are in the store that ClaimCheck.Store names. `list` shows their number, size and
    age for each topic. `sweep` removes payloads that are older than any record that may need them.
    Their retention is the sum of the topic's retention, that of its dead letter topics, that of its
    redrive and retry topics, and ClaimCheck.SweepMarginH. A topic that keeps its records forever
    keeps its payloads. --older-than makes the retention longer, never shorter. The retention of a
    deleted topic is unknown, so its payloads stay unless both --topic and --older-than are given.

    \b
    For example:
    faust -A app claims list
    faust -A app claims sweep --dry-run
    faust -A app claims sweep --topic order-events --older-than 90d
    """  # \b keeps click from rewrapping the paragraph

    options = [  # Faust reads a list here
        argument("action", type=click.Choice(["list", "sweep"])),
        option("--topic", help="Payloads of this topic; all unless set."),
        option("--older-than", metavar="AGE", help="sweep: only what is older than 90d, 12h, 30m."),
        option("--dry-run", "is_dry", is_flag=True, help="sweep: say what would be removed."),
        option("--json", "is_json", is_flag=True, help="list: a JSON object a line."),
    ]

    async def run(
        self, action: str, topic: str | None, older_than: str | None, *, is_dry: bool, is_json: bool
    ) -> None:
        """List or sweep the payloads.

        Raises ConfigError without a payload store, UnavailableError when the store cannot be
        reached.
        """
        if action == "list" and (older_than is not None or is_dry):
            raise click.UsageError("--older-than, --dry-run: only for sweep")
        if not self.app.claims.is_there:
            raise ConfigError("there is no store of large payloads: set ClaimCheck.Store")
        at_least_s = _age_s(older_than)
        name = None if topic is None else self.app.settings.kafka.topic(topic)
        try:
            found = [blob for blob in await self.app.claims.blobs() if name in (None, blob.topic)]
            by_topic = {
                of: list(blobs)
                for of, blobs in groupby(sorted(found, key=_place), key=lambda b: b.topic)
            }
            if action == "list":
                self._list(by_topic, is_json=is_json)
            else:
                is_asked_for = name is not None and at_least_s > 0
                await self._sweep(by_topic, at_least_s, is_asked_for=is_asked_for, is_dry=is_dry)
        except ClaimStoreError as error:
            raise UnavailableError(f"the store of large payloads is away: {error}") from error

    def _list(self, by_topic: Mapping[str, Sequence[Blob]], *, is_json: bool) -> None:
        rows = [
            (
                topic,
                len(blobs),
                _sum(blobs),
                _time(min(b.written for b in blobs)),
                _time(max(b.written for b in blobs)),
            )
            for topic, blobs in by_topic.items()
        ]
        self.list_rows(
            rows, ["topic", "payloads", "bytes", "oldest", "newest"], "Claims", is_json=is_json
        )

    async def _sweep(
        self,
        by_topic: Mapping[str, Sequence[Blob]],
        at_least_s: float,
        *,
        is_asked_for: bool,
        is_dry: bool,
    ) -> None:
        settings = self.app.settings
        there = await retentions(
            settings.kafka,
            lambda name: any(name == topic or is_way_of(topic, name) for topic in by_topic),
            settings.worker.startup_timeout_s,
        )
        now = datetime.now(UTC)
        for topic, blobs in by_topic.items():
            kept = kept_of(topic, there, settings.claim_check.sweep_margin_h * 3600)
            if topic not in there and is_asked_for:
                kept = Kept(0.0, "the topic is not there")
            limit_s = max(kept.seconds, at_least_s)
            old = [blob for blob in blobs if (now - blob.written).total_seconds() > limit_s]
            if not is_dry:
                old = await self.app.claims.remove(old)
            what = "would be removed" if is_dry else "removed"
            age = "for ever" if limit_s == math.inf else f"for {limit_s / DAY_S:.3g} days"
            self.say(
                f"{topic}: {len(old):,} payloads, {_sum(old):,} bytes {what}; "
                f"{len(blobs) - len(old):,} stay "
                f"(kept {age}: {kept.why})"
            )


def kept_of(topic: str, retention_s: Mapping[str, float], margin_s: float) -> Kept:
    """Return the retention of the payloads of *topic*.

    *retention_s* is the retention of each topic of the cluster, in seconds. An event may become a
    dead letter at the end of its topic's retention, and may be redriven at the end of the retention
    of the dead letter topic. The three retentions and *margin_s* are therefore added up.
    """
    if topic not in retention_s:
        return Kept(math.inf, "the topic is not there; say --topic and --older-than")
    ways = {name: seconds for name, seconds in retention_s.items() if is_way_of(topic, name)}
    dead_s = max((s for name, s in ways.items() if name.endswith(SUFFIX)), default=0.0)
    back_s = max((s for name, s in ways.items() if not name.endswith(SUFFIX)), default=0.0)
    parts = {
        "its retention": retention_s[topic],
        "of dead letters": dead_s,
        "on the way back": back_s,
    }
    why = ", ".join(
        f"{name} {'for ever' if s == math.inf else f'{s / DAY_S:.3g} d'}"
        for name, s in parts.items()
        if s
    )
    return Kept(sum(parts.values()) + margin_s, f"{why}, margin {margin_s / DAY_S:.3g} d")


def _age_s(text: str | None) -> float:
    if text is None:
        return 0.0
    try:
        [seconds] = delays_of([text])
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--older-than") from None
    return seconds


def _place(blob: Blob) -> str:
    return blob.reference


def _sum(blobs: Iterable[Blob]) -> int:
    return sum(blob.size for blob in blobs)


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}Z"
