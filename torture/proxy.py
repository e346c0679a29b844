"""A network between workers and their broker that can be hurt: a proxy on 127.0.0.1 that knows Kafka's frames."""

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from famulus.dev.node import HOST
from torture.frames import Conversation, Frame, Side, checked

Deed = Literal["reset", "swallow", "hold", "flip"]
LIMIT_S = 5.0
STILL_S = 0.05  # between two looks whether frames may pass again
PIECES = 20  # about so many of a frame that is split
TICKS = 20  # in a second, at which a throttled connection passes bytes
ABORT = struct.pack("ii", 1, 0)  # lingers for no time: the socket is closed by a reset


@dataclass(frozen=True)
class Weather:
    """How all connections fare; as it stands here, well."""

    is_refusing: bool = False  # new connections
    is_still: bool = False  # nothing passes, and nobody is told
    is_splitting: bool = False  # frames arrive in small pieces
    latency_s: float = 0.0  # one way
    bytes_per_s: int = 0  # of a connection one way, 0 for no limit


@dataclass
class Rule:
    """What is done to frames of one *side* and of *apis*, so many *times*.

    `reset` closes the connection instead, `swallow` keeps it, `hold` keeps the frame for *hold_s*,
    and with it those behind it; `flip` changes a byte of a record batch, in frames that carry one.
    """

    deed: Deed
    side: Side
    apis: frozenset[int]
    times: int
    hold_s: float = 0.0
    hits: int = 0

    def takes(self, frame: Frame) -> bool:
        """Whether it is about *frame*, which is counted then."""
        is_meant = frame.side == self.side and frame.api in self.apis
        if (
            not is_meant
            or self.hits == self.times
            or (self.deed == "flip" and not any(checked(frame.data)))
        ):
            return False
        self.hits += 1
        return True


class Proxy:
    """Passes on what comes to *port* to *target*.

    `weather` and `rules` may be set at any time, from any thread.
    """

    def __init__(self, port: int, target: Callable[[], int], chance: random.Random) -> None:
        self.port = port
        self.weather = Weather()
        self.rules: list[Rule] = []
        self._target = target
        self._chance = chance
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()
        serving = asyncio.start_server(self._serve, HOST, self.port)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result(LIMIT_S)

    def stop(self) -> None:
        """End every connection, and listen no more."""
        if not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(LIMIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT_S)
        self._loop.close()

    def clear(self) -> None:
        """Let everything pass from now on."""
        self.rules, self.weather = [], Weather()

    def close(self, *, is_reset: bool) -> int:
        """End all connections, by a reset or in order, and say how many there were."""
        number = len(self._writers) // 2
        self._loop.call_soon_threadsafe(
            self._close_all, _abort if is_reset else asyncio.StreamWriter.close
        )
        return number

    def _close_all(self, closing: Callable[[asyncio.StreamWriter], None]) -> None:
        for writer in list(self._writers):
            closing(writer)

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.weather.is_refusing:
            _abort(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(HOST, self._target())
        except OSError:
            _abort(writer)
            return
        both = {writer, far_writer}
        self._writers |= both
        conversation = Conversation()
        ways = {
            asyncio.create_task(self._pass_on(reader, far_writer, conversation.request)),
            asyncio.create_task(self._pass_on(far_reader, writer, conversation.answer)),
        }
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if any(isinstance(way.exception(), _ResetError) for way in done):
                self._close(both, _abort)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._close(both, asyncio.StreamWriter.close)
            self._writers -= both

    def _close(
        self, writers: set[asyncio.StreamWriter], closing: Callable[[asyncio.StreamWriter], None]
    ) -> None:
        for writer in writers:
            closing(writer)

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        read: Callable[[bytes], Frame],
    ) -> None:
        while True:
            size = await reader.readexactly(4)
            frame = read(await reader.readexactly(int.from_bytes(size, "big")))
            while self.weather.is_still:  # set by another thread
                await asyncio.sleep(STILL_S)
            data = frame.data
            rule = next((rule for rule in self.rules if rule.takes(frame)), None)
            if rule is not None:
                if rule.deed == "reset":
                    raise _ResetError
                if rule.deed == "swallow":
                    continue
                if rule.deed == "flip":
                    data = flipped(data, self._chance)
                await asyncio.sleep(rule.hold_s)
            await asyncio.sleep(self.weather.latency_s)
            await self._write(writer, size + data)

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        at = 0
        while at < len(data):
            weather = self.weather
            end = len(data)
            if weather.is_splitting:
                end = at + self._chance.randint(1, 1 + len(data) // PIECES * 2)
            elif weather.bytes_per_s:
                end = at + max(1, weather.bytes_per_s // TICKS)
            writer.write(data[at:end])
            await writer.drain()
            at = end
            if weather.is_splitting or weather.bytes_per_s:
                await asyncio.sleep(0 if weather.is_splitting else 1 / TICKS)


class _ResetError(Exception):
    """A rule wants the connection closed."""


def flipped(data: bytes, chance: random.Random) -> bytes:
    """The same with one byte of a record batch changed, which has one."""
    at = chance.choice(chance.choice(list(checked(data))))
    return data[:at] + bytes([data[at] ^ chance.randrange(1, 256)]) + data[at + 1 :]


def _abort(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    writer.transport.abort()
