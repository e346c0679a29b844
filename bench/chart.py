"""`make chart`: draws bench/results.svg from bench/results.json, and writes the README's table from the same rows."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import report
from bench.report import NAMES, Row

SVG = Path(__file__).resolve().parent / "results.svg"
PANELS = {"W0": "handlers that do nothing", "W1": "each event once, and a table row for it"}
OURS, OTHERS, INK, FAINT = "#1f6feb", "#b3bcc7", "#1f2328", "#656d76"


def draw(rows: list[Row]) -> Figure:
    """Events per second of every system, a panel for each of the workloads that were measured."""
    paces = [row for row in rows if row["metric"] == "events_per_second"]
    panels = {
        title: found
        for name, title in PANELS.items()
        if (found := [r for r in paces if r["workload"] == name])
    }
    lengths = [len(found) for found in panels.values()]
    figure = Figure(
        figsize=(8, 0.42 * sum(lengths) + 0.75 * len(panels) + 0.4),
        facecolor="white",
        layout="constrained",
    )
    axes = figure.subplots(len(panels), squeeze=False, height_ratios=lengths)[:, 0]
    for panel, (title, found) in zip(axes, panels.items(), strict=True):
        _bars(panel, title, sorted(found, key=lambda row: list(NAMES).index(row["system"])))
    axes[-1].set_xlabel(
        "events/s: median and range of the rounds; more is better", color=FAINT, fontsize=9
    )
    return figure


def _bars(axes: Axes, title: str, rows: list[Row]) -> None:
    """One bar for each system, the pace and the ratio to ours beside it."""
    names, medians = [NAMES[row["system"]] for row in rows], [row["median"] for row in rows]
    ours = next((row["median"] for row in rows if row["system"] == "famulus"), None)
    reach = [
        [row["median"] - row["min"] for row in rows],
        [row["max"] - row["median"] for row in rows],
    ]
    colours = [OURS if row["system"] == "famulus" else OTHERS for row in rows]
    axes.barh(
        names,
        medians,
        height=0.62,
        color=colours,
        xerr=reach,
        error_kw={"ecolor": INK, "elinewidth": 1},
    )
    for number, row in enumerate(rows):
        text = f"{row['median']:,.0f}"
        if ours is not None and row["system"] != "famulus":
            # A multiplication sign.
            text += f"   (Famulus is {ours / row['median']:.2g} ×)"  # noqa: RUF001
        axes.annotate(
            text,
            (row["max"], number),
            (6, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=10,
        )
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
    axes.set_xlim(0, max(row["max"] for row in rows) * 1.45)
    axes.invert_yaxis()
    axes.tick_params(colors=INK, length=0)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(FAINT)


def main() -> None:
    """Write both."""
    rows = report.read()
    mpl.rcParams.update(
        {"svg.hashsalt": "famulus", "svg.fonttype": "none", "font.family": "sans-serif"}
    )
    draw(rows).savefig(SVG, metadata={"Date": None})
    report.README.write_text(report.with_table(report.README.read_text("utf-8"), rows), "utf-8")


if __name__ == "__main__":
    main()
