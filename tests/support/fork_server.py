"""`faust` processes whose libraries are imported once: a server imports them, and each process is a fork of it.

Most of what a short process of `faust` does is to import the engine and its libraries. A fork has
its own arguments, variables, folder, streams and session, imports `app` itself, and ends as Python
ends. The tests signal it, wait for it and reap it like a child of theirs.

A process is started as ever where what Python or a library reads while it starts may differ: with
other variables than those of settings, or with arguments that Faust reads while it is imported.
"""

import asyncio
import atexit
import functools
import gc
import io
import json
import os
import re
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple, TextIO, cast

ROOT = Path(__file__).resolve().parents[2]
FAUST = Path(sys.executable).with_name("faust")
MODULE = [sys.executable, "-m", "faust"]
PROJECT = {"app", "agents", "models", "demo"}  # imported by each process
NOT_ALWAYS = {*PROJECT, "playwright"}
IMPORT = re.compile(r"^(?:from [\w.]+ import (?:\([^)]*\)|[^\n(]*)|import [^\n]*)", re.MULTILINE)
FIRST = [  # and what Faust and others import where it is used
    "import faust.cli.faust",
    "from faust import App",
    (
        "import faust.topics, faust.app.router, faust.fixups.django, faust.tables.objects, "
        "faust.tables.sets"
    ),
    "import faust.assignor.leader_assignor, faust.worker",
]
READ_BY_FAUST = {"-D", "--datadir", "-L", "--loop"}  # while it is imported
READ_LATE = {  # or never
    "COLUMNS",
    "EDITOR",
    "KAFKA_BOOTSTRAP_SERVERS",
    "LINES",
    "PYTEST_CURRENT_TEST",
    "PYTHONUNBUFFERED",
    "VISUAL",
}
ORDER_BYTES = 1 << 17
ENDED, REAP = b"e", b"r"
# The status, as wait(2) has it, and the seconds of CPU of user and system.
END = struct.Struct("=idd")


class Order(NamedTuple):
    """A process to be: its command, its folder, its environment, and whether it has a session of its own."""

    words: list[str]
    folder: str
    variables: dict[str, str]
    has_session: bool


class Process(subprocess.Popen[Any]):
    """What `subprocess.Popen` is in the tests: a fork of the server, where that makes no difference.

    *cpu_s* is what a fork has used by the time that it was waited for.
    """

    cpu_s = 0.0
    _line: socket.socket | None = None  # to the server, about this process

    def _execute_child(self, *given: Any) -> None:
        start = cast(Any, super())._execute_child
        how = signature(start).bind(*given).arguments
        if not is_alike(how):
            start(*given)
            return
        variables = dict(os.environ if how["env"] is None else how["env"])
        order = Order(
            [*map(os.fspath, how["args"])],
            os.fspath(how["cwd"] or Path.cwd()),
            variables,
            how["start_new_session"],
        )
        streams = [how["p2cread"], how["c2pwrite"], how["errwrite"]]
        self.pid, self._line = _server().fork(
            order, [n if fd == -1 else fd for n, fd in enumerate(streams)]
        )
        this = cast(Any, self)
        this._child_created = True
        this._close_pipe_fds(
            *(how[f"{name}{end}"] for name in ("p2c", "c2p", "err") for end in ("read", "write"))
        )

    def _try_wait(self, flags: int) -> tuple[int, int]:
        if self._line is None:
            return cast(tuple[int, int], cast(Any, super())._try_wait(flags))
        self._line.settimeout(0 if flags & os.WNOHANG else None)
        try:
            assert self._line.recv(1) == ENDED, "the fork server has ended"
        except BlockingIOError:
            return 0, 0
        self._line.settimeout(None)
        self._line.sendall(REAP)
        status, user_s, system_s = END.unpack(self._line.recv(END.size))
        self._line.close()
        self.cpu_s = user_s + system_s
        return self.pid, status

    def _internal_poll(self, *given: Any, **named: Any) -> int | None:
        if self._line is None:
            return cast(int | None, cast(Any, super())._internal_poll(*given, **named))
        this = cast(Any, self)
        if self.returncode is None and this._waitpid_lock.acquire(blocking=False):
            try:
                pid, status = (0, 0) if self.returncode is not None else self._try_wait(os.WNOHANG)
                if pid:
                    this._handle_exitstatus(status)
            finally:
                this._waitpid_lock.release()
        return cast(int | None, self.returncode)


def is_alike(how: Mapping[str, Any]) -> bool:
    """Whether a fork does what a process does that is started so, by the arguments of `Popen`."""
    words = (
        [os.fspath(how["args"])]
        if isinstance(how["args"], str | os.PathLike)
        else [*map(os.fspath, how["args"])]
    )
    if words[0] != str(FAUST) and words[: len(MODULE)] != MODULE:
        return False
    is_plain = not (how["preexec_fn"] or how["pass_fds"] or how["shell"]) and how[
        "process_group"
    ] in {None, -1}
    is_waited_for_by_asyncio = asyncio._get_running_loop() is not None
    variables = os.environ if how["env"] is None else how["env"]
    return (
        is_plain
        and not is_waited_for_by_asyncio
        and not READ_BY_FAUST.intersection(words)
        and not any(differing(variables, _server().variables))
    )


def differing(variables: Mapping[str, str], others: Mapping[str, str]) -> Iterator[str]:
    """The variables that differ, but for settings and what is read late."""
    for name in sorted({*variables, *others}):
        if variables.get(name) != others.get(name) and "__" not in name and name not in READ_LATE:
            yield name


