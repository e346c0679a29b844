"""`make torture`: whether every payment counts once, whatever happens to the workers and all that they stand on.

A scenario has a broker of its own, and each of its legs topics and a group of its own. Payments are
written in slices, so that every fault comes while there is work. At the end the rows of all workers
are compared with the exact fold of the payments, bit for bit.

With `TORTURE_FENCE=off` in the environment a replaced worker may go on writing: `--scenario zombie
--expect-drift`.
"""

import itertools
import logging
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from torture import faults, freezes, kills
from torture.cluster import Cluster
from torture.faults import Fault
from torture.load import fold, payments
from torture.scenarios import clock, corrupt, disk, junk, limits, membership, network, others
from torture.stage import SYSTEMS, Leg, Stage
from torture.verdict import Found, Result, Verdict, announced_in, judge, overview, shown

MISDEEDS = {"TORTURE_MISDEEDS": "1", "FAILURES__HANDLERTIMEOUTS": "1"}
LATE_S = 20.0
WORKERS = 2  # one freezes or is gone, one takes over
console = Console(width=None if sys.stdout.isatty() else 150)


@dataclass(frozen=True)
class Size:
    """How large a scenario is: *events* and *number* of faults or kills, of all its legs together."""

    events: int
    number: int
    seed: int
    workers: Sequence[int]
    pause_s: float


def carry_out(stage: Stage) -> Verdict:
    """Hurt the workers, let everything settle, and compare."""
    stage.leg.hurt(stage)
    unsettled = stage.finish()
    expected, deadline = fold(stage.leg.made).announced, time.monotonic() + LATE_S
    while (announced := announced_in(stage.kafka, stage.kafka.topic("news"))) != expected:
        if time.monotonic() > deadline:
            break
        stage.let_pass(1.0)  # some are announced later
    found = Found(stage.rows("counts"), stage.rows("sums"), announced, stage.ledger)
    return judge(stage.leg.made, unsettled, found)


