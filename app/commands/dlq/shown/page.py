"""One letter on a page: why it is here, what it carries, what was done, and in what it differs from a good one."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from app.commands.dlq.difference import Difference, type_of
from app.commands.dlq.letters.look import SCANNED, Sight
from app.commands.dlq.shown.tables import KINDS, why
from app.commands.out import Out, key_text, value_text
from app.deadletter.selection import text_of
from app.text import number, printable, short, time_text
from app.wire.codec import json_of

VALUES_SHOWN = 20  # of fields that merely have other values
LINES_MAX = 100  # of the others
SHOWN = 60  # characters of a value
WHAT = {"missing": "missing", "added": "added", "type": "other type", "value": "other value"}


def print_sight(out: Out, sight: Sight) -> None:
    """Show it."""
    letter, cause = sight.letter, sight.letter.cause
    settled = sight.entry.settled
    state = "open" if settled is None else f"{settled.what} {time_text(settled.at_ms)} UTC"
    out.put(Text.assemble((printable(str(letter.id.origin)), "bold"), f"  {state}"))
    attempts = f"after {number(letter.attempts, 'attempt')}" if letter.attempts else ""
    since = f"the first {time_text(letter.first_ms)} UTC" if letter.attempts > 1 else ""
    _facts(out, {
        "cause": f"{cause.id}  {why(cause)}\n{KINDS.get(cause.kind, '')}",
        "place": printable(cause.place),
        "message": printable(letter.message),
        "failed": ", ".join(filter(None, (f"{time_text(letter.at_ms)} UTC", attempts, since))),
        "event": printable(f"{sight.event_type or 'of an unknown type'}  {letter.event_id}"),
        "key": key_text(letter.key),
        "written": f"{time_text(letter.timestamp_ms)} UTC",
        "group": printable(f"{letter.group}, version {letter.version} of its code"),
        "redriven": number(letter.id.hops, "time") if letter.id.hops else "",
        "edited": f"its first value had the SHA-256 {letter.edited}" if letter.edited else "",
        "only for": printable(letter.id.only),
    })  # fmt: skip
    size = "no value" if sight.value is None and not sight.gone else number(letter.value_bytes, "byte")
    _title(out, f"Value, {size}")
    out.put(Padding(Text(printable(sight.gone) if sight.gone else value_text(sight.value)), (0, 0, 0, 2)))
    if sight.fault or not sight.gone:
        is_fine = not sight.fault
        says = (
            "It decodes with this code." if is_fine else f"It does not decode with this code: {printable(sight.fault)}"
        )
        out.put(Padding(Text(says, style="green" if is_fine else "red"), (1, 0, 0, 2)))
    _title(out, "Headers of its sender")
    _facts(out, {printable(name): printable(text_of(of or b"")) for name, of in sight.headers} or {"none": " "})
    if sight.audits:
        _title(out, "What was done")
        for audit in sight.audits:
            note = f": {audit.note}" if audit.note else ""
            edited = ", edited" if audit.edited else ""
            did = f"{time_text(audit.at_ms)} UTC  {audit.action}{edited} by {audit.who}{note}"
            out.put(Padding(Text(printable(did)), (0, 0, 0, 2)))
    _print_differences(out, sight)


def _print_differences(out: Out, sight: Sight) -> None:
    if sight.good is None:
        _title(out, f"No good event of its type among the {SCANNED:,} records before it")
        return
    _title(out, f"Beside {printable(str(sight.good))}, the last good event of its type before it")
    if not sight.differences:
        same = "it is the same" if json_of(sight.value) is not None else "it cannot be compared: it is not JSON"
        out.put(Padding(Text(same), (0, 0, 0, 2)))
        return
    out.put(Padding(difference_table(sight.differences, "here", "there", sight.fault.partition(": ")[0]), (0, 0, 0, 2)))


def difference_table(found: Sequence[Difference], here: str, there: str, fault: str = "") -> Table:
    """A row for each difference, between what is called *here* and *there*; first what stands at the path *fault*."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("field", overflow="fold", min_width=min(30, max((len(d.path) for d in found), default=0)))
    table.add_column("", no_wrap=True)
    table.add_column(here, overflow="fold")
    table.add_column(there, overflow="fold")
    faults = [difference for difference in found if difference.path == fault]
    says = [difference for difference in found if difference.what != "value" and difference.path != fault]
    values = [difference for difference in found if difference.what == "value" and difference.path != fault]
    for difference in [*faults, *says[:LINES_MAX], *values[:VALUES_SHOWN]]:
        what = "at fault" if difference.path == fault else WHAT[difference.what]
        style = "dim" if what == WHAT["value"] else "red"
        mine = "" if difference.what == "missing" else _value(difference.here, difference.what)
        other = "" if difference.what == "added" else _value(difference.there, difference.what)
        table.add_row(Text(printable(difference.path), style=style), Text(what, style=style), Text(mine), Text(other))
    left = len(says[LINES_MAX:]) + len(values[VALUES_SHOWN:])
    if left:
        table.add_row(f"… {left:,} more", "", "", "")
    return table


def _value(value: Any, what: str) -> str:
    text = printable(short(msgspec.json.encode(value).decode(), SHOWN))
    return f"{type_of(value)} {text}" if what == "type" else text


def _title(out: Out, text: str) -> None:
    out.put(Text(f"\n{text}", style="bold"))


def _facts(out: Out, facts: Mapping[str, str]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold", style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            table.add_row(name, Text(value.strip("\n")))
    out.put(Padding(table, (0, 0, 0, 2)))
