"""`faust -A app seek`: move a running group to another position."""

from collections.abc import Sequence

import click
from faust.cli import argument, option
from rich.table import Table

from famulus.cli.command import OFFSET, PARTITION, Command
from famulus.cli.control_client import control_producer, resolve_scope
from famulus.cli.output import console, is_answering, print_note, print_text
from famulus.control.seek_planner import (
    PlannedSeek,
    SeekTarget,
    consequences,
    order,
    planned,
    seek_target,
)
from famulus.inspection.deadletters.redrive import whoami
from famulus.wiring import remembers_s

PLACES = (
    option("--to-offset", "offset", type=OFFSET, help="Of one partition."),
    option(
        "--to-time",
        "time",
        metavar="TIME",
        help="The first record of that ISO time or later; UTC unless it says.",
    ),
    option("--to-beginning", "is_beginning", is_flag=True, help="The oldest record that is there."),
    option("--to-end", "is_end", is_flag=True, help="Behind the newest record."),
)


class seek(Command):  # Faust names the command after the class
    """Move a running group to another position: on a topic, one partition, or all.

    The command shows the consequences and asks before it orders the seek. Events in flight are
    finished, or abandoned after Worker.DrainTimeoutS. Each worker gives up its partitions for a
    moment, then continues at the new position, which is also committed. While no worker runs, the
    seek waits for one. Events that the state remembers are duplicates when they are read again. To
    handle them again, on empty tables, use `state replay`.

    \b
    For example:
    faust -A app seek order-events --partition 3 --to-offset 1042
    faust -A app seek order-events --to-time 2026-01-31T12:00:00+00:00 --note "after the outage"
    faust -A app seek --all --to-end --yes
    """  # \b keeps click from rewrapping the paragraph

    options = [  # Faust reads a list here
        argument("topic", required=False),
        option("--partition", type=PARTITION, help="Only this one."),
        option("--all", "is_all", is_flag=True, help="Every topic, instead of one."),
        *PLACES,
        option(
            "--note", "why", default="", metavar="WHY", help="Kept with it, and in the audit topic."
        ),
        option("--dry-run", "is_dry", is_flag=True, help="Only show it."),
        option("--yes", "is_sure", is_flag=True, help="Do not ask."),
        option("--json", "is_json", is_flag=True, help="A JSON object for each partition."),
    ]

    async def run(  # one parameter for each option
        self,
        topic: str | None,
        partition: int | None,
        offset: int | None,
        time: str | None,
        why: str,
        *,
        is_all: bool,
        is_beginning: bool,
        is_end: bool,
        is_dry: bool,
        is_sure: bool,
        is_json: bool,
    ) -> None:
        """Show the seek, ask, then write it to the admin topic.

        Raises ConfigError when there is no such topic, partition or offset, UnavailableError
        without a broker.
        """
        if (topic is None) != is_all:
            raise click.UsageError("name a TOPIC, or say --all")
        where = asked_where(offset, time, None, is_beginning=is_beginning, is_end=is_end)
        app, kafka = self.app, self.app.settings.kafka
        target = await resolve_scope(app, topic, partition)
        topics = [s.topic_name for s in app.subscriptions.values()]
        moves = await planned(kafka, topics, target, where, app.settings.worker.startup_timeout_s)
        show(moves, consequences(moves, remembers_s(app.subscriptions.values())), is_json=is_json)
        if is_dry or not agreed("Go on there?", is_sure=is_sure):
            return
        async with control_producer(app) as producer:
            await order(producer, app.group, moves, whoami(), why)
        print_note(
            f"ordered for {len(moves)} partitions; whoever has them, or gets them next, goes "
            "on there"
        )


def asked_where(
    offset: int | None, time: str | None, shift_by: int | None, *, is_beginning: bool, is_end: bool
) -> SeekTarget:
    """Return the target of the seek that the options of `PLACES` give.

    Raises UsageError unless exactly one of them is given, BadParameter when *time* is not a time.
    """
    edges = [edge for edge, is_meant in (("beginning", is_beginning), ("end", is_end)) if is_meant]
    if len(edges) > 1:
        raise click.UsageError("--to-beginning or --to-end, not both")
    try:
        return seek_target(
            edge=next(iter(edges), None), offset=offset, time=time, shift_by=shift_by
        )
    except ValueError as error:
        if time is not None and not (edges or offset is not None or shift_by is not None):
            raise click.BadParameter(str(error), param_hint="--to-time") from None
        raise click.UsageError(
            "say one place: --to-offset, --to-time, --to-beginning or --to-end"
        ) from None


def agreed(question: str, *, is_sure: bool) -> bool:
    """Ask *question* unless *is_sure*, and return True when the answer is yes.

    Raises Abort when the answer is no, UsageError when standard input is not a terminal.
    """
    if not is_sure:
        if not is_answering():
            raise click.UsageError("nobody is there to say yes: add --yes")
        click.confirm(question, abort=True, err=True)
    return True


def show(moves: Sequence[PlannedSeek], notes: Sequence[str], *, is_json: bool) -> None:
    """Print the planned seek of each partition, and *notes* on the consequences."""
    if is_json:
        for move in moves:
            print_text(move.as_json())
    else:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for name in ("partition", "log", "committed", "goes on at", ""):
            table.add_column(
                name, justify="left" if name in ("partition", "") else "right", overflow="fold"
            )
        for move in moves:
            table.add_row(
                f"{move.place.topic}/{move.place.partition}",
                f"{move.begin}-{move.end}",
                "-" if move.committed is None else str(move.committed),
                str(move.to),
                _again(move),
            )
        console().put(table)
    for line in notes:
        print_note(line)


def _again(move: PlannedSeek) -> str:
    if not move.again:
        return "where it is"
    return f"{move.again} again" if move.again > 0 else f"skips {-move.again}"
