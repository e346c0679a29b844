"""One log of the output of several processes: whole lines, each with a process's name.

A thread writes the log, so that a slow reader of it holds up the processes that produce output, and
nothing else of this process.
"""

import asyncio
import os
import queue
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from famulus.formatting import printable_lines

CHUNK_BYTES = 2**16  # most of one read
QUEUED = 64  # chunks that wait for the reader of the log
LINE_BYTES_MAX = 2**20  # a longer line is written in pieces
LOOK_S = 0.05  # between two attempts while there is no room
SAY_S = 1.0  # limit for a line of this process, which must not wait for a blocked reader
CLOSE_S = 3.0  # limit for the lines that are left at the end


class OneLog:
    """Standard output as the log of several processes; an async context manager.

    Output that cannot be written, because the reader is gone or the disk is full, is dropped.
    """

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._queue = queue.Queue[bytes | None](QUEUED)
        self._thread = threading.Thread(target=self._write_all, name="one log", daemon=True)

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._put(None), CLOSE_S)
            await asyncio.to_thread(self._thread.join, CLOSE_S)

    async def say(self, name: str, line: str) -> None:
        """Write *line* under *name*; drop it if there is no room for it within `SAY_S`."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._put(_lines(name, line.encode())), SAY_S)

    async def carry(self, name: str, output: asyncio.StreamReader) -> None:
        """Write the lines of *output* under *name*, until its end."""
        begun = b""
        while chunk := await output.read(CHUNK_BYTES):
            whole, separator, begun = (begun + chunk).rpartition(b"\n")
            if separator:
                await self._put(_lines(name, whole))
            if len(begun) > LINE_BYTES_MAX:
                await self._put(_lines(name, begun))
                begun = b""
        if begun:
            await self._put(_lines(name, begun))

    async def _put(self, text: bytes | None) -> None:
        while True:
            try:
                self._queue.put_nowait(text)
            except queue.Full:
                await asyncio.sleep(LOOK_S)
            else:
                return

    def _write_all(self) -> None:
        while (text := self._queue.get()) is not None:
            left = memoryview(text)
            while left:
                try:
                    left = left[os.write(self._descriptor, left) :]
                except BlockingIOError:  # another process has made the descriptor non-blocking
                    time.sleep(LOOK_S)
                except OSError:  # the reader is gone, or the disk is full: workers continue
                    break


def _lines(name: str, text: bytes) -> bytes:
    """Put *name* before each line, and escape characters that a terminal would obey."""
    lines = printable_lines(text.decode("utf-8", "backslashreplace")).split("\n")
    return "".join(f"{name} | {line}\n" for line in lines).encode("utf-8", "backslashreplace")
