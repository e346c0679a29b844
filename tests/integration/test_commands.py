"""The commands on a cluster with 200 other topics: none takes long, and each ends with the exit code that it should."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from famulus.config import KafkaConfig
from famulus.kafka.admin import create_topics
from tests.integration.conftest import settings_of
from tests.integration.test_publish_command import line
from tests.support.fork_server import FAUST, Process
from tests.support.places import PROJECT

TOPICS = 200
# Of a command, but for the import of libraries; the time depends on others, and is printed.
CPU_S = 3.0


def timed(words: list[str], settings: dict[str, str]) -> tuple[int, str, float, float]:
    """Exit code and output of `faust -A app ...`, and the seconds that it took: of CPU, and by the clock."""
    began = time.monotonic()
    command = [str(FAUST), "-A", "app", *words]
    with Process(
        command,
        cwd=PROJECT,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        output, _ = process.communicate(timeout=60)
    return process.returncode, output, process.cpu_s, time.monotonic() - began


@pytest.mark.timeout(600)
def test_no_command_takes_long_beside_200_topics(
    kafka: KafkaConfig, tmp_path: Path, make_topics: Callable[..., None]
) -> None:
    """What each took is printed; JSON is JSON, a line each."""
    asyncio.run(
        create_topics(kafka, {f"{kafka.topic_prefix}other-{n}": 2 for n in range(TOPICS)}, 60.0)
    )
    make_topics("order-events", "stock-events")
    file = tmp_path / "orders.ndjson"
    file.write_text(line(1))
    settings = settings_of(kafka, tmp_path / "data")
    took: list[tuple[float, float, str]] = []
    wrong = []
    cases: list[tuple[list[str], int]] = [
        (["topics", "plan", "--json"], 0),
        (["topics", "apply", "--json"], 0),
        (["tables", "--json"], 0),
        (["config", "show", "--json"], 0),
        (["publish", str(file), "--json"], 0),
        (["paused", "--json"], 0),
        (["pause", "order-events", "--json"], 0),
        (["resume", "order-events", "--json"], 0),
        (["concurrency", "order-events", "3", "--json"], 0),
        (["concurrency", "--json"], 0),
        (["seek", "order-events", "--to-end", "--json", "--dry-run"], 0),
        (["seek", "--all", "--to-end", "--json", "--yes"], 0),
        (["reset-offsets", "order-events", "--to-beginning", "--json", "--yes"], 0),
        (["lag", "--json", "--looks", "1"], 0),
        (["doctor", "--json"], 0),
        (["peek", "order-events", "--json"], 0),
        (["keys", "order-events", "--json"], 0),
        (["explain", "order-events", "0", "0", "--json"], 0),
        (["dlq", "list", "--json"], 0),
        (["state", "verify", "--json"], 0),
        (["state", "replay", "--topic", "order-events", "--yes", "--json"], 0),
        (["claims", "list"], 78),
        (["lag", "nobody", "--json", "--looks", "1"], 78),
        (["peek", "nothing"], 78),
        (["seek"], 2),
    ]
    for words, code in cases:
        found, output, cpu_s, clock_s = timed(words, settings)
        took.append((cpu_s, clock_s, " ".join(words)))
        shown = [json.loads(row) for row in output.splitlines() if row.startswith(("{", "["))]
        is_silent = (
            "--json" in words
            and not code
            and not shown
            and words[0] not in {"dlq", "explain", "peek", "doctor"}
        )
        if found != code or is_silent:
            wrong.append((words, found, output))
    for cpu_s, clock_s, command in took:
        print(f"{cpu_s:6.2f} s of CPU, {clock_s:6.2f} s: {command}")  # for people
    assert not wrong
    assert 0 < min(took)[0] < max(took)[0] < CPU_S, max(took)
