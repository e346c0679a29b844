"""Durations as people write them: number and unit, such as `30s`, `10m`, `1.5h` or `3d`. Pure."""

import re

_said = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds_in(text: str) -> float | None:
    """Parse a duration to seconds, None for another text."""
    found = _said.fullmatch(text)
    return float(found[1]) * _UNITS_S[found[2]] if found is not None else None
