"""Dead letters for programs: one JSON object a line."""

from typing import Any

import msgspec

from famulus.cli.output import raw_json
from famulus.deadletter.dead_letter import DeadLetter, Done
from famulus.deadletter.index import Entry, text_of
from famulus.formatting import iso
from famulus.inspection.deadletters.causes import CauseGroup
from famulus.inspection.deadletters.description import TOO_DEEP
from famulus.inspection.deadletters.detail import LetterDetail
from famulus.inspection.deadletters.dry_run import DryRunResult

KEYS = 10  # listed for each cause


def group_json(topic: str, group: CauseGroup) -> dict[str, object]:
    """Return one cause as an object for JSON."""
    cause = group.cause
    return {
        "topic": topic,
        "cause": cause.id,
        "failure": cause.kind,
        "handler": cause.handler or None,
        "error": cause.error,
        "place": cause.place,
        "message": group.message,
        "letters": group.count,
        "keys": len(group.keys),
        "some_keys": [text_of(key) for key in group.keys[:KEYS]],
        "first": iso(group.first_ms),
        "last": iso(group.last_ms),
        "newest": str(group.newest.id.origin),
    }


def trial_json(trial: DryRunResult) -> dict[str, object]:
    """Return the result of the dry run of one dead letter as an object for JSON."""
    return {
        "origin": str(trial.entry.id.origin),
        "cause": trial.entry.cause.id,
        "verdict": trial.verdict,
        "handler": trial.handler or None,
        "error": trial.error or None,
        "message": trial.message or None,
        "rows": [
            {
                "table": row.table,
                "key": row.key,
                "before": _raw(row.before),
                "after": _raw(row.after),
            }
            for row in trial.rows
        ],
        "events": [
            {"topic": topic, "type": event_type, "key": key}
            for topic, event_type, key in trial.events
        ],
    }


def sight_json(sight: LetterDetail) -> dict[str, object]:
    """Return the details of one dead letter as an object for JSON.

    A value that is not JSON is given in hexadecimal.
    """
    content = raw_json(sight.value)
    letter = sight.letter
    return {
        **letter_json(sight.entry, letter),
        "group": letter.group,
        "version": letter.version,
        "event_type": sight.event_type or None,
        "value": content,
        **({} if content is not None or sight.value is None else {"value_hex": sight.value.hex()}),
        "value_bytes": letter.value_bytes,
        "value_gone": sight.gone or None,
        "fault": sight.fault or None,
        "headers": [[name, text_of(of or b"")] for name, of in sight.headers],
        "edited": letter.edited or None,
        "audit": list(sight.audits),
        "compared_with": str(sight.good) if sight.good is not None else None,
        "differences": [
            {"path": d.path, "what": d.what, "here": _shallow(d.here), "there": _shallow(d.there)}
            for d in sight.differences
        ],
    }


def _shallow(value: Any) -> Any:  # Any: JSON
    """Return *value* encoded, or a remark when it is nested too deeply for a line."""
    try:
        return msgspec.Raw(msgspec.json.encode(value))
    except RecursionError:
        return TOO_DEEP


def _raw(value: str | None) -> msgspec.Raw | None:
    return None if value is None else msgspec.Raw(value.encode())


def sent_json(entry: Entry, action: Done, stays: str) -> dict[str, object]:
    """Return the outcome of redriving or dropping one dead letter as an object for JSON."""
    return {
        "origin": str(entry.id.origin),
        "hops": entry.id.hops,
        "only": entry.id.only or None,
        "cause": entry.cause.id,
        "action": action,
        "done": not stays,
        "stays": stays or None,
    }


def letter_json(entry: Entry, letter: DeadLetter | None) -> dict[str, object]:
    """Return one dead letter as an object for JSON.

    Without a DeadLetter, the object has only what the index knows of it.
    """
    cause = entry.cause
    found: dict[str, object] = {
        "origin": str(entry.id.origin),
        "cause": cause.id,
        "failure": cause.kind,
        "handler": cause.handler or None,
        "error": cause.error,
        "place": cause.place,
        "key": None if entry.key is None else text_of(entry.key),
        "failed_at": iso(entry.at_ms),
        "hops": entry.id.hops,
        "only": entry.id.only or None,
        "settled": None
        if entry.settled is None
        else {"what": entry.settled.what, "at": iso(entry.settled.at_ms)},
    }
    if letter is not None:
        found |= {
            "message": letter.message,
            "event_id": letter.event_id,
            "attempts": letter.attempts,
        }
    return found
