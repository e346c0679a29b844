"""Every payment counts once, whatever happens to the workers: the short form of `make torture`."""

import itertools
from pathlib import Path

import pytest

from torture.cluster import Cluster
from torture.frames import Api
from torture.kills import Kill, strike
from torture.load import CUSTOMERS, fold, payments
from torture.proxy import Rule
from torture.run import carry_out
from torture.slots import Blow
from torture.stage import Leg, Stage
from torture.verdict import Found, judge, reordered

EVENTS = 5_000
KILLS = [
    Kill(0, "deleted", delay_s=0.5),
    Kill(0, "kept", Blow("acknowledged", after=3)),
    Kill(0, "moved", Blow("sent", after=3)),
    Kill(0, "kept", delay_s=0.2),
]


def test_payments_follow_from_the_seed() -> None:
    """About one in twenty is there twice, as the same record."""
    made = payments(20_000, seed=3)
    assert made == payments(20_000, seed=3)
    assert made != payments(20_000, seed=4)
    exact = fold(made)
    assert 0.04 < 1 - exact.unique / len(made) < 0.06
    assert len(exact.counts) == CUSTOMERS
    originals = list(dict.fromkeys(made))
    assert sum(payment.amount for payment in originals) == sum(exact.sums.values())
    assert reordered((payment.customer, payment.number) for payment in made) == 0


def test_the_verdict_sees_what_is_wrong(tmp_path: Path) -> None:
    """One count too few, another one too many, and the announcements that are missing."""
    made = payments(2_000, seed=5)
    exact = fold(made)
    ledger = tmp_path / "ledger"
    ledger.write_text("a 0\nb 0\na 1\na 0\na 3\nb 1\n", "ascii")
    first, second = itertools.islice(exact.counts, 2)
    counts = {**exact.counts, first: exact.counts[first] - 1, second: exact.counts[second] + 1}
    verdict = judge(made, 0, Found(counts, {**exact.sums, first: 0}, set(), ledger))
    assert (verdict.lost, verdict.duplicated, verdict.wrong_sums, verdict.reordered) == (1, 1, 1, 1)
    assert verdict.unpublished == len(exact.announced)
    assert not verdict.is_exact


@pytest.mark.timeout(300)
def test_a_worker_that_is_killed_counts_every_payment_once(tmp_path: Path) -> None:
    """Also at the steps of its group commits, with its disk kept, lost, or another's, and acknowledgements lost."""
    lost = Rule("reset", "answer", frozenset({Api.PRODUCE}), times=2)

    def hurt(stage: Stage) -> None:
        stage.cluster.proxy.rules = [lost]
        strike(stage, KILLS)

    leg = Leg("short", 1, payments(EVENTS, seed=7), hurt, is_static=True, is_proxied=True)
    with Cluster() as cluster, Stage("famulus", cluster, tmp_path, leg, lambda _: None) as stage:
        verdict = carry_out(stage)
    assert verdict.is_exact, verdict
    assert set(stage.marks.steps) == {kill.blow.step for kill in KILLS if kill.blow is not None}, (
        "a step was not hit"
    )
    assert lost.hits == 2
