"""`dlq show` as text: cause, value, headers, audit and difference of one dead letter.

The difference is that to the last good event of its type.
"""

from collections.abc import Mapping, Sequence

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from famulus.cli.output import Out
from famulus.deadletter.index import text_of
from famulus.formatting import number, printable, short, time_text, value_text
from famulus.inspection.deadletters.description import difference_rows, done_to, facts_of
from famulus.inspection.deadletters.detail import SCANNED, LetterDetail
from famulus.inspection.deadletters.diff import Difference
from famulus.serialization.json_codec import json_of

FAULT_SHOWN = 2_000  # characters of a fault


def print_sight(out: Out, sight: LetterDetail) -> None:
    """Print the details of one dead letter."""
    letter, settled = sight.letter, sight.entry.settled
    state = "open" if settled is None else f"{settled.what} {time_text(settled.at_ms)} UTC"
    out.put(Text.assemble((printable(str(letter.id.origin)), "bold"), f"  {state}"))
    _facts(out, facts_of(sight))
    size = (
        "no value" if sight.value is None and not sight.gone else number(letter.value_bytes, "byte")
    )
    _title(out, f"Value, {size}")
    out.put(
        Padding(
            Text(printable(sight.gone) if sight.gone else value_text(sight.value)), (0, 0, 0, 2)
        )
    )
    if sight.fault or not sight.gone:
        is_fine = not sight.fault
        says = (
            "It decodes with this code."
            if is_fine
            else f"It does not decode with this code: {printable(short(sight.fault, FAULT_SHOWN))}"
        )
        out.put(Padding(Text(says, style="green" if is_fine else "red"), (1, 0, 0, 2)))
    _title(out, "Headers of its sender")
    _facts(
        out,
        {printable(name): printable(text_of(of or b"")) for name, of in sight.headers}
        or {"none": " "},
    )
    if sight.audits:
        _title(out, "What was done")
        for line in done_to(sight):
            out.put(Padding(Text(line), (0, 0, 0, 2)))
    _print_differences(out, sight)


def _print_differences(out: Out, sight: LetterDetail) -> None:
    if sight.good is None:
        _title(out, f"No good event of its type among the {SCANNED:,} records before it")
        return
    _title(out, f"Beside {printable(str(sight.good))}, the last good event of its type before it")
    if not sight.differences:
        same = (
            "it is the same"
            if json_of(sight.value) is not None
            else "it cannot be compared: it is not JSON"
        )
        out.put(Padding(Text(same), (0, 0, 0, 2)))
        return
    out.put(
        Padding(
            difference_table(sight.differences, "here", "there", sight.fault.partition(": ")[0]),
            (0, 0, 0, 2),
        )
    )


def difference_table(found: Sequence[Difference], here: str, there: str, fault: str = "") -> Table:
    """Build a table with one row for each difference between *here* and *there*.

    *here* and *there* are the headings of the two values. The difference at the path *fault* comes
    first.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(
        "field", overflow="fold", min_width=min(30, max((len(d.path) for d in found), default=0))
    )
    table.add_column("", no_wrap=True)
    table.add_column(here, overflow="fold")
    table.add_column(there, overflow="fold")
    rows, left = difference_rows(found, fault)
    for row in rows:
        style = "dim" if row.is_faint else "red"
        table.add_row(
            Text(row.path, style=style),
            Text(row.what, style=style),
            Text(row.here),
            Text(row.there),
        )
    if left:
        table.add_row(f"… {left:,} more", "", "", "")
    return table


def _title(out: Out, text: str) -> None:
    out.put(Text(f"\n{text}", style="bold"))


def _facts(out: Out, facts: Mapping[str, str]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold", style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            table.add_row(name, Text(value))
    out.put(Padding(table, (0, 0, 0, 2)))
