"""The settings of processes that run: shown by the command, taken by the worker."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from famulus.config import KafkaConfig
from famulus.dev.worker import WorkerProcess
from tests.integration.conftest import settings_of
from tests.support.on_kafka.commands import faust, one_line
from tests.support.on_kafka.house import SLEEPING, House, wait_for

MISSION = Path(__file__).parents[1] / "mission"
FAILING = """
@handles(Thing)
async def note(thing: Thing) -> None:
    count[thing.key] += 1
    raise RuntimeError("broken on purpose")
"""


def test_show_says_what_holds_and_who_said_it() -> None:
    """As lines and as JSON, a secret as stars, the command line as the strongest layer."""
    settings = {
        "KAFKA__SASLPASSWORD": "hush",
        "KAFKA__SASLUSERNAME": "me",
        "KAFKA__SASLMECHANISM": "plain",
        "KAFKA__SECURITYPROTOCOL": "SaslSsl",
        "KAFKA_BOOTSTRAP_SERVERS": "one:1",
    }
    code, output = faust("config", "show", "--set", "Worker.WebPort=77", **settings)
    assert code == 0, output
    assert "hush" not in output
    lines = {line.split()[0]: line.split()[1:] for line in output.splitlines()}
    assert lines["Worker.WebPort"] == ["77", "command", "line"]
    assert lines["Kafka.BootstrapServers"] == ["one:1", "KAFKA_BOOTSTRAP_SERVERS"]
    assert lines["Kafka.ProducerConfig.LingerMs"] == ["5", "ms", "appsettings.json"]
    assert lines["Kafka.SaslPassword"] == ["***", "KAFKA__SASLPASSWORD"]
    code, output = faust("config", "show", "--json", **settings)
    rows = {row["name"]: row for row in map(json.loads, output.splitlines())}
    assert code == 0, output
    assert set(rows) == {name for name in lines if "." in name}
    assert rows["State.DedupeWindowS"]["unit"] == "s"


def test_schema_is_json() -> None:
    """Nothing else goes to standard output."""
    code, output = faust("config", "schema")
    assert code == 0, output
    assert json.loads(output)["properties"]["Kafka"]["$ref"] == "#/$defs/KafkaConfig"


def test_a_wrong_set_is_78() -> None:
    """Before anything is done, with the nearest match."""
    code, output = faust("worker", "--set", "Worker.WebProt=1")
    assert code == 78, output
    assert "did you mean 'web_port'? (Worker.WebProt in command line)" in one_line(output)


def test_commands_of_faust_take_settings_too() -> None:
    """It is no option that only we know."""
    code, output = faust("agents", "--set", "Kafka.TopicPrefix=mine.")
    assert code == 0, output
    assert "mine.order-events" in output


def test_a_worker_runs_with_the_missions_file(
    checkout: Path, make_topics: Callable[..., None], start_worker: Callable[..., WorkerProcess]
) -> None:
    """Unchanged; where the broker is and what is this test's own comes from the environment."""
    shutil.copy(MISSION / "appsettings.json", checkout)
    make_topics("order-events", "stock-events")
    worker = start_worker(cwd=checkout)
    assert "Retries 3: sent again until DeliveryTimeoutMs" in worker.log.read_text()


def test_a_type_that_nobody_handles_is_78(kafka: KafkaConfig, tmp_path: Path) -> None:
    """Its settings would be ignored."""
    settings = {
        **settings_of(kafka, tmp_path),
        "KAFKA__MESSAGETYPES__ORDERCREATD__RETRYATTEMPTS": "1",
    }
    code, output = faust("worker", **settings)
    assert code == 78, output
    assert "did you mean OrderCreated?" in one_line(output)


def test_settings_of_a_type_win_over_its_handlers(house: House) -> None:
    """One attempt instead of three with waits between them."""
    house.build(FAILING)
    worker = house.start(KAFKA__MESSAGETYPES__THING__RETRYATTEMPTS="1")
    began = time.monotonic()
    house.send(house.thing("a"))
    wait_for(lambda: house.outcomes(worker)["dead_lettered"] == 1)
    assert time.monotonic() - began < 2.0, "there was a second attempt"


def test_auto_commit_is_refused(house: House) -> None:
    """With the reason and the cure, before the worker has read anything."""
    house.build(SLEEPING)
    code, output = faust(
        "worker", cwd=house.checkout, KAFKA__CONSUMERCONFIG__ENABLEAUTOCOMMIT="true"
    )
    assert code == 78, output
    assert "a crash would lose it" in one_line(output)
    assert "forced" in one_line(output)


def test_forced_auto_commit_never_commits_what_is_not_done(house: House) -> None:
    """An event in hand is read again after a kill, however many intervals have passed."""

    def start(name: str) -> WorkerProcess:
        return house.start(
            name,
            KAFKA__CONSUMERCONFIG__ENABLEAUTOCOMMIT="forced",
            KAFKA__CONSUMERCONFIG__AUTOCOMMITINTERVALMS="100",
            WORKER__COMMITINTERVALS="60",  # so that it is the other interval that commits
        )

    house.build(SLEEPING)
    worker = start("one")
    house.wait_log(worker, "EnableAutoCommit is forced")
    house.send(house.thing("a"), house.thing("b", note="wait"), house.thing("c"))
    wait_for(lambda: house.committed() == {0: 1})
    time.sleep(1.0)
    assert house.committed() == {0: 1}
    house.kill(worker)
    (house.checkout / "go").touch()
    worker = start("two")
    wait_for(lambda: house.committed() == {0: 3})
    assert house.outcomes(worker)["handled"] >= 1
