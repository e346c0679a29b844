"""`faust -A app peek` on a real Kafka."""

import json
import time
from typing import Any

from famulus.serialization.records import ProducerRecord
from tests.integration.conftest import settings_of
from tests.support.on_kafka.commands import faust, one_line
from tests.support.on_kafka.dead_letters import in_transaction
from tests.support.on_kafka.house import House


def test_records_are_shown_as_they_are(house: House) -> None:
    """The newest, those of a key, those from an offset on; what does not decode, and what a terminal must not obey."""
    house.build(partitions=3)  # the last one stays empty
    began = time.time_ns() // 1_000_000 - 900_000  # retention goes by this
    house.send(
        *(
            house.thing("k", number, partition=0, at_ms=began + 1_000 * number)
            for number in range(20)
        ),
        house.thing("other", 1, "\x1b[2J", partition=1, at_ms=began + 500_000),
        ProducerRecord(house.topic, b"k", b'{"key":\n1}', [("note", b"\xff")], 1, began + 600_000),
        ProducerRecord(house.topic, None, b"\xff\xfe", (), 1, began + 700_000),
        ProducerRecord(house.topic, b"gone", None, (), 1, began + 800_000),
    )
    settings = settings_of(house.kafka, house.folder / "asked")

    def peek(*arguments: str) -> list[dict[str, Any]]:
        code, output = faust("peek", *arguments, "--json", cwd=house.checkout, **settings)
        assert code == 0, output
        return [json.loads(line) for line in output.splitlines()]

    newest = peek("things", "--last", "6")
    assert [(of["partition"], of["offset"]) for of in newest] == [
        (0, 18),
        (0, 19),
        (1, 0),
        (1, 1),
        (1, 2),
        (1, 3),
    ]
    assert [bool(of["fault"]) for of in newest] == [False, False, True, True, True, True]
    assert (newest[0]["value"]["number"], newest[0]["type"], newest[0]["headers"]["ce_id"]) == (
        18,
        "things.Thing",
        "k-18",
    )
    assert (newest[3]["value"], newest[3]["fault"]) == (
        {"key": 1},
        "$.key: Expected `str`, got `int`",
    )
    assert (newest[4]["value_hex"], newest[4]["key"]) == ("fffe", None)
    assert (newest[5]["value"], newest[5]["value_hex"]) == (None, None)
    assert [
        of["offset"] for of in peek("things", "--partition", "0", "--offset", "3", "--last", "2")
    ] == [3, 4]
    assert [of["offset"] for of in peek("things", "--key", "k", "--last", "2")] == [19, 1]
    # What was aborted, and the mark of that, have offsets and are no records.
    aborted = [ProducerRecord(house.topic, b"k", b"{}", (), 0, began + 900_000)] * 3
    in_transaction(house.kafka, aborted, is_kept=False)
    assert [of["offset"] for of in peek("things", "--partition", "0", "--last", "2")] == [18, 19]
    code, output = faust("peek", "things", cwd=house.checkout, **settings)
    assert (code, "\x1b" in output, "at fault: $.key" in output) == (0, False, True), output
    code, output = faust("peek", "nothing", cwd=house.checkout, **settings)
    assert (code, "there is no topic" in one_line(output)) == (78, True), output
    code, output = faust("peek", "things", "--offset", "3", cwd=house.checkout, **settings)
    assert (code, "of one --partition" in output) == (2, True), output
