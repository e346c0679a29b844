"""What every measured process does alike: count handled events, take the times, print one JSON line at the end."""

import json
import os
import resource
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple


class Note(NamedTuple):
    """The state of the process at one event."""

    wall_s: float
    cpu_s: float
    rss_mb: float  # what it holds now, not the most it ever held


class Meter:
    """Prints after BENCH_EVENTS hits: events/s between the first and the last, CPU seconds, latencies if wanted.

    *last_to_first* is the pace of the last fifth or so of the events in parts of that of the first.
    For each of BENCH_POINTS, which are numbers of events, it also says the memory then and the pace
    of the tenth before. A hit too many is said in a line of its own: whoever counts effects wants
    to know.
    """

    def __init__(self) -> None:
        self.events = int(os.environ["BENCH_EVENTS"])
        self.warm = int(os.environ.get("BENCH_WARM", "1"))  # events before the clock starts
        self.points = [
            int(point) for point in os.environ.get("BENCH_POINTS", "").split(",") if point
        ]
        self.count = 0
        self._first_s = 0.0  # from the start of the process to the first event
        self._notes: dict[int, Note] = {}
        self._noted = {1, self.warm, self.events, self.events + 1, *self.points}
        self._noted |= {_before(point) for point in self.points} | {
            self._tenth(number) for number in range(1, 11)
        }
        self._with_latency = "BENCH_LATENCY" in os.environ
        self._latencies_s: list[float] = []

    def hit(self, created_at: str) -> None:
        """One event was handled. *created_at*: ISO 8601."""
        self.count += 1
        if self.count in self._noted:
            self._note()
        if self._with_latency:
            self._latencies_s.append(time.time() - datetime.fromisoformat(created_at).timestamp())
        if self.count == self.events:
            self._tell()

    def _note(self) -> None:
        if self.count == 1:
            self._first_s = time.time() - float(os.environ["BENCH_BEGAN"])
        if self.count == self.warm:
            self._latencies_s.clear()
        if self.count > self.events:
            os.write(1, b"\nBENCH-SURPLUS\n")
        self._notes[self.count] = Note(time.perf_counter(), _cpu_s(), _rss_mb())

    def _tell(self) -> None:
        wall_s, cpu_s, _ = (
            b - a for a, b in zip(self._notes[self.warm], self._notes[self.events], strict=True)
        )
        events = self.events - self.warm
        result = {
            "first_handler_s": self._first_s,
            "events_per_second": events / wall_s,
            "cpu_seconds_per_million": cpu_s / events * 1e6,
            "cpu_share": cpu_s / wall_s,
            "rss_mb": _most_rss_mb(),
            "last_to_first": self._pace(self._tenth(8), self.events)
            / self._pace(self._tenth(1), self._tenth(3)),
        }
        for point in self.points:
            result[f"rss_mb_at_{point}"] = self._notes[point].rss_mb
            result[f"events_per_second_at_{point}"] = self._pace(_before(point), point)
        if self._latencies_s:
            ordered = sorted(self._latencies_s)
            result["latency_p50_ms"] = ordered[len(ordered) // 2] * 1000
            result["latency_p99_ms"] = ordered[len(ordered) * 99 // 100] * 1000
        os.write(1, f"\nBENCH {json.dumps(result)}\n".encode())  # workers redirect sys.stdout

    def _tenth(self, number: int) -> int:
        return self.events * number // 10

    def _pace(self, first: int, last: int) -> float:
        """Events per second from one noted event to another."""
        return (last - first) / (self._notes[last].wall_s - self._notes[first].wall_s)


def _before(point: int) -> int:
    return point - point // 10


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _rss_mb() -> float:
    return _status_mb("VmRSS")


def _most_rss_mb() -> float:
    """The most it ever held; getrusage would count what the process that started it held then."""
    return _status_mb("VmHWM")


def _status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024
