"""What each process of the workload `crowd` does alike: many calls at once, again and again, timed.

Knows no system.
"""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable

KEYS = 50
WARM = 1_000
# How often so many calls are made at once; the quickest counts.
REPEATS = {1_000: 10, 10_000: 3, 100_000: 1}


async def crowd(publish: Callable[[int, str], Awaitable[object]]) -> None:
    """Time *publish*, called with a number and its key, by as many at once; print one JSON line.

    Numbers go on from crowd to crowd, so whoever reads the topic can see that each key's are in
    order.
    """
    *_, number = await _round(publish, 0, WARM)
    result: dict[str, float] = {}
    for count, repeats in REPEATS.items():
        rounds = []
        for _ in range(repeats):
            wall_s, used_s, failed, number = await _round(publish, number, count)
            rounds.append((wall_s, used_s, failed))
        wall_s, used_s, failed = min(rounds)
        result |= {
            f"events_per_second_at_{count}": (count - failed) / wall_s,
            f"cpu_seconds_per_million_at_{count}": used_s / count * 1_000_000,
            f"failed_at_{count}": failed,
        }
    result["growth"] = result["events_per_second_at_10000"] / max(
        result["events_per_second_at_100000"], 1e-9
    )
    os.write(1, f"\nBENCH {json.dumps(result)}\n".encode())


async def _round(
    publish: Callable[[int, str], Awaitable[object]], first: int, count: int
) -> tuple[float, float, int, int]:
    """Return seconds, CPU seconds, how many calls failed, and the number that comes next."""
    began_s, used_s = time.perf_counter(), time.process_time()
    calls = [publish(number, f"customer-{number % KEYS}") for number in range(first, first + count)]
    control_state = await asyncio.gather(*calls, return_exceptions=True)
    failed = sum(isinstance(each, BaseException) for each in control_state)
    return time.perf_counter() - began_s, time.process_time() - used_s, failed, first + count