class _Running:
    """The server of this process of the tests, and the variables that it was started with."""

    def __init__(self) -> None:
        self.variables = dict(os.environ)
        self._turn = threading.Lock()
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
        atexit.register(self.end)

    def fork(self, order: Order, streams: Sequence[int]) -> tuple[int, socket.socket]:
        """Fork for *order*: the process id, and the line to the server about it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._turn:
            socket.send_fds(self._orders, [json.dumps(order).encode()], [*streams, theirs.fileno()])
        return int(ours.recv(32)), ours

    def end(self) -> None:
        """End the server. What it has forked stays, as children do."""
        self._orders.close()
        self._process.wait()


_server = functools.cache(_Running)


def start() -> None:
    """Start the server, unless it runs: it imports while the tests go on."""
    _server()


# In the server.


class Server:
    """Forks for each order that comes."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._running: dict[int, socket.socket] = {}  # by the process id
        self._ended: dict[int, socket.socket] = {}  # and not yet reaped
        self._woken, self._wakes = socket.socketpair()
        self._wakes.settimeout(0)  # as signals want it
        signal.set_wakeup_fd(self._wakes.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> Order:
        """Return an order, in the fork that was made for it; that has its streams.

        Ends the server with its socket.
        """
        while True:
            lines = {**self._running, **self._ended}
            ready = readable(self._orders, self._woken, *lines.values())
            if self._woken in ready:
                self._woken.recv(1024)
                self._notice_ends()
            for pid, line in lines.items():
                if line in ready:
                    self._answer(pid, line)
            if self._orders in ready and (order := self._forked()):
                return order

    def _notice_ends(self) -> None:
        for pid in [
            pid
            for pid in self._running
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        ]:
            self._ended[pid] = self._running.pop(pid)
            with suppress(OSError):  # nobody waits for it any more
                self._ended[pid].send(ENDED)

    def _answer(self, pid: int, line: socket.socket) -> None:
        if line.recv(1) == REAP:
            _, status, used = os.wait4(pid, 0)
            line.send(END.pack(status, used.ru_utime, used.ru_stime))
        line.close()
        self._running.pop(pid, None)
        self._ended.pop(pid, None)

    def _forked(self) -> Order | None:
        text, received, _, _ = socket.recv_fds(self._orders, ORDER_BYTES, 4)
        if not text:
            raise SystemExit
        streams, line = received[:3], socket.socket(fileno=received[3])
        pid = os.fork()
        if pid:
            line.send(str(pid).encode())
            self._running[pid] = line
        else:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for sock in (
                self._orders,
                self._woken,
                self._wakes,
                line,
                *self._running.values(),
                *self._ended.values(),
            ):
                sock.close()
            for own, stream in enumerate(streams):
                os.dup2(stream, own)
        for stream in streams:
            os.close(stream)
        return None if pid else Order(*json.loads(text))


def readable(*sockets: socket.socket) -> set[object]:
    """Wait until something can be read from one of *sockets*, and say from which."""
    with selectors.DefaultSelector() as selector:
        for sock in sockets:
            selector.register(sock, selectors.EVENT_READ)
        return {key.fileobj for key, _ in selector.select()}


def imports() -> list[str]:
    """The statements by which the project and the engine import what is not the project's."""
    texts = [
        file.read_text("utf-8")
        for folder in (*PROJECT, "famulus")
        for file in (ROOT / folder).rglob("*.py")
    ]
    found = {statement for text in texts for statement in IMPORT.findall(text)}
    return sorted(
        statement for statement in found if statement.split()[1].partition(".")[0] not in NOT_ALWAYS
    )


def warm_up() -> None:
    """Import what processes of `faust` import of others, once.

    The gc of a fork does not look at it.
    """
    sys.path[0] = str(ROOT)
    for statement in [*FIRST, *imports()]:
        with suppress(ImportError):  # what is not installed
            exec(statement, {})
    assert threading.active_count() == 1  # a thread would be in no fork
    gc.collect()
    gc.freeze()


def become(order: Order) -> None:
    """Be a process that was started with *order*, up to its end."""
    os.chdir(order.folder)
    os.environ.clear()
    os.environ.update(order.variables)
    if order.has_session:
        os.setsid()
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        stream = reopened(getattr(sys, name), descriptor)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    is_module = order.words[: len(MODULE)] == MODULE
    sys.path[0] = order.folder if is_module else str(FAUST.parent)
    # This list is Faust's default.
    sys.argv[:] = order.words[len(MODULE) - 1 :] if is_module else order.words
    if is_module:
        runpy.run_module("faust.__main__", run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(str(FAUST), run_name="__main__")


def reopened(stream: TextIO, descriptor: int) -> TextIO:
    """A standard stream as Python makes it, of what the descriptor is now."""
    mode = "w" if descriptor else "r"
    is_unbuffered = bool(descriptor and os.environ.get("PYTHONUNBUFFERED"))
    text = io.TextIOWrapper(
        os.fdopen(descriptor, f"{mode}b", 0 if is_unbuffered else -1, closefd=False),
        stream.encoding,
        stream.errors,
        newline="\n" if descriptor else None,
        line_buffering=descriptor == 2 or os.isatty(descriptor),
        write_through=is_unbuffered,
    )
    cast(Any, text).mode = mode
    return text


if __name__ == "__main__":
    warm_up()
    become(Server(socket.socket(fileno=int(sys.argv[1]))).serve())
