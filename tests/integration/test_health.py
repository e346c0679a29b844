"""`/startupz` and `/readyz` of live workers: each cause for red as it comes about, in words, and that it ends."""

import signal
import time

from famulus.dev.broker import Broker
from famulus.dev.worker import WorkerProcess
from tests.support.on_kafka.house import COUNTING, SESSION_S, House, wait_for

REFUSED = "this disk is for looking only"
FAULT = f"""
from pathlib import Path

from famulus.state.rocksdb_store import Store, StoreError

opened = Store.open


def open_or_refuse(store):
    if Path("refused").exists():
        raise StoreError("{REFUSED}")
    return opened(store)


Store.open = open_or_refuse
"""
HALTING = """
from app import PermanentError


@handles(Thing)
async def note(thing: Thing) -> None:
    raise PermanentError("no")
"""


def says(worker: WorkerProcess, path: str) -> tuple[int, str]:
    """Status, and why."""
    status, answer = worker.answer(path)
    return status, answer.get("why", "")


def test_red_until_the_first_assignment_is_restored(house: House) -> None:
    """With what it waits for; later troubles turn only the readiness red.

    It is alive all the time.
    """
    house.build(HALTING, options=', on_dead_letter="halt"')
    (house.checkout / "agents/a_fault.py").write_text(FAULT)
    (house.checkout / "refused").touch()
    worker = house.start(ready=0)
    wait_for(lambda: says(worker, "/startupz") == (503, REFUSED))
    assert says(worker, "/readyz") == (503, REFUSED)
    assert worker.answer("/livez")[0] == 200
    (house.checkout / "refused").unlink()
    wait_for(lambda: says(worker, "/startupz") == (200, ""))
    wait_for(lambda: says(worker, "/readyz") == (200, ""))
    house.send(house.thing("a"))
    wait_for(lambda: says(worker, "/readyz")[0] == 503)
    assert "failed for good" in says(worker, "/readyz")[1]
    assert says(worker, "/startupz") == (200, "")
    assert worker.stop() == 0


def test_red_until_the_group_assigns_and_green_without_partitions(house: House) -> None:
    """A member that hangs holds the assignment up; a worker that gets nothing stands by, and is ready."""
    house.build(COUNTING)
    one = house.start("one")
    one.signal(signal.SIGSTOP)
    two = house.start("two", ready=0)
    why = "the group has not assigned partitions yet, or assigns them anew"
    wait_for(lambda: says(two, "/startupz") == says(two, "/readyz") == (503, why))
    one.signal(signal.SIGKILL)
    wait_for(lambda: says(two, "/startupz") == says(two, "/readyz") == (200, ""))
    three = house.start("three", ready=0)
    wait_for(lambda: says(three, "/startupz") == says(three, "/readyz") == (200, ""))
    time.sleep(SESSION_S + 1)  # heartbeats alone say that Kafka hears it
    owned = [worker.get("/subscriptions/")[0]["next_offsets"] for worker in (two, three)]
    assert sorted(map(len, owned)) == [0, 1]
    assert says(two, "/readyz") == says(three, "/readyz") == (200, "")
    assert three.stop() == two.stop() == 0


def test_red_while_no_broker_answers(house: House) -> None:
    """Also when nothing is to be handled; it has started all the same."""
    with Broker() as broker:
        servers = broker.bootstrap_servers
        house.kafka = house.kafka.model_copy(update={"bootstrap_servers": servers})
        house.build(COUNTING)
        worker = house.start(KAFKA__BOOTSTRAPSERVERS=servers)
        assert says(worker, "/readyz") == (200, "")
        [node] = broker.nodes
        node.pause()
        why = (
            f"no broker has answered this worker for {SESSION_S} s: the group gives its "
            "partitions to others"
        )
        wait_for(lambda: says(worker, "/readyz") == (503, why))
        assert says(worker, "/startupz") == (200, "")
        status, answer = worker.answer("/lag/")
        assert (status, "the cluster does not say how far the group is" in answer["error"]) == (
            503,
            True,
        )
        node.resume()
        wait_for(lambda: says(worker, "/readyz") == (200, ""), 60)
        worker.stop()
