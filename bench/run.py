"""`make bench`: this worker beside stock Faust, Quix Streams and a bare aiokafka loop, on one topic, in turns.

Only ratios within one run mean anything: rounds are interleaved, and minimum, median and maximum
are shown.
"""

import logging
from collections.abc import Callable
from statistics import median

import click
from rich.console import Console
from rich.table import Table

from bench import report
from bench.report import Row
from bench.system import Result
from bench.workloads import MILLION, SYSTEMS, WORKLOADS, Bench
from famulus.config import KafkaConfig
from famulus.dev.broker import Broker

console = Console()


def _names(known: tuple[str, ...]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Reads a list of names, and refuses what is not *known*."""

    def read(_context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise click.BadParameter(f"{', '.join(unknown)}: known are {', '.join(known)}")
        return names

    return read


@click.command()
@click.option(
    "--workloads",
    default="W0,W1,wait,latency",
    callback=_names(tuple(WORKLOADS)),
    help="Comma separated.",
)
@click.option(
    "--systems", default=",".join(SYSTEMS), callback=_names(SYSTEMS), help="Comma separated."
)
@click.option("--rounds", type=click.IntRange(1), default=3)
@click.option(
    "--events",
    type=click.IntRange(1_000),
    default=300_000,
    help="Of W0; others take parts or multiples.",
)
@click.option("--partitions", type=click.IntRange(1), default=4)
@click.option(
    "--marks",
    type=click.IntRange(1, 1_000),
    default=20,
    help="Millions of ids of the workload marks.",
)
def main(
    workloads: list[str],
    systems: list[str],
    rounds: int,
    *,
    events: int,
    partitions: int,
    marks: int,
) -> None:
    """Measure, show the ratios, and put the figures into bench/results.json workload by workload."""
    # It tells of every retry while a topic is new.
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    with Broker(heap_mb=1024) as broker:
        kafka = KafkaConfig(bootstrap_servers=broker.bootstrap_servers, partitions=partitions)
        with Bench(kafka, events, marks * MILLION) as bench:
            for name in workloads:
                found = measure(bench, name, systems, rounds)
                report.write(report.merged(report.read(), rows_of(name, found)))


def measure(bench: Bench, name: str, systems: list[str], rounds: int) -> dict[str, list[Result]]:
    """All rounds of a workload, the systems in turns."""
    workload = WORKLOADS[name]
    found: dict[str, list[Result]] = {
        system: [] for system in systems if system in workload.systems
    }
    for number in range(rounds):
        for system, results in found.items():
            with console.status(f"{name}: {system}, round {number + 1} of {rounds}"):
                results.append(workload.measure(bench, system))
    return found


def rows_of(workload: str, found: dict[str, list[Result]]) -> list[Row]:
    """The rows of all metrics of a workload; they are shown as well."""
    rows: list[Row] = []
    for metric, unit in WORKLOADS[workload].metrics.items():
        of_metric = [
            _row(workload, system, metric, unit, results) for system, results in found.items()
        ]
        show(f"{workload}: {metric} ({unit})", of_metric)
        rows += of_metric
    return rows


def _row(workload: str, system: str, metric: str, unit: str, results: list[Result]) -> Row:
    values = [result[metric] for result in results]
    return Row(
        workload=workload,
        system=system,
        metric=metric,
        unit=unit,
        min=min(values),
        median=median(values),
        max=max(values),
    )


def show(title: str, rows: list[Row]) -> None:
    """Print one metric's table."""
    table = Table(title=title)
    for heading in ("system", "min", "median", "max", "famulus is"):
        table.add_column(heading, justify="left" if heading == "system" else "right")
    ours = next((row["median"] for row in rows if row["system"] == "famulus"), None)
    for row in rows:
        numbers = [
            f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
            for value in (row["min"], row["median"], row["max"])
        ]
        table.add_row(
            row["system"],
            *numbers,
            f"{ours / row['median']:.2f} x" if ours is not None and row["median"] else "",
        )
    console.print(table)


if __name__ == "__main__":
    main()
