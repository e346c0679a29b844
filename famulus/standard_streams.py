"""Standard streams that are safe for terminals, for any encoding, and when closed.

A stream that was closed (`>&-`) leaves its descriptor to the next open file, such as a connection,
into which texts would then go. The descriptor is therefore taken by something that cannot be read
or written.
"""

import io
import os
import sys
from functools import cached_property
from typing import NoReturn

from famulus.errors import StreamError
from famulus.formatting import printable_lines

NAMES = "standard input", "standard output", "standard error"


class ReaderGoneError(Exception):
    """The reader of an output has gone, as behind `| head`. This is no fault."""


class SafeStream(io.TextIOWrapper):
    """Standard output or error in which unprintable characters become escapes.

    Line breaks and tabs stay. The stream is no terminal for code that would style its text. rich
    writes to `rich_proxied_file`, where styles pass: `cli.output` escapes the texts inside of them.
    """

    def __init__(self, descriptor: int, encoding: str) -> None:
        self._number = descriptor
        self._is_terminal = os.isatty(descriptor)
        super().__init__(
            io.BufferedWriter(io.FileIO(descriptor, "wb", closefd=False)),
            encoding=encoding,
            errors="backslashreplace",
            line_buffering=self._is_terminal or descriptor == 2,
        )

    @cached_property
    def rich_proxied_file(self) -> "Styled":
        """The way past the escaping, for texts that are escaped already."""
        return Styled(self, is_terminal=self._is_terminal)

    def isatty(self) -> bool:
        """No: control sequences would be escaped."""
        return False

    def write(self, text: str) -> int:
        """Write it, escaped. Raises ReaderGoneError, StreamError."""
        self.write_styled(printable_lines(text))
        return len(text)

    def write_styled(self, text: str) -> None:
        """Write it as it is. Raises as `write`."""
        try:
            super().write(text)
        except OSError as error:
            self._fail(error)

    def flush(self) -> None:
        """Have it leave. Raises as `write`."""
        try:
            super().flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> NoReturn:
        # What is left cannot be written either; the end of the process would try, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._number)
        if isinstance(error, BrokenPipeError):
            raise ReaderGoneError from None
        raise StreamError(f"{NAMES[self._number]} cannot be written: {error.strerror}") from None


class Styled:
    """A SafeStream for rich, which writes styles around texts that were escaped."""

    def __init__(self, stream: SafeStream, *, is_terminal: bool) -> None:
        self.encoding = stream.encoding
        self._stream, self._is_terminal = stream, is_terminal

    def isatty(self) -> bool:
        """Return True if the stream is a terminal."""
        return self._is_terminal

    def write(self, text: str) -> int:
        """Write it. Raises as the stream does."""
        self._stream.write_styled(text)
        return len(text)

    def flush(self) -> None:
        """Have it leave. Raises as the stream does."""
        self._stream.flush()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._stream.fileno()


def hold() -> None:
    """Take the descriptors of closed streams by something that cannot be used."""
    for descriptor, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)  # noqa: FBT003  # Python's


def make_safe() -> None:
    """Have this process write through SafeStreams, and have all three streams be there."""
    hold()
    if sys.stdin is None:
        # For as long as the process lives.
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not None:
            stream.flush()
        setattr(sys, name, SafeStream(descriptor, getattr(stream, "encoding", None) or "utf-8"))


def make_lenient() -> None:
    """Have the streams of this process take every character, as they are otherwise."""
    hold()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
