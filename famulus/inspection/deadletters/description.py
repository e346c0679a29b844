"""Text that describes dead letters, for the terminal and for web pages."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from famulus.deadletter.dead_letter import Cause
from famulus.deadletter.failure_kind import explanation_of
from famulus.deadletter.index import HOPS_MAX, Plan, text_of
from famulus.formatting import number, printable, short, time_text
from famulus.inspection.deadletters.detail import LetterDetail
from famulus.inspection.deadletters.diff import Difference, Differences, What, cut_path, type_of

TOO_DEEP = "(nested too deeply to be shown)"
TOO_OFTEN = f"redriven {HOPS_MAX} times already: redrive with --force, or drop"
VALUES_SHOWN = 20  # differences shown where only the values of a field differ
LINES_MAX = 100  # differences of each other sort shown
SHOWN = 60  # characters of a value shown
OURS = re.compile(r"^(builtins|app|famulus)\.(\w+\.)*(?=\w+$)")
WHAT: dict[What, str] = {
    "missing": "missing",
    "added": "added",
    "type": "other type",
    "value": "other value",
}


def error_name(name: str) -> str:
    """Return the *name* of an error type, without the module if Python's or the engine's.

    Older versions had the errors of the engine in a package `app`.
    """
    return OURS.sub("", name)


def why(cause: Cause) -> str:
    """Describe a cause in one line."""
    error = error_name(cause.error)
    return printable(f"{cause.kind}: {error}" + (f" in {cause.handler}" if cause.handler else ""))


def key_text(key: bytes | None) -> str:
    """Return a key as printable text."""
    return "(none)" if key is None else printable(text_of(key))


def otherwise(plan: Plan) -> list[str]:
    """Describe how *plan* deviates from the request, one line for each kind of deviation."""
    said = []
    for entries, one, many in (
        (
            plan.added,
            "goes along, since another waits behind it",
            "go along, since others wait behind them",
        ),
        (plan.refused, f"stays, {TOO_OFTEN}", f"stay, {TOO_OFTEN}"),
        (plan.held, "stays behind one that stays", "stay behind one that stays"),
    ):
        if entries:
            what = f"{number(len(entries), 'letter')} {one if len(entries) == 1 else many}"
            first = (
                f" (the first: {entries[0].id.origin})"
                if len(entries) > 1
                else f" ({entries[0].id.origin})"
            )
            said.append(f"{what}{first}")
    return said


def facts_of(sight: LetterDetail) -> dict[str, str]:
    """Return the facts known of a dead letter, by name, without its value.

    Empty ones are left out.
    """
    letter, cause = sight.letter, sight.letter.cause
    attempts = f"after {number(letter.attempts, 'attempt')}" if letter.attempts else ""
    since = f"the first {time_text(letter.first_ms)} UTC" if letter.attempts > 1 else ""
    facts = {
        "cause": f"{cause.id}  {why(cause)}\n{explanation_of(cause.kind)}",
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
    }
    return {name: value.strip("\n") for name, value in facts.items() if value}


def done_to(sight: LetterDetail) -> list[str]:
    """Describe the earlier actions on the event, one line each."""
    return [
        printable(
            (
                f"{time_text(audit.at_ms)} UTC  {audit.action}{', edited' if audit.edited else ''} "
                f"by {audit.who}"
            )
            + (f": {audit.note}" if audit.note else "")
        )
        for audit in sight.audits
    ]


class Row(NamedTuple):
    """One difference as text.

    *is_faint*: only the value differs, as it does between good events, too.
    """

    path: str
    what: str
    here: str
    there: str
    is_faint: bool


def difference_rows(found: Sequence[Difference], fault: str = "") -> tuple[list[Row], int]:
    """Return the most telling differences as rows, and the number of those left out.

    Differences at the path *fault* come first, then missing, added and retyped fields, then fields
    with other values.
    """
    fault = cut_path(fault)
    faults = [difference for difference in found if difference.path == fault]
    says = [
        difference
        for difference in found
        if difference.what != "value" and difference.path != fault
    ]
    values = [
        difference
        for difference in found
        if difference.what == "value" and difference.path != fault
    ]
    rows = []
    for difference in [*faults[:LINES_MAX], *says[:LINES_MAX], *values[:VALUES_SHOWN]]:
        what = "at fault" if difference.path == fault else WHAT[difference.what]
        mine = "" if difference.what == "missing" else _value(difference.here, difference.what)
        other = "" if difference.what == "added" else _value(difference.there, difference.what)
        rows.append(Row(printable(difference.path), what, mine, other, what == WHAT["value"]))
    uncounted = found.left if isinstance(found, Differences) else 0
    return rows, len(says[LINES_MAX:]) + len(values[VALUES_SHOWN:]) + uncounted


def _value(value: Any, what: str) -> str:  # Any: JSON
    try:
        text = printable(short(msgspec.json.encode(value).decode(), SHOWN))
    except RecursionError:
        text = TOO_DEEP
    return f"{type_of(value)} {text}" if what == "type" else text
