"""Logs that are safe against injection and do not quote events.

A sender chooses the id and the key of an event, and with them parts of error texts: line breaks
that look like further log events, ANSI escapes, characters that change the direction of text,
megabytes of data (CWE-117). Each value of a log event of the engine is therefore escaped and cut.
Log texts of Faust and aiokafka, and tracebacks, keep their line breaks, with all lines after the
first one indented.

The text of an error may quote the event that it is about. Lines of the engine, of Faust and of the
libraries below contain the text only if the class of the error never quotes an event. Lines that
handlers log by loggers of their own are not changed in this respect.
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

VALUE_CHARACTERS = 1_000  # maximum of one value
TEXT_CHARACTERS = 20_000  # maximum of a text logged by others, and of a traceback
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
}  # loggers whose lines have no error texts, except of the classes below
# The texts of these errors, as the engine and aiokafka write them, never quote an event.
QUOTING_NOTHING = OperatingError, DecodeError, KafkaError
WITHHELD = "(its text is not shown: it may quote an event)"
_of_the_system = re.compile(r"\[Errno -?\d+\] [A-Z][A-Za-z /-]*")


def plain_logs() -> None:
    """Configure structlog and Python's logging so that no log line can be forged.

    Log events of the engine become lines of Python's logging. Tracebacks contain no variables.
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
    """Describe an error for a log line, without quoting an event.

    The description is the type of the error and its text. If that text may quote an event, it is
    the type and the line of code that raised the error.
    """
    name = type(error).__name__
    if (text := _quotable(type(error), text_of(error))) is not None:
        return text if name in text else f"{name}: {text}"  # Kafka's begin with their type
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return (
        f"{name} at {step.tb_frame.f_globals.get('__name__', '?')}:{step.tb_lineno}"
        if step is not None
        else name
    )


def _quotable(error_type: type[BaseException] | None, text: str) -> str | None:
    """Return the part of an error's *text* that may be logged, None if there is none."""
    if error_type is None or issubclass(error_type, QUOTING_NOTHING):
        return text
    found = _of_the_system.match(text) if issubclass(error_type, OSError) else None
    return found[0] if found is not None else None


def trace_of(error: BaseException) -> str:
    """Return the traceback of *error* and its causes, without texts that may quote an event."""
    whole = TracebackException.from_exception(error)
    left = [whole]
    while left:
        part: Any = left.pop()  # Any: the text has no public attribute
        # The public name is deprecated since Python 3.13, without another that gives the type.
        error_type = vars(part).get("_exc_type", vars(part).get("exc_type"))
        text = _quotable(error_type, str(part))
        part._str, part.__notes__ = WITHHELD if text is None else text, None
        if isinstance(error_type, type) and issubclass(error_type, SyntaxError):
            part.msg, part.text, part.filename = WITHHELD, None, None
        left += [
            other
            for other in (part.__cause__, part.__context__, *(part.exceptions or ()))
            if other is not None
        ]
    return "".join(whole.format()).rstrip("\n")


def is_ours(logger: str) -> bool:
    """Return whether lines of the logger named *logger* must not quote errors."""
    return logger.partition(".")[0] in OURS


def format_error(
    logger: Any, method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Turn `exc_info` into the text of a traceback, as a processor of structlog."""
    if not is_ours(str(getattr(logger, "name", "app"))):
        return structlog.processors.format_exc_info(logger, method, fields)
    error = fields.pop("exc_info", None)
    error = sys.exception() if error is True else error[1] if isinstance(error, tuple) else error
    if isinstance(error, BaseException):
        fields["exception"] = safe(f"\n{trace_of(error)}").removeprefix("\n")
    return fields


def as_line(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> str:
    """Format a log event of the engine as one line, with its traceback below."""
    trace = str(fields.pop("exception", ""))
    words = [
        said(fields.pop("event")),
        *(f"{said(name)}={said(value)}" for name, value in fields.items()),
    ]
    return " ".join(words) + (f"\n{trace}" if trace else "")


def said(value: object) -> str:
    """Return *value* as printable text for a log line, cut if it is long."""
    return printable(short(str(value), VALUE_CHARACTERS))


def safe(text: str) -> str:
    """Return *text* with printable lines, all but the first one indented, cut if it is long."""
    if text.isprintable() and len(text) <= TEXT_CHARACTERS:
        return text
    return INDENT.join(printable(line) for line in short(text, TEXT_CHARACTERS).split("\n"))


class SafeRecord(logging.LogRecord):
    """Log record of Python's logging whose text is safe, for all loggers of the process."""

    def getMessage(self) -> str:  # noqa: N802  # Python's name
        """Return the safe text of the record, and set the text of its traceback.

        Formatters put that traceback below the line. Without it they would format one of their own,
        which may quote an event.
        """
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
    """Placeholder of an error in a log line, with the same text in every format."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _without_errors(args: Any) -> Any:  # Any: a tuple, or the mapping that was its only element
    """Replace errors in the arguments of a log line, and tasks, whose texts quote errors."""
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
    """Return the name in the code of the coroutine that *future* runs.

    The name of the task itself is not used, since it may quote an event.
    """
    coroutine = future.get_coro() if isinstance(future, asyncio.Task) else None
    return str(getattr(coroutine, "__qualname__", "")) or "of nothing that has a name"
