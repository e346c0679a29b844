"""Log lines that nobody else can write: whatever comes from outside is a part of one line, and no terminal obeys it.

An event's id, its key, the text of an error are what a sender likes them to be: line breaks that look like events of
their own, ANSI escapes, letters that run backwards, megabytes (CWE-117). So each value of a log event of ours is
escaped and cut. What others log, Faust and aiokafka, keeps its line breaks, with what follows the first one indented;
so do tracebacks, whose last line is an error's text.
"""

import logging
import traceback
from collections.abc import MutableMapping
from typing import Any

import structlog

from app.text import printable, short

VALUE_CHARACTERS = 1_000  # of one value
TEXT_CHARACTERS = 20_000  # of what others log, and of a traceback
INDENT = "\n  "


def plain_logs() -> None:
    """Have our log events be lines of Python's own log, and have no line be forged. Tracebacks name no variables."""
    logging.setLogRecordFactory(SafeRecord)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            as_line,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def as_line(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> str:
    """A log event of ours: one line, and a traceback below it if there is one."""
    trace = str(fields.pop("exception", ""))
    words = [said(fields.pop("event")), *(f"{said(name)}={said(value)}" for name, value in fields.items())]
    return " ".join(words) + (f"\n{trace}" if trace else "")


def said(value: object) -> str:
    """*value* as a part of a line."""
    return printable(short(str(value), VALUE_CHARACTERS))


def safe(text: str) -> str:
    """*text*, which may have several lines: the first one as it is, the others indented, all of them printable."""
    if text.isprintable() and len(text) <= TEXT_CHARACTERS:
        return text
    return INDENT.join(printable(line) for line in short(text, TEXT_CHARACTERS).split("\n"))


class SafeRecord(logging.LogRecord):
    """A record of Python's log, whoever makes it, whose text is safe."""

    def getMessage(self) -> str:  # noqa: N802  # Python's name
        """The text; the traceback, which formatters put below it, is made here, since they would quote as they like."""
        if self.exc_info and not self.exc_text and self.exc_info[0] is not None:
            trace = "".join(traceback.format_exception(*self.exc_info)).rstrip("\n")
            self.exc_text = safe(f"\n{trace}").removeprefix("\n")
        return safe(super().getMessage())
