"""The worker process: checks before the start, one line about the end, and a bounded stop."""

import errno
import logging
import os
import signal
import sys
import threading
import time
from asyncio import CancelledError
from typing import Any, NoReturn, Protocol, cast

import faust

from famulus.errors import ConfigError, InvariantError, OperatingError
from famulus.kafka.admin import check_port
from famulus.kafka.client_errors import fault_of
from famulus.observability.unhandled_errors import watch_leaks
from famulus.runtime.tuning import exact_timers, few_arenas
from famulus.runtime.unawaited import watch_unawaited
from famulus.standard_streams import make_lenient
from famulus.webserver.auth import WebAuth

EX_TEMPFAIL = 75  # sysexits(3): stopped with events in flight, which are read again
# asyncio's message after a call of `loop.stop`.
LOOP_STOPPED = "Event loop stopped before Future completed"
LOOK_S = 0.1  # between two checks if a stop has become a crash
CRASH_S = 5.0  # limit of a stop after a crash: only connections are left, which may never close


class Host(Protocol):
    """Attributes of the app that the process needs in addition to those of Faust."""

    door: WebAuth  # of the web views
    fault: OperatingError | None  # what ends the worker
    is_drained: bool  # True if the last stop finished the events in flight
    stop_timeout_s: float

    async def prepare(self) -> None:
        """Check all that a start requires. Raises OperatingError."""


class Worker(faust.Worker):
    """Faust's worker process with start-up checks, exit codes of `errors`, and a bounded stop."""

    @property
    def _host(self) -> Host:
        # The engine's app is both Faust's App and a Host.
        return cast(Any, self.app)  # type: ignore[no-any-return]

    def execute_from_commandline(self) -> NoReturn:
        """Run until stopped.

        Exits with 0, with 75 when events in flight did not end in time, else with the
        OperatingError's code.
        """
        make_lenient()
        few_arenas()
        exact_timers(self.loop)
        watch_leaks(self.loop)
        watch_unawaited()
        try:
            if self.app.conf.web_enabled:
                self._host.door.check(self.app.conf.web_bind)
                check_port(self.app.conf.web_bind, self.app.conf.web_port)
            self.loop.run_until_complete(self._host.prepare())
            if self.app.conf.web_enabled:
                self._host.door.open()
            super().execute_from_commandline()
        except OperatingError as error:
            raise SystemExit(_said(error)) from None
        except (
            SystemExit,
            CancelledError,
        ) as end:  # mode turns exceptions into these; a crash may cancel this very call
            raise SystemExit(self._exit_code(end)) from None

    def _exit_code(self, end: SystemExit | CancelledError) -> object:
        """Print why the worker ended and return the exit code."""
        causes = self._reason, end.__context__
        if any(isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE for cause in causes):
            return _said(
                ConfigError(
                    "the port of the web views was taken while the worker started: start it again"
                )
            )
        for cause in causes:
            if cause is not None and (fault := fault_of(cause)) is not None:
                return _said(fault)
        if any(isinstance(cause, RuntimeError) and LOOP_STOPPED in str(cause) for cause in causes):
            return _said(
                InvariantError(
                    "the event loop was stopped, by a handler or an agent: do not stop it there"
                )
            )
        if isinstance(end, CancelledError):
            return 1
        return end.code or (0 if self._host.is_drained else EX_TEMPFAIL)

    # Overrides a method of Faust.
    def _setup_spinner_handler(self, logger: logging.Logger, level: int) -> None:  # noqa: ARG002
        """Make no spinner: it would cost the formatting of every debug line at level `warn`."""
        self.spinner = None

    def install_signal_handlers(self) -> None:
        """Install the signal handlers of Faust, and one for SIGHUP, which stops like the others."""
        super().install_signal_handlers()
        # Under `nohup` SIGHUP is ignored, and the worker outlives its terminal.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            self.loop.add_signal_handler(signal.SIGHUP, self._schedule_shutdown, signal.SIGHUP)

    @property
    def _reason(self) -> BaseException | None:
        """Return the first error of a crash, which causes further ones; None without a crash."""
        return self._host.fault or self.crash_reason

    def _schedule_shutdown(self, signal: signal.Signals) -> None:  # the name is mode's
        if self._signal_stop_time:
            text = "Error: a second signal: the worker ends at once; what was in hand is read again"
            print(text, file=sys.__stderr__, flush=True)  # Faust's stderr is its log
            os._exit(EX_TEMPFAIL)
        super()._schedule_shutdown(signal)

    async def stop(self) -> None:
        """Stop all services.

        The process ends within `stop_timeout_s`, even if a service hangs, as on a silent broker.
        """
        threading.Thread(target=self._end_in_time, name="end in time", daemon=True).start()
        await super().stop()

    def _end_in_time(self) -> None:
        """End the process when a stop takes too long; after a crash, within `CRASH_S`."""
        limit_s = self._host.stop_timeout_s
        ends_at = time.monotonic() + limit_s
        while time.monotonic() < ends_at:
            if self._reason:
                limit_s = min(limit_s, CRASH_S)
                ends_at = min(ends_at, time.monotonic() + limit_s)
                time.sleep(max(ends_at - time.monotonic(), 0))
                break
            time.sleep(LOOK_S)
        self._end_now(limit_s)

    def _end_now(self, limit_s: float) -> None:
        """End the process from this thread, since the event loop or the network blocks the stop."""
        reason = self._reason
        if reason is not None and (fault := fault_of(reason)) is not None:
            code = _said(fault)
        else:
            text = (
                f"Error: the worker did not stop within {limit_s:g} s; what was in hand is "
                "read again"
            )
            print(text, file=sys.__stderr__, flush=True)  # as above
            code = 1 if reason else EX_TEMPFAIL
        os._exit(code)


def _said(error: OperatingError) -> int:
    """Print the error in one line and return its exit code.

    By then Faust has turned `sys.stderr` into log entries, so the original stream is used.
    """
    error.show(sys.__stderr__)
    return error.exit_code
