"""`dlq list` and `dlq show`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from famulus.application import Famulus
from famulus.cli.dlq.render import json_lines as lines
from famulus.cli.dlq.render import tables
from famulus.cli.dlq.render.page import print_sight
from famulus.cli.output import Out, console, error_console, print_note, print_text
from famulus.deadletter.dead_letter import Audit, DeadLetter, parse_dead_letter
from famulus.deadletter.index import Criteria, DeadLetterIndex, Entry
from famulus.errors import OperatingError
from famulus.formatting import number, printable
from famulus.inspection.deadletters.causes import grouped
from famulus.inspection.deadletters.detail import seen
from famulus.inspection.deadletters.reader import (
    Progressed,
    Reader,
    letters_topic,
    reading,
    register_of,
)
from famulus.inspection.deadletters.redelivery_builder import batches
from famulus.processing.subscription import Subscription

EACH_MAX = 100  # dead letters that are listed one by one
NAMED_MAX = 10  # origins that an error lists


@dataclass(frozen=True)
class Asked:
    """Options of the command line. None or False stands for an option that is not set."""

    subscriptions: Sequence[Subscription]
    criteria: Criteria
    is_json: bool
    each: bool
    group: str | None
    is_all: bool
    everything: bool
    yes: bool
    note: str | None
    rate: int | None
    limit: int | None
    is_dry: bool
    edit: bool
    force: bool


async def list_letters(app: Famulus, asked: Asked) -> None:
    """Print the dead letters that match, by cause or one by one."""
    out = console()
    async with reading(app) as reader:
        for subscription in asked.subscriptions:
            register = await registered(app, reader, subscription, asked, is_all=asked.is_all)
            meant = [entry for entry in register.entries() if entry.is_meant]
            if asked.each:
                await _list_each(app, reader, subscription, asked=asked, meant=meant, out=out)
            elif asked.is_json:
                for group in grouped(meant, register.messages):
                    print_text(lines.group_json(subscription.topic_name, group))
            else:
                groups = list(grouped(meant, register.messages))
                out.put(
                    tables.title(
                        subscription.topic_name,
                        f"{_letters(asked, len(meant))}"
                        + (f", {number(len(groups), 'cause')}" if groups else ""),
                    )
                )
                if groups:
                    out.put(tables.causes(groups, out.width))
            _note_others(register, subscription)


async def _list_each(
    app: Famulus,
    reader: Reader,
    subscription: Subscription,
    *,
    asked: Asked,
    meant: Sequence[Entry],
    out: Out,
) -> None:
    limit = asked.limit if asked.limit is not None else 0 if asked.is_json else EACH_MAX
    chosen = meant[:limit] if limit else meant
    topic = letters_topic(app, subscription, asked.group or app.group)
    rows: list[tuple[Entry, DeadLetter | None]] = []
    for batch in batches(chosen, 0):
        found = await reader.letters(topic, batch)
        for entry in batch:
            record = found.get(entry.place)
            letter = parse_dead_letter(record) if record is not None else None
            if asked.is_json:
                print_text(lines.letter_json(entry, letter))
            else:
                rows.append((entry, letter))
    if not asked.is_json:
        out.put(tables.title(subscription.topic_name, _letters(asked, len(meant))))
        if rows:
            out.put(tables.letters(rows, out.width))
        if len(rows) < len(meant):
            print_note(f"{number(len(meant) - len(rows), 'more letter')}: --limit 0 shows all")


def _letters(asked: Asked, count: int) -> str:
    of = f" of group {asked.group}" if asked.group else ""
    like = "" if asked.criteria.is_empty else " like that"
    return f"{number(count, 'dead letter') if count else 'no dead letters'}{of}{like}"


def _note_others(register: DeadLetterIndex, subscription: Subscription) -> None:
    for group, count in sorted(register.others.items()):
        print_note(
            f"{subscription.topic_name}: {number(count, 'letter')} of group {group}, see --group"
        )
    if register.strange:
        what = number(register.strange, "record")
        print_note(
            f"{subscription.topic_name}: {what} in the dead letter topic that no worker of "
            "ours wrote"
        )
    if register.strange_audits:
        what = number(register.strange_audits, "record")
        print_note(
            f"{subscription.topic_name}: {what} in the audit topic that cannot be read, left alone"
        )


async def show_letter(app: Famulus, asked: Asked) -> None:
    """Print the one dead letter that matches.

    Raises OperatingError when none matches or its record is gone, UsageError when several match.
    """
    async with reading(app) as reader:
        found: list[tuple[Subscription, Entry, DeadLetterIndex]] = []
        audits: list[Audit] = []
        for subscription in asked.subscriptions:
            register = await registered(
                app, reader, subscription, asked, is_all=True, audits=audits
            )
            found += [
                (subscription, entry, register) for entry in register.entries() if entry.is_meant
            ]
        subscription, entry, register = _only(found, asked)
        topic = letters_topic(app, subscription, asked.group or app.group)
        record = (await reader.letters(topic, [entry])).get(entry.place)
        if record is None:
            raise OperatingError(f"the letter of {entry.id.origin} is not there any more")
        dead = {other.id.origin for other in register.entries()}
        done = [
            audit
            for audit in audits
            if audit.id.origin == entry.id.origin and audit.group == parse_dead_letter(record).group
        ]
        sight = await seen(
            app, reader, subscription, entry=entry, record=record, audits=done, dead=dead
        )
    if asked.is_json:
        print_text(lines.sight_json(sight))
    else:
        print_sight(console(), sight)


def _only(
    found: Sequence[tuple[Subscription, Entry, DeadLetterIndex]], asked: Asked
) -> tuple[Subscription, Entry, DeadLetterIndex]:
    """Return the open dead letter; when none is open, the newest.

    Raises OperatingError when no event matches, UsageError when several do.
    """
    chosen = [letter for letter in found if letter[1].is_open] or found
    # Entries are ordered by hops, so the last one of an origin is the newest.
    newest = {(letter[1].id.origin, letter[1].id.only): letter for letter in chosen}
    if not newest:
        raise OperatingError(f"{_letters(asked, 0)}: `dlq list --each --all` shows what there is")
    if len(newest) > 1:
        some = ", ".join(str(origin) for origin, _ in list(newest)[:NAMED_MAX])
        raise click.UsageError(
            printable(
                f"show takes one letter, and {len(newest)} are like that: {some}"
                + (", ..." if len(newest) > NAMED_MAX else "")
            )
        )
    return next(iter(newest.values()))


async def registered(
    app: Famulus,
    reader: Reader,
    subscription: Subscription,
    asked: Asked,
    *,
    is_all: bool,
    audits: list[Audit] | None = None,
) -> DeadLetterIndex:
    """Read the index of a subscription's dead letters, and show the progress.

    Dead letters that were redriven or dropped are left out unless *is_all*. The audit records are
    appended to *audits*.
    """
    with progress(f"reading {subscription.topic_name}") as (_, progressed):
        return await register_of(
            app,
            reader,
            subscription,
            asked.criteria,
            group=asked.group,
            is_all=is_all,
            progressed=progressed,
            noted=(lambda _: None) if audits is None else audits.append,
        )


@contextmanager
def progress(
    what: str, total: int | None = None, *, is_quiet: bool = False
) -> Iterator[tuple[Progress, Progressed]]:
    """Show a progress bar on stderr if that is a terminal.

    Yields the bar, and a callback that takes the number of further items, and the total or None.
    *is_quiet* hides the bar, for a command that prints lines meanwhile.
    """
    err = error_console()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=err, transient=True, disable=is_quiet or not err.is_terminal
    ) as bar:
        task = bar.add_task(what, total=total)

        def progressed(count: int, of: int | None = None) -> None:
            bar.update(task, advance=count, total=total if of is None else of)

        yield bar, progressed