def kill_legs(size: Size, *, settings: Mapping[str, str]) -> list[Leg]:
    """A leg with each number of workers, which get *settings*; payments and deaths are shared out."""
    chance = random.Random(size.seed)  # to be repeated, not to be secret
    steps = itertools.cycle(kills.STEPS)
    made, legs = [], len(size.workers)
    for number, workers in enumerate(size.workers):
        share = size.number // legs + (number < size.number % legs)
        hurt = partial(kills.strike, kills=kills.plan(share, workers, chance, steps))
        name = f"{workers}-worker" + "s" * (workers > 1)
        of = payments(size.events // legs, size.seed + number)
        made.append(Leg(name, workers, of, hurt, workers == 1, settings))
    return made


def frozen_legs(size: Size, *, hurt: Callable[[Stage], None]) -> list[Leg]:
    """One leg, whose workers or broker freeze."""
    return [Leg("frozen", WORKERS, payments(size.events, size.seed), hurt)]


# Any: what a Leg takes.
def fault_legs(name: str, size: Size, *, of: Sequence[Fault], **more: Any) -> list[Leg]:
    """One leg, in which faults of all kinds are dealt."""
    chance = random.Random(size.seed)  # to be repeated, not to be secret
    hurt = partial(faults.strike, faults=faults.plan(of, size.number, chance))
    return [Leg(name, WORKERS, payments(size.events, size.seed), hurt, **more)]


def membership_legs(size: Size) -> list[Leg]:
    """One leg with joins and leaves, and one with a worker that has nothing to do."""
    half = replace(size, events=size.events // 2)
    return [
        *fault_legs("storm", half, of=membership.STORM),
        *fault_legs(
            "stand-by",
            replace(half, number=1),
            of=membership.STAND_BY,
            settings=membership.SETTINGS,
            partitions=1,
        ),
    ]


Legs = Callable[[Size], list[Leg]]
SCENARIOS: Mapping[str, Legs] = {
    "kills": partial(kill_legs, settings={}),
    "zombie": partial(frozen_legs, hurt=freezes.zombies),
    "broker": lambda size: frozen_legs(size, hurt=partial(freezes.outages, pause_s=size.pause_s)),
    "handlers": partial(kill_legs, settings=MISDEEDS),
    "network": partial(
        fault_legs, "network", of=network.FAULTS, settings=network.SETTINGS, is_proxied=True
    ),
    "corrupt": partial(fault_legs, "corrupt", of=corrupt.FAULTS, is_proxied=True),
    "disk": partial(
        fault_legs, "disk", of=disk.FAULTS, settings=disk.SETTINGS, prepared=disk.prepared
    ),
    "others": partial(fault_legs, "others", of=others.FAULTS),
    "clock": partial(fault_legs, "clock", of=clock.FAULTS, prepared=clock.prepared),
    "junk": partial(
        fault_legs, "junk", of=junk.FAULTS, prepared=junk.prepared, settings=junk.SETTINGS
    ),
    "limits": partial(fault_legs, "limits", of=limits.FAULTS),
    "membership": membership_legs,
}

FOR_ANY = "kills", "zombie", "broker", "handlers"  # ask no more of a worker than that it answers


def summary(stage: Stage, verdict: Verdict) -> dict[str, object]:
    """The lines of one leg's column."""
    marks = stage.marks
    return {
        "faults": marks.faults.total(),
        "kills": marks.kills,
        "restarts": marks.restarts,
        "steps hit": ", ".join(f"{step} {hits}" for step, hits in marks.steps.items() if hits)
        or "none",
        "ended by themselves": ", ".join(f"{hits} x {code}" for code, hits in marks.ended.items())
        or "none",
        "events": verdict.events,
        "unique": verdict.unique,
        "lost": verdict.lost,
        "duplicated": verdict.duplicated,
        "customers with a wrong sum": verdict.wrong_sums,
        "wrongly announced": verdict.unpublished,
        "reordered": verdict.reordered,
        "unsettled": verdict.unsettled,
        "still behind green": len(marks.stood_still),
        "unexpected": len(marks.unexpected),
        "seconds": round(time.monotonic() - stage.began),
    }


def run(name: str, system: str, size: Size, folder: Path, show: Callable[[str], None]) -> Result:
    """Carry out a scenario, and say what came of it, also when it could not be brought to its end."""
    result, columns = Result(), dict[str, dict[str, object]]()
    began = time.monotonic()
    try:
        with Cluster(size.seed) as cluster:
            for leg in SCENARIOS[name](size):
                with Stage(system, cluster, folder / name, leg, show) as stage:
                    try:
                        verdict = carry_out(stage)
                        result.verdicts.append(verdict)
                        columns[leg.name] = summary(stage, verdict)
                    finally:
                        result.faults += stage.marks.faults
                        result.stood_still += sorted(stage.marks.stood_still)
                        result.unexpected += stage.marks.unexpected
                        for words in stage.marks.words:
                            console.print(words, markup=False)
    except Exception as error:  # whatever it is, the other scenarios are of use
        result.unexpected.append(f"{name} was not brought to its end: {error!r}")
    result.seconds = time.monotonic() - began
    console.print(shown(columns, f"{name}, {system}, seed {size.seed}"))
    for kind, hits in sorted(result.faults.items()):
        console.print(f"{hits:>5} {kind}", markup=False)
    for words in (*result.stood_still, *result.unexpected):
        console.print(f"{name}: {words}", style="red", markup=False)
    return result


@click.command()
@click.option(
    "--scenario", type=click.Choice((*SCENARIOS, "all")), default="kills", help="What is hurt."
)
@click.option("--system", type=click.Choice(SYSTEMS), default="famulus", help="Whose workers.")
@click.option(
    "--kills",
    "number",
    type=click.IntRange(1),
    default=30,
    help="Or other faults, of each scenario.",
)
@click.option(
    "--seed", type=int, default=1, help="The same seed gives the same payments and the same faults."
)
@click.option("--workers", default="1,3", help="How many in each leg; kills and handlers only.")
@click.option(
    "--events",
    type=click.IntRange(1_000),
    help="Of each scenario; 200,000 unless it is of all: 20,000.",
)
@click.option(
    "--pause-s", type=click.FloatRange(1), default=60.0, help="For so long the broker is stopped."
)
@click.option(
    "--expect-drift",
    is_flag=True,
    help="Exit with 0 when something is wrong, with 1 when nothing is.",
)
def main(  # one for each option
    *,
    scenario: str,
    system: str,
    number: int,
    seed: int,
    workers: str,
    events: int | None,
    pause_s: float,
    expect_drift: bool,
) -> None:
    """Hurt workers under load. Exits with 0 when every payment counted once, with 1 otherwise."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends everything, as Ctrl-C does
    # It tells of every broker that is away.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    is_all = scenario == "all"
    if system != "famulus" and scenario not in FOR_ANY:
        raise click.UsageError(f"of other systems than ours only {', '.join(FOR_ANY)} are hurt")
    size = Size(
        events or (20_000 if is_all else 200_000),
        number,
        seed,
        [int(each) for each in workers.split(",")],
        pause_s,
    )
    folder = Path(tempfile.mkdtemp(prefix="famulus-torture-"))
    results: dict[str, Result] = {}
    is_exact = False
    try:
        with console.status("") as status:
            for name in SCENARIOS if is_all else [scenario]:
                results[name] = run(name, system, size, folder, status.update)
        is_exact = all(result.is_exact for result in results.values())
        console.print(overview(results, f"{scenario}, {system}, seed {seed}"))
    finally:
        if is_exact:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            console.print(f"logs and state are kept in {folder}")
    console.print("exact" if is_exact else "drift", style="green" if is_exact else "red")
    raise SystemExit(int(is_exact == expect_drift))


if __name__ == "__main__":
    main()
