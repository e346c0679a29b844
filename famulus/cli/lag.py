"""`faust -A app lag [GROUP]`: the lag of a consumer group, and whether it makes progress."""

import asyncio
import itertools
from contextlib import nullcontext, suppress

import click
from faust.cli import argument, option
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from famulus.cli.command import Command
from famulus.cli.output import Out, console, print_text
from famulus.formatting import duration, number, printable
from famulus.kafka.burrow import State
from famulus.kafka.lag import GroupLag, GroupLagMonitor, PartitionLag

SHOWN = 30  # with at most this many partitions, those without lag are listed too
COLOURS = {State.OK: "green", State.WARNING: "yellow", None: "dim"}


class lag(Command):  # Faust names the command after the class
    """Show the lag of a consumer group, this app's unless GROUP is set, on every partition.

    No worker needs to run. lag is the number of records, and the age of the next record to be read.
    left is the time until the lag is zero at the rates in and out that were measured between the
    samples. state is judged by the rules of Burrow, and is one of: ok; warning (records are read
    but the lag never decreases, or all records left are behind an open transaction); stalled (the
    members commit no new offset); stopped (the group has no members); rewind (a commit went back);
    unclear (fewer than 10 seconds were observed, for which --watch or --looks 11 helps).

    \b
    For example:
    faust -A app lag
    faust -A app lag billing --topic order-events --watch
    faust -A app lag --looks 11 --check --json
    """  # \b keeps click from rewrapping the paragraph

    options = [  # Faust reads a list here
        argument("group", required=False),
        option("--topic", help="Only this topic, also if the group has never committed there."),
        option("--watch", "is_watch", is_flag=True, help="Look again and again, until Ctrl-C."),
        option(
            "--looks", type=click.IntRange(1), help="So many looks before the answer; 2 unless set."
        ),
        option(
            "--interval",
            "interval_s",
            type=click.FloatRange(0.1),
            default=1.0,
            show_default=True,
            help="Seconds between two looks.",
        ),
        option(
            "--check",
            "is_check",
            is_flag=True,
            help="Exit with 1 when it is stalled, stopped or rewound.",
        ),
        option("--json", "is_json", is_flag=True, help="One JSON object for each answer."),
    ]

    async def run(  # one parameter for each option
        self,
        group: str | None,
        topic: str | None,
        *,
        is_watch: bool,
        looks: int | None,
        interval_s: float,
        is_check: bool,
        is_json: bool,
    ) -> None:
        """Print the lag.

        Exits with 1 when *is_check* is set and the state is stalled, stopped or rewind.
        """
        if is_watch and (looks is not None or is_check):
            raise click.UsageError("--looks, --check: not with --watch")
        if group in {None, self.app.group}:
            await self.app.find_retired()
        watch = self._watch(group or self.app.group, topic)
        if is_watch:
            with suppress(asyncio.CancelledError):  # Ctrl-C ends the command normally
                await follow(watch, interval_s, is_json=is_json)
            return
        found = await watch.look()
        for _ in range((looks or 2) - 1):
            await asyncio.sleep(interval_s)
            found = await watch.look()
        if is_json:
            print_text(found.as_json())
        else:
            out = console()
            out.put(shown(found))
        if is_check and found.state is not None and found.state.is_error:
            raise SystemExit(1)

    def _watch(self, group: str, topic: str | None) -> GroupLagMonitor:
        settings, app = self.app.settings, self.app
        ours = app.subscriptions.values() if group == app.group else ()
        expected = {name for s in ours for name in (s.topic_name, *app.redelivery_topics(s))}
        only = settings.kafka.topic(topic) if topic else ""
        return GroupLagMonitor(
            settings.kafka, group, settings.worker.startup_timeout_s, expected=expected, only=only
        )


async def follow(watch: GroupLagMonitor, interval_s: float, *, is_json: bool) -> None:
    """Print the lag every *interval_s* seconds, forever.

    A terminal shows the latest sample only. A pipe and JSON output get all samples.
    """
    out = console()
    with (
        Live(console=out, auto_refresh=False)
        if out.is_terminal and not is_json
        else nullcontext() as live
    ):
        for count in itertools.count():
            if count:
                await asyncio.sleep(interval_s)
            found = await watch.look()
            if is_json:
                print_text(found.as_json())
            elif live is not None:
                live.update(shown(found), refresh=True)
            else:
                _put(out, shown(found))


def _put(out: Out, what: RenderableType) -> None:
    out.put(what)
    out.file.flush()


def shown(found: GroupLag) -> RenderableType:
    """Render the lag as text: the group, a table of its partitions, and anomalies."""
    partitions = found.partitions
    rows = [
        p for p in partitions if p.look.lag or p.state is not State.OK or len(partitions) <= SHOWN
    ]
    head = Text.assemble(
        (printable(found.group), "bold"),
        ": ",
        _state(found.state),
        f", {number(found.lag, 'record')} behind",
        f" ({duration(found.age_s)})" if found.age_s is not None else "",
        f", {number(found.members, 'member')}",
        f", {duration(found.eta_s)} left" if found.lag and found.eta_s is not None else "",
    )
    parts: list[RenderableType] = [head]
    if rows:
        parts.append(_table(rows))
    if len(rows) < len(partitions):
        parts.append(Text(f"{number(len(partitions) - len(rows), 'partition')} without lag", "dim"))
    parts += [Text(f"{_place(p)}: {says}", "yellow") for p in partitions if (says := _strange(p))]
    parts += [
        Text(printable(f"{at.topic}/{at.partition}: no leader answers"), "red")
        for at in found.unanswered
    ]
    return Group(*parts)


def _table(rows: list[PartitionLag]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in (
        "partition",
        "committed",
        "end",
        "lag",
        "age",
        "in/s",
        "out/s",
        "left",
        "state",
        "member",
    ):
        is_text = name in ("partition", "state", "member")
        table.add_column(name, justify="left" if is_text else "right", overflow="fold")
    for p in rows:
        committed = "-" if p.look.committed is None else str(p.look.committed)
        rates = (
            ("-", "-")
            if p.rates is None
            else (f"{p.rates.arrived:,.1f}", f"{p.rates.consumed:,.1f}")
        )
        table.add_row(
            _place(p),
            committed,
            str(p.look.end),
            f"{p.look.lag:,}",
            duration(p.age_s),
            *rates,
            duration(p.eta_s),
            _state(p.state),
            printable(p.owner or "-"),
        )
    return table


def _place(partition: PartitionLag) -> str:
    return printable(f"{partition.place.topic}/{partition.place.partition}")


def _state(state: State | None) -> Text:
    return Text(state or "unclear", COLOURS.get(state, "red"))


def _strange(partition: PartitionLag) -> str:
    look = partition.look
    if look.deleted:
        return (
            f"{number(look.deleted, 'record')} deleted before the group read them, the log "
            f"begins at {look.begin}"
        )
    if look.ahead:
        return (
            f"committed {look.committed}, above the end of the log {look.end}: was the "
            "topic made anew?"
        )
    if partition.open_since is not None:
        return (
            f"behind an open transaction since offset {partition.open_since}: it is read on "
            "when that has ended"
        )
    return ""
