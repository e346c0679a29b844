"""Tests of the benchmark: its arithmetic, and the figures that the README and the chart show."""

from bench import load, report
from bench.logs import Restored, restored
from bench.report import Row


def row(
    workload: str = "W0",
    system: str = "famulus",
    metric: str = "events_per_second",
    value: float = 1.0,
) -> Row:
    """Return a row of results.json whose minimum, median and maximum are equal."""
    return Row(
        workload=workload, system=system, metric=metric, unit="", min=value, median=value, max=value
    )


def test_the_readme_shows_what_was_measured() -> None:
    """`make chart` has nothing to change."""
    readme = report.README.read_text("utf-8")
    assert report.with_table(readme, report.read()) == readme


def test_the_chart_shows_what_was_measured() -> None:
    """The text of the chart is searched for the rates, because the file is an SVG."""
    chart = report.RESULTS.with_suffix(".svg").read_text("utf-8")
    drawn = [
        r
        for r in report.read()
        if r["workload"] in {"W0", "W1"} and r["metric"] == "events_per_second"
    ]
    assert [r["system"] for r in drawn if f"{r['median']:,.0f}" not in chart] == []


def test_a_run_replaces_only_what_it_measured() -> None:
    """A row is replaced if its workload and system were measured again, with any metric."""
    before = [row("W0"), row("W0", metric="rss_mb"), row("W0", "quix"), row("W1")]
    merged = report.merged(before, [row("W0", value=2.0)])
    assert merged == [row("W0", value=2.0), row("W0", "quix"), row("W1")]


def test_a_system_without_a_figure_has_an_empty_cell() -> None:
    """Some systems cannot run every workload."""
    table = report.table([row(value=123_456.7), row("idle", "quix", "cpu_share", 0.01234)])
    assert table.splitlines()[2:] == [
        "| handlers that do nothing, events/s | 123,000 |  |",
        "| share of a core with nothing to do |  | 0.0123 |",
    ]


def test_one_order_in_fifty_repeats_an_earlier_one_of_its_key() -> None:
    """Without duplicates, the number of effects would prove nothing about deduplication."""
    records = [load.identified("orders", number) for number in range(1_000)]
    first: dict[bytes, bytes | None] = {}
    for record in records:
        identifier = dict(record.headers)["ce_id"]
        assert first.setdefault(identifier, record.key) == record.key
    assert len(first) == load.unique(1_000) == 980


def test_the_line_of_this_worker_says_what_was_restored() -> None:
    """The line may have the colours of a terminal, and several restores are added up."""
    line = (
        "2026-11-24 22:00:00 [info     ] restored      partitions=4 records=12 rows=1000 "
        "seconds=0.25\n"
    )
    assert restored(f"[WARNING] \x1b[2m{line}\x1b[0m{line}") == Restored(2000, 0.5)


def test_stock_faust_says_when_it_began_and_ended() -> None:
    """A second restore in the log does not change the time of the first."""
    log = (
        "[2026-11-24 22:00:01,000] [7] [INFO] [^---Recovery]: Restoring state from changelog "
        "topics... \n"
        "[2026-11-24 22:00:03,500] [7] [INFO] [^---Recovery]: Recovery complete \n"
        "[2026-11-24 22:00:04,000] [7] [INFO] [^---Recovery]: Restoring state from changelog "
        "topics... \n"
    )
    assert restored(log) == Restored(None, 2.5)


def test_a_log_without_the_end_says_nothing_yet() -> None:
    """The result None makes the benchmark wait longer."""
    assert (
        restored("[2026-11-24 22:00:01,000] [INFO] [quixstreams] : Beginning recovery check...\n")
        is None
    )
