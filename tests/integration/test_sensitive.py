"""Nobody sees a sensitive field of an event, whoever looks at it and however: commands, web views, logs."""

from pathlib import Path

from famulus.serialization.records import ProducerRecord
from tests.integration.test_door import ask, tokens_of
from tests.support.on_kafka.canary import CANARY, secret
from tests.support.on_kafka.commands import faust
from tests.support.on_kafka.house import House, wait_for

MODEL = """
from famulus import Event, Part


class Address(Part, namespace="things.Address", sensitive=("street",)):
    street: str


class Thing(Event, namespace="things.Thing", topic="things", key="key", sensitive=("note",)):
    key: str
    number: int = 0
    note: str = ""
    home: Address | None = None
"""
KEEPING = """
kept = things.Table("kept", key=str, value=Thing)


@handles(Thing)
async def note(thing: Thing) -> None:
    kept[thing.key] = thing
    if thing.number:
        raise PermanentError(f"not {thing.note}, of {thing!r}")
"""


def test_nobody_sees_it(house: House, tmp_path: Path) -> None:
    """One event was handled, one failed, one does not decode; the canary is what nobody should see of them."""
    house.build("from app import PermanentError\n" + KEEPING, models=MODEL)
    worker = house.start()
    private = f'"note":"{secret("note")}","home":{{"street":"{secret("street")}"}}'
    for number in ("0", "1", '"one"'):
        house.send(
            ProducerRecord(house.topic, b"a", f'{{"key":"a","number":{number},{private}}}'.encode())
        )
    house.wait_settled(3, worker)
    wait_for(lambda: house.outcomes(worker)["dead_lettered"] == 2)
    read = tokens_of(worker)[2]
    for path in (
        "/tables/kept/",
        "/tables/kept/a/",
        "/console/tables/kept",
        "/console/tables/kept?key=a",
        "/console/dead-letters",
        "/subscriptions/",
    ):
        status, _, body = ask(worker, "GET", path, read)
        assert status == 200, path
        assert CANARY.encode() not in body, path
    assert b'"street":"***"' in ask(worker, "GET", "/tables/kept/a/", read)[2]
    settings = {
        "KAFKA__BOOTSTRAPSERVERS": house.kafka.bootstrap_servers,
        "KAFKA__TOPICPREFIX": house.kafka.topic_prefix,
        "KAFKA__CONSUMERCONFIG__GROUPID": house.group,
        "WORKER__DATADIR": str(tmp_path / "beside"),
    }
    for arguments in (
        ["peek", "things"],
        ["peek", "things", "--json"],
        ["peek", "things.dead-letter", "--json"],
        ["dlq", "show", f"{house.topic}/0/1"],
        ["dlq", "show", f"{house.topic}/0/2", "--json"],
        ["dlq", "redrive", "--everything", "--dry-run", "--json"],
        ["explain", "things", "0", "1"],
    ):
        # Which looks for the canary.
        code, output = faust(*arguments, cwd=house.checkout, **settings)
        # Which says that both fail again.
        assert code == (1 if "--dry-run" in arguments else 0), (arguments, output)
        assert "***" in output or arguments[0] == "explain", (arguments, output)
    assert worker.stop() == 0
