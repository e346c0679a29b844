"""bench/results.json, and the table that the README shows of it: whatever stands there was measured."""

import json
from pathlib import Path
from typing import TypedDict

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
README = HERE.parent / "README.md"
BEGIN, END = (
    "<!-- figures: make chart writes them from bench/results.json -->",
    "<!-- end of figures -->",
)
NAMES = {
    "famulus": "Famulus",
    "quix": "Quix Streams 3.28",
    "faststream": "FastStream 0.7",
    "faust": "stock Faust 0.15.3",
    "aiokafka": "bare aiokafka loop",
}
# What is shown of each workload: its metrics, each in words.
SHOWN = {
    ("W0", "events_per_second"): "handlers that do nothing, events/s",
    ("W0", "cpu_seconds_per_million"): "the same, CPU seconds per million events",
    ("W1", "events_per_second"): "each event once, and a table row for it, events/s",
    ("W1", "cpu_seconds_per_million"): "the same, CPU seconds per million events",
    ("wait", "events_per_second"): "handlers that wait for 5 ms, events/s",
    ("latency", "latency_p50_ms"): "latency at 1,000 events/s, half of them below, ms",
    ("latency", "latency_p99_ms"): "the same, 99 in 100 below, ms",
    ("latency", "cpu_share"): "share of a core at 1,000 events/s",
    ("idle", "cpu_share"): "share of a core with nothing to do",
    ("start", "first_handler_s"): "start of the process to the first handler, s",
    ("restart", "first_handler_s"): "the same with table rows on disk, s",
    ("recovery", "rows_per_second"): "table rows from the changelog, rows/s",
    ("recovery", "seconds"): "the same until all were there (stock Faust: a twentieth of them), s",
    ("flat", "last_to_first"): "a run of millions of events: pace at the end to that at the start",
    ("flat", "rss_growth_mb"): "the same, growth of memory, MB",
    ("produce", "events_per_second"): "`produce_many` (the loop: `send`), events/s",
    ("produce", "cpu_seconds_per_million"): "the same, CPU seconds per million events",
    (
        "publish",
        "publish_cpu_us",
    ): "publishing an event in a handler (the loop: without id and headers), CPU µs",
    ("marks", "millions"): "ids that are remembered, millions",
    ("marks", "events_per_second_at_a_million"): "pace with a million ids, events/s",
    ("marks", "events_per_second_at_the_end"): "pace with all of them, events/s",
    ("marks", "rss_mb_per_million"): "memory per million ids, MB",
}


class Row(TypedDict):
    """One metric of one system in one workload, over the rounds."""

    workload: str
    system: str
    metric: str
    unit: str
    min: float
    median: float
    max: float


def read() -> list[Row]:
    """What was measured last."""
    rows: list[Row] = json.loads(RESULTS.read_text("utf-8"))
    return rows


def write(rows: list[Row]) -> None:
    """Keep *rows* for the next one who reads."""
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def merged(before: list[Row], measured: list[Row]) -> list[Row]:
    """*before* with the rows of every workload and system that was *measured* replaced."""
    pairs = {(row["workload"], row["system"]) for row in measured}
    kept = [row for row in before if (row["workload"], row["system"]) not in pairs]
    return sorted(
        [*kept, *measured], key=lambda row: (row["workload"], row["metric"], row["system"])
    )


def table(rows: list[Row]) -> str:
    """The medians as a table in Markdown, a column for each system that was measured."""
    medians = {(row["workload"], row["metric"], row["system"]): row["median"] for row in rows}
    systems = [name for name in NAMES if any(row["system"] == name for row in rows)]
    lines = [
        "| | " + " | ".join(NAMES[name] for name in systems) + " |",
        "|---|" + "---:|" * len(systems),
    ]
    for (workload, metric), words in SHOWN.items():
        values = [medians.get((workload, metric, name)) for name in systems]
        if any(value is not None for value in values):
            lines.append(f"| {words} | " + " | ".join(map(_number, values)) + " |")
    return "\n".join(lines)


def with_table(readme: str, rows: list[Row]) -> str:
    """*readme* with the table between its two markers made anew.

    Raises ValueError when a marker is missing.
    """
    head, rest = readme.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n\n{table(rows)}\n\n{END}{tail}"


def _number(value: float | None) -> str:
    """Three digits that count; nothing for what was not measured."""
    if value is None:
        return ""
    if abs(value) >= 100:
        digits = len(str(round(abs(value))))
        return f"{round(value, 3 - digits):,.0f}"
    return f"{value:.3g}"
