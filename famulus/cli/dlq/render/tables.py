"""Tables of dead letters for terminals and pipes, also narrow ones.

Texts that a sender controls are escaped.
"""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from famulus.deadletter.dead_letter import DeadLetter
from famulus.deadletter.failure_kind import FailureKind
from famulus.deadletter.index import Entry
from famulus.formatting import number, printable, short, time_text
from famulus.inspection.deadletters.causes import CauseGroup
from famulus.inspection.deadletters.description import error_name, key_text, why
from famulus.inspection.deadletters.dry_run import DryRunResult, End

WIDE = 110  # columns; at this width and above, times have a column of their own
KEYS_SHOWN = 3
SHOWN = 60  # characters of a row's value
MESSAGE = 200  # characters of an error message


def title(topic: str, says: str) -> Text:
    """Return the heading of a table."""
    return Text.assemble((printable(topic), "bold"), f": {says}")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        last = name == columns[-1]
        is_number = name in ("letters", "keys", "hops", "fail", "handled")
        table.add_column(
            name,
            no_wrap=not last,
            overflow="fold",
            ratio=1 if last else None,
            justify="right" if is_number else "left",
        )
    table.expand = True
    return table


def causes(groups: Iterable[CauseGroup], width: int) -> Table:
    """Build a table with one row for each cause."""
    is_wide = width >= WIDE
    table = _table(
        "cause", "letters", "keys", *(["first and last (UTC)"] if is_wide else []), "why"
    )
    for group in groups:
        first, last = time_text(group.first_ms), time_text(group.last_ms)
        lines = Text(why(group.cause))
        # The message of poison has the place.
        if group.cause.place and group.cause.kind != FailureKind.POISON:
            lines.append(f"\nat {printable(group.cause.place)}")
        if group.message:
            lines.append(f"\n{printable(group.message)}", style="dim")
        if group.keys:
            some = ", ".join(short(key_text(key), 40) for key in group.keys[:KEYS_SHOWN])
            lines.append(
                f"\nkeys {some}{', …' if len(group.keys) > KEYS_SHOWN else ''}", style="dim"
            )
        times = [f"{first}\n{last}" if first != last else first]
        if not is_wide:
            lines.append(
                f"\n{first}" + (f" to {last}" if first != last else "") + " UTC", style="dim"
            )
            times = []
        lines.append("\n")
        table.add_row(group.cause.id, f"{group.count:,}", f"{len(group.keys):,}", *times, lines)
    return table


def letters(rows: Iterable[tuple[Entry, DeadLetter | None]], width: int) -> Table:
    """Build a table with one row for each dead letter.

    The DeadLetter of a row is None when its record is gone.
    """
    is_wide = width >= WIDE
    table = _table("origin", "cause", *(["failed (UTC)", "key"] if is_wide else []), "why")
    for entry, letter in rows:
        lines = Text(why(entry.cause))
        if letter is not None and letter.message:
            lines.append(f"\n{printable(letter.message)}", style="dim")
        facts = [] if is_wide else [f"key {key_text(entry.key)}", f"{time_text(entry.at_ms)} UTC"]
        if entry.id.hops:
            facts.append(f"was redriven {number(entry.id.hops, 'time')}")
        if entry.settled is not None:
            facts.append(f"{entry.settled.what} {time_text(entry.settled.at_ms)} UTC")
        if facts:
            lines.append("\n" + ", ".join(facts), style="dim")
        place = [time_text(entry.at_ms), short(key_text(entry.key), 36)] if is_wide else []
        table.add_row(printable(str(entry.id.origin)), entry.cause.id, *place, lines)
    return table


def ends(found: Iterable[End]) -> Table:
    """Build a table of a dry run, with one row for each cause and outcome."""
    table = _table("cause", "letters", "then and now")
    for end in sorted(found, key=lambda end: (end.first.entry.cause.id, -end.count)):
        says = Text(why(end.first.entry.cause) + "\n").append_text(verdict(end.first))
        if end.count > 1 and end.first.message:
            says.append(" (and others like it)")
        if end.rows or end.events:
            says.append(f", with {number(end.rows, 'row')} and {number(end.events, 'event')}")
        table.add_row(end.first.entry.cause.id, f"{end.count:,}", says.append("\n"))
    return table


def trial(of: DryRunResult) -> Text:
    """Return the dry run of one dead letter as text.

    The text has the outcome, the rows that would be written, and the events that would be
    published.
    """
    text = Text.assemble((printable(str(of.entry.id.origin)), "bold"), "  ", verdict(of))
    for row in of.rows:
        after = "deleted" if row.after is None else row.after
        before = "" if row.before is None else f"{short(row.before, SHOWN)} -> "
        text.append(
            "\n  " + printable(f"row {row.table}/{row.key}: {before}{short(after, 2 * SHOWN)}")
        )
    for topic, event_type, key in of.events:
        text.append(
            "\n  " + printable(f"event {event_type or 'without a type'} to {topic}, key {key}")
        )
    return text


def verdict(of: DryRunResult) -> Text:
    """Return the outcome of the dry run of one dead letter as text."""
    where = f" in {of.handler}" if of.handler else ""
    what = ": ".join(filter(None, (error_name(of.error), short(of.message, MESSAGE))))
    text, style = {
        "handled": ("would be handled", "green"),
        "parked": (f"would be parked again {of.message}", "red"),
        "duplicate": (f"would do nothing: {of.message}", "yellow"),
        "ignored": (f"would be left alone: {of.message}", "yellow"),
        "stays": (f"cannot be sent: {of.message}", "red"),
        "fails": (f"would fail again{where}: {what}", "red"),
    }[of.verdict]
    return Text(printable(text), style=style)
