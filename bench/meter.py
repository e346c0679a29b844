"""What every measured process does alike: count handled events, take the times, print one JSON line at the end."""

import json
import os
import resource
import time
from datetime import datetime
from itertools import pairwise


class Meter:
    """Prints after BENCH_EVENTS hits: events/s between the first and the last, CPU seconds, latencies if wanted.

    *last_to_first* is the pace of the last fifth or so of the events in parts of that of the first.
    """

    def __init__(self) -> None:
        self.events = int(os.environ["BENCH_EVENTS"])
        self.warm = int(os.environ.get("BENCH_WARM", "1"))  # events before the clock starts
        self.count = 0
        self._tenth = max(self.events // 10, 1)
        self._began = self._cpu_s = 0.0
        self._first_s = 0.0  # from the start of the process to the first event
        self._tenths: list[float] = []  # when each tenth of the events was done
        self._with_latency = "BENCH_LATENCY" in os.environ
        self._latencies_s: list[float] = []

    def hit(self, created_at: str) -> None:
        """One event was handled. *created_at*: ISO 8601."""
        self.count += 1
        if self.count == 1:
            self._first_s = time.time() - float(os.environ["BENCH_BEGAN"])
        if self.count % self._tenth == 0:
            self._tenths.append(time.perf_counter())
        if self.count == self.warm:
            self._began, self._cpu_s = time.perf_counter(), _cpu_s()
            self._latencies_s.clear()
        if self._with_latency:
            self._latencies_s.append(time.time() - datetime.fromisoformat(created_at).timestamp())
        if self.count == self.events:
            self._tell()

    def _tell(self) -> None:
        wall_s, cpu_s, events = time.perf_counter() - self._began, _cpu_s() - self._cpu_s, self.events - self.warm
        result = {
            "first_handler_s": self._first_s,
            "events_per_second": events / wall_s,
            "cpu_seconds_per_million": cpu_s / events * 1e6,
            "cpu_share": cpu_s / wall_s,
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        took_s = [end - begin for begin, end in pairwise(self._tenths)]
        result["last_to_first"] = (took_s[0] + took_s[1]) / (took_s[-2] + took_s[-1])
        if self._latencies_s:
            ordered = sorted(self._latencies_s)
            result["latency_p50_ms"] = ordered[len(ordered) // 2] * 1000
            result["latency_p99_ms"] = ordered[len(ordered) * 99 // 100] * 1000
        os.write(1, f"\nBENCH {json.dumps(result)}\n".encode())  # workers redirect sys.stdout


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
