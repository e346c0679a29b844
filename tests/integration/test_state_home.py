"""Topics, clusters and folders that are not what they were, on a real Kafka: noticed, and nothing mixed or deleted."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from famulus.dev.broker import Broker
from famulus.dev.worker import WorkerProcess
from famulus.kafka.admin import create_topics
from famulus.state.changelog import ROW
from tests.integration.conftest import settings_of
from tests.integration.test_state_start import refused
from tests.support.on_kafka.commands import faust
from tests.support.on_kafka.house import LIMIT_S, House, wait_for

PLAIN = """
from app import Deliveries, app, handles
from models.things import *

things = app.subscription("things", dedupe=False)


@app.agent(things)
async def thing_agent(deliveries: Deliveries) -> None:
    await deliveries.carry()


@handles(Thing)
async def note(thing: Thing) -> None:
    with open("handled", "a") as file:
        print(thing.key, thing.number, file=file)
"""


def ended(worker: WorkerProcess) -> str:
    """The one line of a worker that was running and ends with 78."""
    line = refused(worker)
    worker.log.write_text("")
    return line


@pytest.fixture
def on_store(house: House, tmp_path: Path) -> Callable[..., str]:
    """Run a command on the state of worker `one`: what it printed."""

    def run(*words: str, code: int = 0) -> str:
        found, output = faust(
            *words, cwd=house.checkout, **settings_of(house.kafka, tmp_path / "one")
        )
        assert found == code, output
        return output

    return run


def set_policy(house: House, policy: str) -> None:
    """What Kafka does with old records of the changelog."""
    config = ConfigResource(ConfigResourceType.TOPIC, house.state_topic, {"cleanup.policy": policy})
    house.admin(lambda admin: admin.alter_configs([config]))


def empty_changelog(house: House) -> None:
    """Delete all that the changelog has, as retention does."""
    set_policy(house, "delete")
    places = [TopicPartition(house.state_topic, number) for number in range(house.partitions)]
    house.admin(lambda admin: admin.delete_records({at: RecordsToDelete(-1) for at in places}))


def send_and_stop(
    house: House, worker: WorkerProcess, first: int, last: int, settled: int
) -> dict[str, int]:
    """Have events of some keys settled, *settled* in all by then, and end the worker: what the table says."""
    events = [
        house.thing(f"key-{n % 5}", n, partition=n % house.partitions) for n in range(first, last)
    ]
    house.send(*events)
    house.wait_settled(settled, worker)
    rows = dict(worker.rows("count"))
    assert worker.stop() == 0
    return rows


def test_a_changelog_that_was_deleted_is_written_back_from_the_store(
    house: House, on_store: Callable[..., str]
) -> None:
    """Nobody begins with nothing, no store is deleted, and a folder that was put into the wrong place is no store."""
    house.build(partitions=2)
    rows = send_and_stop(house, house.start(), 0, 20, 20)
    before = house.stored(ROW), house.stored(ROW, 1)
    house.delete_topic(house.state_topic)

    line = ended(house.start(ready=0))
    assert "the changelog was deleted and made anew, and the state in" in line
    assert f"`faust -A app state restore-changelog --topic {house.topic}` writes it back" in line
    assert f"`faust -A app state replay --topic {house.topic}`" in line
    line = ended(house.start("two", ready=0))
    assert "with a state, and there is none now" in line
    assert before == (house.stored(ROW), house.stored(ROW, 1))

    assert "restore-changelog" in on_store("state", "restore-changelog", code=2)  # needs --topic
    assert "--partition: only for restore-changelog" in on_store(
        "state", "export", "--partition", "0", code=2
    )
    beyond = on_store(
        "state", "restore-changelog", "--topic", "things", "--partition", "2", code=78
    )
    assert f"topic {house.topic} has 2 partitions, the first is 0" in beyond
    output = on_store("state", "restore-changelog", "--topic", "things")
    assert "records written" in output
    assert (
        on_store("state", "restore-changelog", "--topic", "things").count("the changelog is whole")
        == 2
    )
    on_store("state", "verify")

    shutil.rmtree(house.store(0, "two").parent)
    worker = house.start("two")
    assert worker.rows("count") == rows
    house.send(*(house.thing(f"key-{n % 5}", n, partition=n % 2) for n in range(20)))
    house.wait_settled(40, worker)
    assert house.outcomes(worker)["duplicate"] == 20
    assert send_and_stop(house, worker, 20, 25, 45) == {
        key: count + 1 for key, count in rows.items()
    }

    shutil.rmtree(house.store(1))
    shutil.copytree(house.store(0), house.store(1))
    line = ended(house.start(ready=0))
    assert f"is that of {house.state_topic}-0: it was put into the wrong place" in line
    shutil.rmtree(house.store(1))
    worker = house.start()
    assert worker.rows("count") == {key: count + 1 for key, count in rows.items()}

    house.delete_topic(house.state_topic)  # while it runs
    line = ended(worker)
    assert all(
        words in line for words in (house.state_topic, "was deleted", "restore-changelog")
    ), line


def test_an_older_copy_of_a_state_is_not_taken_for_the_newest(
    house: House, on_store: Callable[..., str], tmp_path: Path
) -> None:
    """Another machine had the partitions before: what it has would undo what came later."""
    house.build(partitions=2)
    send_and_stop(house, house.start(), 0, 10, 10)
    for partition in (0, 1):
        shutil.copytree(house.store(partition), house.store(partition, "two"))
    rows = send_and_stop(house, house.start(), 10, 20, 20)
    house.delete_topic(house.state_topic)

    settings = settings_of(house.kafka, tmp_path / "two")
    command = "state", "restore-changelog", "--topic", "things"
    code, output = faust(*command, cwd=house.checkout, **settings)
    assert (code, "0 records written" in output) == (1, True), output
    assert output.count("the group has committed") == 2
    assert "--older takes this one" in " ".join(output.split())
    assert "records written" in on_store(*command)
    code, output = faust(*command, "--older", cwd=house.checkout, **settings)
    assert (code, output.count("others go on by it")) == (0, 2), output
    worker = house.start("two")
    assert worker.rows("count") == rows
    assert worker.stop() == 0


def test_a_changelog_that_was_emptied_is_mended_from_the_store_or_refused(
    house: House, on_store: Callable[..., str]
) -> None:
    """With a whole store it is written back at the start; without one the state is not what is left."""
    house.build()
    rows = send_and_stop(house, house.start(), 0, 20, 20)
    empty_changelog(house)
    line = ended(house.start(ready=0))
    assert f"the changelog {house.state_topic} has cleanup.policy=delete" in line
    assert f"--entity-name {house.state_topic} --alter --add-config cleanup.policy=compact" in line
    set_policy(house, "compact")

    worker = house.start()
    house.wait_log(worker, "the changelog is whole again")
    assert worker.rows("count") == rows
    rows = send_and_stop(house, worker, 20, 25, 25)
    shutil.rmtree(house.store())
    worker = house.start()
    assert worker.rows("count") == rows
    assert worker.stop() == 0

    empty_changelog(house)
    set_policy(house, "compact")
    shutil.rmtree(house.store())
    line = ended(house.start(ready=0))
    assert "what was before it is in no state of this worker" in line
    on_store("state", "replay", "--topic", "things", "--yes")
    worker = house.start()
    house.wait_settled(25, worker)
    assert worker.rows("count") == rows


def test_a_source_that_was_made_anew_is_noticed_however_long_it_is(
    house: House, on_store: Callable[..., str]
) -> None:
    """Between two runs and while a worker runs.

    With a state it is refused, without one it is read from its begin.
    """
    house.build()
    rows = send_and_stop(house, house.start(), 0, 10, 10)
    remade(house, 30)
    line = ended(house.start(ready=0))
    assert f"{house.topic} was deleted and made anew" in line
    assert f"`faust -A app reset-offsets {house.topic} --to-beginning` keeps the tables" in line
    on_store("reset-offsets", house.topic, "--to-beginning", "--yes")
    worker = house.start()
    house.wait_settled(30, worker)
    assert worker.rows("count") == {**rows, "new": 30}

    remade(house, 40)
    assert f"{house.topic} was deleted and made anew" in ended(worker)

    (house.checkout / "agents/things.py").write_text(PLAIN)
    worker = house.start()
    house.wait_settled(40, worker)
    handled = house.checkout / "handled"
    handled.unlink()
    remade(house, 60)
    # And what is behind the last one.
    wait_for(lambda: len(set(handled.read_text().split("\n"))) > 60, 2 * LIMIT_S)
    assert (
        "the topic was deleted and made anew; it is read from its beginning"
        in worker.log.read_text()
    )
    assert worker.stop() == 0


def remade(house: House, events: int) -> None:
    """Delete the source, make it anew, with more events than it had."""
    house.delete_topic(house.topic)
    house.make_topics(house.topic)
    house.send(*(house.thing("new", number + 100 * events) for number in range(events)))


def test_the_state_of_another_cluster_is_refused(house: House) -> None:
    """However well its positions fit.

    That cluster knows nothing of the group, so a new folder begins there.
    """
    house.build()
    send_and_stop(house, house.start(), 0, 5, 5)
    with Broker() as other:
        there = house.kafka.model_copy(update={"bootstrap_servers": other.bootstrap_servers})
        asyncio.run(
            create_topics(
                there, dict.fromkeys((house.topic, f"{house.topic}.dead-letter"), 1), LIMIT_S
            )
        )
        servers = other.bootstrap_servers
        line = ended(house.start(ready=0, KAFKA__BOOTSTRAPSERVERS=servers))
        assert "is of the cluster" in line
        assert "Worker.DataDir" in line
        assert house.start("two", KAFKA__BOOTSTRAPSERVERS=servers).stop() == 0
    assert len(house.stored(ROW)) == 5


def test_a_source_that_was_truncated_and_written_anew_is_noticed(
    house_on: Callable[[Broker], House], tmp_path: Path
) -> None:
    """Its id is the same, and it is longer than the position: the leader epoch of what was read tells."""
    with Broker(data_dir=tmp_path / "kafka") as broker:
        house, [node] = house_on(broker), broker.nodes
        house.build()
        worker = house.start()
        house.send(*(house.thing("old", number) for number in range(60)))
        house.wait_settled(60, worker)
        node.kill()
        log = node.folder / "log" / f"{house.topic}-0"
        shutil.copytree(log, tmp_path / "before")
        broker.restart(node)
        house.send(*(house.thing("lost", number) for number in range(40)))
        house.wait_settled(100, worker, timeout_s=2 * LIMIT_S)
        assert worker.stop() == 0

        node.kill()
        shutil.rmtree(log)
        shutil.copytree(tmp_path / "before", log)
        broker.restart(node)
        house.send(*(house.thing("new", number) for number in range(60)))
        line = ended(house.start(ready=0))
        assert (
            f"{house.topic}-0: what was read as records 60 to 99 is not in the topic any more"
            in line
        )
        assert f"`faust -A app reset-offsets {house.topic} --partition 0 --to-offset 60`" in line
        settings = settings_of(house.kafka, tmp_path / "one")
        words = "reset-offsets", house.topic, "--partition", "0", "--to-offset", "60", "--yes"
        code, output = faust(*words, cwd=house.checkout, **settings)
        assert code == 0, output
        worker = house.start()
        house.wait_settled(120, worker)
        assert worker.rows("count") == {"old": 60, "lost": 40, "new": 60}
        assert worker.stop() == 0
