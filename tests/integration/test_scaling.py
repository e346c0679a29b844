"""What scales the workers reads numbers that there are: the answer that KEDA's trigger asks for, of a live worker."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import yaml

from famulus.kafka.lag import GroupLagMonitor
from tests.support.on_kafka.house import SLEEPING, House, wait_for
from tests.support.places import ROOT

WAITING = 7


def trigger() -> dict[str, str]:
    """What the trigger of `keda-web.yaml` says."""
    objects = yaml.safe_load_all((ROOT / "deploy/kubernetes/keda-web.yaml").read_text("utf-8"))
    [scaled] = [of for of in objects if of["kind"] == "ScaledObject"]
    [found] = scaled["spec"]["triggers"]
    assert found["type"] == "metrics-api"
    return dict(found["metadata"])


def test_a_worker_tells_keda_how_far_the_whole_group_is_behind(house: House) -> None:
    """Partitions of other workers included; the same as the command says."""
    house.build(SLEEPING, partitions=2)
    one = house.start("one", ready=0)
    two = house.start("two", ready=0)
    wait_for(
        lambda: [len(of.get("/subscriptions/")[0]["next_offsets"]) for of in (one, two)] == [1, 1]
    )
    house.send(*(house.thing(f"k{n}", n, "wait", partition=n % 2) for n in range(WAITING)))
    metadata = trigger()
    path = urlsplit(metadata["url"]).path

    def value(of: Any) -> float:
        """As KEDA takes it: a number in the JSON, at a place without dots or brackets in it."""
        found = of.get(path)[metadata["valueLocation"]]
        assert isinstance(found, int)
        return found

    wait_for(lambda: value(one) == value(two) == WAITING)
    watch = GroupLagMonitor(house.kafka, house.group, 30.0, expected=[house.topic])
    theirs, ours = asyncio.run(watch.look()), one.get(path)
    assert {(p["topic"], p["partition"]): p["lag"] for p in ours["partitions"]} == {
        (p.place.topic, p.place.partition): p.look.lag for p in theirs.partitions
    }
    assert (ours["group"], ours["members"]) == (house.group, 2)
    (house.checkout / "go").touch()
    wait_for(lambda: value(one) == value(two) == 0)
    assert one.get(path)["eta_s"] == 0
    assert two.stop() == one.stop() == 0
