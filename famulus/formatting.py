"""Formatting for people: escaped text, errors, values, times, counts. Pure."""

import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import msgspec

LINES_MAX = 200  # of a value
HEX_BYTES_MAX = 512
_url = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://)([^/?#\s]*@)?([^?#\s\"'<>]*)([?#][^\s\"'<>]+)?")
_json_token = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
UNITS = (("d", 86_400.0), ("h", 3600.0), ("min", 60.0))


def printable(text: str) -> str:
    """Escape the characters of *text* that a terminal would obey, or that are invisible."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """Escape a text of several lines as `printable` does; line breaks and tabs stay."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


def printable_json(encoded: bytes) -> str:
    """Return JSON as one line in which every unprintable character is an escape."""
    text = encoded.decode()
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else " " if c in "\n\t\r" else _json_escape(c) for c in text
    )


def ascii_json(encoded: bytes) -> str:
    """Return JSON as one line of ASCII."""
    text = printable_json(encoded)
    return text if text.isascii() else "".join(c if c.isascii() else _json_escape(c) for c in text)


def _json_escape(character: str) -> str:
    """Return a character as a JSON escape; outside of strings JSON has none that need it."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def without_mark(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a file without the byte order mark that some editors write."""
    return (line if at else line.removeprefix(BOM_UTF8) for at, line in enumerate(lines))


def text_of(error: BaseException) -> str:
    """Return the text of an error, or a replacement if making the text fails."""
    try:
        # Of the very class `str`: that of a subclass could do anything later.
        return str.__str__(str(error))
    except BaseException:  # such as SystemExit: it ends at this error
        return f"{type(error).__name__} (its text cannot be made)"


def short(text: str, most: int) -> str:
    """Cut *text* to *most* characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def starred(text: str) -> str:
    """Replace users, passwords and signatures in the URLs of *text* by stars."""
    return _url.sub(
        lambda url: f"{url[1]}{'***@' if url[2] else ''}{url[3]}{'?***' if url[4] else ''}", text
    )


def time_text(ms: int) -> str:
    """Format a time (ms since 1970) for people, in UTC."""
    return iso(ms).split(".")[0].replace("T", " ")


def iso(ms: int) -> str:
    """Format a time (ms since 1970) for programs.

    A sender may write a time that no calendar has: it is returned as a number.
    """
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"


def number(count: int, what: str) -> str:
    """Format a count with its noun, in the plural unless it is one."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def behind_transaction(place: str, since: int) -> str:
    """Say that what stands in *place* from offset *since* on cannot be read yet."""
    return (
        f"{place} is behind an open transaction since offset {since}: it is read on when "
        "that has ended"
    )


def duration(seconds: float | None) -> str:
    """Format a duration for people, `-` for None."""
    if seconds is None:
        return "-"
    for unit, size in UNITS:
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def value_text(value: bytes | None) -> str:
    """Format a value for people: JSON by lines, other text escaped, bytes in hexadecimal.

    A long value is cut.
    """
    if value is None:
        return "no value"
    try:
        msgspec.json.decode(value)
        lines, more = _indented(value.decode())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        lines, more = _escaped(value), 0
    more += max(len(lines) - LINES_MAX, 0)
    lines = [printable(short(line, 2_000)) for line in lines[:LINES_MAX]]
    return "\n".join(
        [*lines, *([f"… {number(more, 'more line')}: --json shows all"] if more > 0 else [])]
    )


def _indented(json: str) -> tuple[list[str], int]:
    """Return the first lines of valid *json*, one value in each, and the number of the others.

    The others take no memory.
    """
    lines, count, depth, before = [""], 1, 0, ""
    for token in _json_token.finditer(json):
        text = token[0]
        is_first, closes = before in {"{", "["}, text in {"}", "]"}
        depth -= closes
        if before == "," or is_first != closes:  # what is empty stays in its line
            count += 1
            if count <= LINES_MAX:
                lines.append("  " * depth)
        if count <= LINES_MAX:
            lines[-1] += ": " if text == ":" else text
        depth += text in {"{", "["}
        before = text
    return lines, count - len(lines)


def _escaped(value: bytes) -> list[str]:
    try:
        return [value.decode()]
    except UnicodeDecodeError:
        rows = [value[at : at + 16] for at in range(0, min(len(value), HEX_BYTES_MAX), 16)]
        shown = [
            f"{row.hex(' '):47}  {''.join(chr(b) if 32 <= b < 127 else '.' for b in row)}"
            for row in rows
        ]
        left = len(value) - HEX_BYTES_MAX
        return shown + ([f"… {number(left, 'more byte')}: --json shows all"] if left > 0 else [])
