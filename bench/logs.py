"""What a worker's log says about restoring its state."""

import re
from datetime import datetime
from typing import NamedTuple

OWN = re.compile(r"\brestored\s.*?\bpartitions=.*")
FIELD = re.compile(r"\b(\w+)=([\d.]+)")
COLOURS = re.compile(r"\x1b\[[\d;]*m")
# Stock Faust and Quix Streams, at info level.
BEGIN = re.compile(r"Restoring state from changelog topics|Beginning recovery check")
END = re.compile(r"Recovery complete|Recovery process complete")
TIME = re.compile(r"^\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3})\]")


class Restored(NamedTuple):
    """How many rows came back, None when the log does not say, and how long that took."""

    rows: int | None
    seconds: float


def restored(log: str) -> Restored | None:
    """What *log* says, None when it says nothing yet.

    The source is this worker's own line `restored records=.. rows=.. seconds=.. partitions=..`;
    several are added up. Without one, the time between the two lines with which Faust or Quix
    Streams begins and ends it.
    """
    lines = COLOURS.sub("", log).splitlines()
    own = [dict(FIELD.findall(line)) for line in lines if OWN.search(line)]
    if own:
        return Restored(sum(int(f["rows"]) for f in own), sum(float(f["seconds"]) for f in own))
    end = next((number for number, line in enumerate(lines) if END.search(line)), None)
    begins = [line for line in lines[:end] if BEGIN.search(line)]
    if end is None or not begins:
        return None
    return Restored(None, (_time(lines[end]) - _time(begins[-1])).total_seconds())


def _time(line: str) -> datetime:
    found = TIME.match(line)
    assert found is not None, f"a line without its time: {line}"
    # Two of one clock are subtracted.
    return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f")  # noqa: DTZ007
