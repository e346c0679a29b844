"""Log lines that nobody else can write: whatever comes from outside is a part of one line, and no terminal obeys it.

An event's id, its key, the text of an error are what a sender likes them to be: line breaks that
look like events of their own, ANSI escapes, letters that run backwards, megabytes (CWE-117). So
each value of a log event of ours is escaped and cut. What others log, Faust and aiokafka, keeps its
line breaks, with what follows the first one indented; so do tracebacks.

The text of an error may quote the event that it is about: it is in no line of ours, of Faust or of
the libraries below, unless its class quotes nothing. What handlers log by loggers of their own is
their business.
"""

import asyncio
import logging
import re
import sys
import traceback
from collections.abc import MutableMapping
from traceback import TracebackException
from typing import Any

import structlog
from aiokafka.errors import KafkaError

from famulus.errors import DecodeError, OperatingError
from famulus.formatting import printable, short, text_of

VALUE_CHARACTERS = 1_000  # of one value
TEXT_CHARACTERS = 20_000  # of what others log, and of a traceback
INDENT = "\n  "
OURS = {
    "app",
    "famulus",
    "faust",
    "mode",
    "asyncio",
    "aiokafka",
    "aiohttp",
    "concurrent",
}  # loggers that quote no error
# Such as they are made here and by the client.
QUOTING_NOTHING = OperatingError, DecodeError, KafkaError
WITHHELD = "(its text is not shown: it may quote an event)"
_of_the_system = re.compile(r"\[Errno -?\d+\] [A-Z][A-Za-z /-]*")


def plain_logs() -> None:
    """Have our log events be lines of Python's own log, and have no line be forged.

    Tracebacks name no variables.
    """
    logging.setLogRecordFactory(SafeRecord)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.processors.StackInfoRenderer(),
            format_error,
            as_line,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def described(error: BaseException) -> str:
    """An error for a line of ours: its type and the line of code that raised it, and its text if it quotes nothing."""
    name = type(error).__name__
    if (text := _quotable(type(error), text_of(error))) is not None:
        return text if name in text else f"{name}: {text}"  # Kafka's name themselves
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return (
        f"{name} at {step.tb_frame.f_globals.get('__name__', '?')}:{step.tb_lineno}"
        if step is not None
        else name
    )


def _quotable(error_type: type[BaseException] | None, text: str) -> str | None:
    """What of the *text* of such an error may be told, None for nothing."""
    if error_type is None or issubclass(error_type, QUOTING_NOTHING):
        return text
    found = _of_the_system.match(text) if issubclass(error_type, OSError) else None
    return found[0] if found is not None else None


def trace_of(error: BaseException) -> str:
    """The traceback of *error* and of what led to it, with steps and types, without texts that may quote something."""
    whole = TracebackException.from_exception(error)
    left = [whole]
    while left:
        part: Any = left.pop()  # its text has no public name
        text = _quotable(part.exc_type, str(part))
        part._str, part.__notes__ = WITHHELD if text is None else text, None
        if isinstance(part.exc_type, type) and issubclass(part.exc_type, SyntaxError):
            part.msg, part.text, part.filename = WITHHELD, None, None
        left += [
            other
            for other in (part.__cause__, part.__context__, *(part.exceptions or ()))
            if other is not None
        ]
    return "".join(whole.format()).rstrip("\n")


def is_ours(logger: str) -> bool:
    """Whether a logger of that name is one whose lines quote no error."""
    return logger.partition(".")[0] in OURS


def format_error(
    logger: Any, method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Turn `exc_info` into the text of a traceback, as structlog does."""
    if not is_ours(str(getattr(logger, "name", "app"))):
        return structlog.processors.format_exc_info(logger, method, fields)
    error = fields.pop("exc_info", None)
    error = sys.exception() if error is True else error[1] if isinstance(error, tuple) else error
    if isinstance(error, BaseException):
        fields["exception"] = safe(f"\n{trace_of(error)}").removeprefix("\n")
    return fields


def as_line(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> str:
    """A log event of ours: one line, and a traceback below it if there is one."""
    trace = str(fields.pop("exception", ""))
    words = [
        said(fields.pop("event")),
        *(f"{said(name)}={said(value)}" for name, value in fields.items()),
    ]
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
        ours = is_ours(self.name)
        if self.exc_info and not self.exc_text and self.exc_info[1] is not None:
            error = self.exc_info[1]
            trace = (
                trace_of(error) if ours else "".join(traceback.format_exception(error)).rstrip("\n")
            )
            self.exc_text = safe(f"\n{trace}").removeprefix("\n")
        if ours and self.args:
            self.args = _without_errors(self.args)
        return safe(super().getMessage())


class _Described:
    """What stands in a line in the place of an error, however it is formatted."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _without_errors(args: Any) -> Any:  # Any: a tuple, or the mapping that was its only element
    """The arguments of a line without errors, and without tasks, whose texts quote how they ended."""
    if isinstance(args, tuple):
        return tuple(_without_error(each) for each in args)
    return {name: _without_error(each) for name, each in args.items()}


def _without_error(value: object) -> object:
    if isinstance(value, BaseException):
        return _Described(described(value))
    if isinstance(value, asyncio.Future):
        return _Described(f"<{type(value).__name__} {name_of(value)}>")
    return value


def name_of(future: "asyncio.Future[Any] | None") -> str:
    """What *future* runs, by its name in the code.

    The name that somebody gave a task may quote something.
    """
    coroutine = future.get_coro() if isinstance(future, asyncio.Task) else None
    return str(getattr(coroutine, "__qualname__", "")) or "of nothing that has a name"
