"""`make torture`: whether every payment counts once, whatever happens to the workers and their broker meanwhile.

Each leg has topics and a group of its own. Payments are written in slices, so that every blow falls while there is
work. At the end the rows of all workers are compared with the exact fold of the payments, bit for bit.

With `TORTURE_FENCE=off` in the environment a replaced worker may go on writing: `--scenario zombie --expect-drift`.
"""

import itertools
import logging
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import click
from rich.console import Console

from app.dev.broker import Broker
from torture import freezes, kills
from torture.load import payments
from torture.stage import SYSTEMS, Leg, Stage
from torture.verdict import Found, Verdict, announced_in, judge, shown

SCENARIOS = ("kills", "zombie", "broker", "handlers")
MISDEEDS = {"TORTURE_MISDEEDS": "1", "FAILURES__HANDLERTIMEOUTS": "1"}
FROZEN_WORKERS = 2  # one freezes, one takes over
console = Console()


def carry_out(stage: Stage) -> Verdict:
    """Hurt the workers, let everything settle, and compare."""
    stage.leg.hurt(stage)
    unsettled = stage.finish()
    announced = announced_in(stage.kafka, stage.kafka.topic("news"))
    found = Found(stage.rows("counts"), stage.rows("sums"), announced, stage.ledger)
    return judge(stage.leg.made, unsettled, found)


def kill_legs(
    sizes: Sequence[int], events: int, deaths: int, seed: int, settings: Mapping[str, str]
) -> list[Leg]:  # fmt: skip
    """A leg with each number of workers, which get *settings*; payments and deaths are shared out."""
    chance = random.Random(seed)  # noqa: S311  # to be repeated, not to be secret
    steps = itertools.cycle(kills.STEPS)
    made = []
    for number, size in enumerate(sizes):
        share = deaths // len(sizes) + (number < deaths % len(sizes))
        hurt = partial(kills.strike, kills=kills.plan(share, size, chance, steps))
        name = f"{size}-worker" + "s" * (size > 1)
        made.append(Leg(name, size, payments(events // len(sizes), seed + number), hurt, size == 1, settings))
    return made


def summary(stage: Stage, verdict: Verdict) -> dict[str, object]:
    """The lines of one leg's column."""
    marks = stage.marks
    return {
        "kills": marks.kills,
        "restarts": marks.restarts,
        "steps hit": ", ".join(f"{step} {hits}" for step, hits in marks.steps.items() if hits) or "none",
        "ended by themselves": ", ".join(f"{hits} x {code}" for code, hits in marks.ended.items()) or "none",
        "events": verdict.events,
        "unique": verdict.unique,
        "lost": verdict.lost,
        "duplicated": verdict.duplicated,
        "customers with a wrong sum": verdict.wrong_sums,
        "wrongly announced": verdict.unpublished,
        "reordered": verdict.reordered,
        "unsettled": verdict.unsettled,
        "still behind green": marks.green,
        "seconds": round(time.monotonic() - stage.began),
    }


@click.command()
@click.option("--scenario", type=click.Choice(SCENARIOS), default="kills", help="What is done to them.")
@click.option("--system", type=click.Choice(SYSTEMS), default="famulus", help="Whose workers.")
@click.option("--kills", "deaths", type=click.IntRange(1), default=30, help="Of all legs together.")
@click.option("--seed", type=int, default=1, help="The same seed gives the same payments and the same blows.")
@click.option("--workers", default="1,3", help="How many in each leg; kills only.")
@click.option("--events", type=click.IntRange(1_000), default=200_000, help="Of all legs together.")
@click.option("--pause-s", type=click.FloatRange(1), default=60.0, help="For so long the broker is stopped.")
@click.option("--expect-drift", is_flag=True, help="Exit with 0 when something is wrong, with 1 when nothing is.")
def main(  # noqa: PLR0913  # one for each option
    *, scenario: Literal["kills", "zombie", "broker", "handlers"], system: str, deaths: int, seed: int, workers: str,
    events: int, pause_s: float, expect_drift: bool,
) -> None:  # fmt: skip
    """Hurt workers under load. Exits with 0 when every payment counted once, with 1 otherwise."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends everything, as Ctrl-C does
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it tells of every broker that is away
    if scenario in {"kills", "handlers"}:
        settings = MISDEEDS if scenario == "handlers" else {}
        legs = kill_legs([int(size) for size in workers.split(",")], events, deaths, seed, settings)
    else:
        hurt = freezes.zombies if scenario == "zombie" else partial(freezes.outages, pause_s=pause_s)
        legs = [Leg(scenario, FROZEN_WORKERS, payments(events, seed), hurt)]
    folder = Path(tempfile.mkdtemp(prefix="famulus-torture-"))
    columns: dict[str, dict[str, object]] = {}
    is_exact = True
    try:
        with Broker() as broker, console.status("Kafka is there") as status:
            for leg in legs:
                with Stage(system, broker, folder, leg, status.update) as stage:
                    verdict = carry_out(stage)
                is_exact = is_exact and verdict.is_exact and not stage.marks.green
                columns[leg.name] = summary(stage, verdict)
                for words in stage.marks.words:
                    console.print(words, markup=False)
        console.print(shown(columns, f"{scenario}, {system}, seed {seed}"))
    except BaseException:
        is_exact = False
        raise
    finally:
        if is_exact:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            console.print(f"logs and state are kept in {folder}")
    console.print("exact" if is_exact else "drift", style="green" if is_exact else "red")
    raise SystemExit(int(is_exact == expect_drift))


if __name__ == "__main__":
    main()
