"""`faust -A app dlq` on a real Kafka: what it lists and shows, what it sends back, and that it may die at any time."""

import json
import random
import signal
from hashlib import sha256
from pathlib import Path

import pytest

from famulus.dev.broker import Broker
from famulus.dev.node import free_port
from famulus.serialization.records import ProducerRecord
from famulus.state.changelog import epoch_headers, row_key
from tests.support.on_kafka.commands import one_line
from tests.support.on_kafka.dead_letters import Failed, in_transaction, json_lines, place_of
from tests.support.on_kafka.house import COUNTING, House

MANY = 2_000
TRYING = """
from app import EventBus, PermanentError


@handles(Thing)
async def note(thing: Thing, bus: EventBus) -> None:
    count[thing.key] += 1
    if thing.note == "again":
        raise PermanentError("still no")
    await bus.publish(Thing(key=thing.key, number=count[thing.key]))
"""


@pytest.fixture
def failed(house: House) -> Failed:
    """A house with two partitions."""
    house.build(COUNTING, partitions=2)
    return Failed(house)


# What there is.


def test_letters_are_listed_by_cause_and_each(failed: Failed) -> None:
    """A letter that stands twice once, those of other groups not, strange records neither; all of it in words, too."""
    house = failed.house
    events = failed.read(*(house.thing(f"k{n}", n, partition=n % 2) for n in range(6)))
    failed.fail(
        *(failed.letter(event, "exhausted") for event in events[:3]),
        failed.letter(events[0], "exhausted"),
        failed.letter(events[3], "poison"),
        failed.letter(events[4], group="billing"),
        failed.letter(events[5], hops=2),
        ProducerRecord(failed.letters_topic, b"x", b"no letter"),
    )
    exhausted, *others = failed.lines("list")
    assert (exhausted["failure"], exhausted["letters"], exhausted["keys"]) == ("exhausted", 3, 3)
    assert sorted(line["failure"] for line in others) == ["permanent", "poison"]
    assert failed.open() == ["0/0", "0/1", "0/2", "1/0", "1/2"]
    assert [place_of(line) for line in failed.lines("list", "--each", "--group", "billing")] == [
        "1/1"
    ]
    assert [
        place_of(line) for line in failed.lines("list", "--each", "--cause", exhausted["cause"])
    ] == [
        "0/0",
        "0/1",
        "0/2",
    ]
    for filters in (["--key", "k5"], ["--id", "k5-5"], ["--origin", "things/1/2"]):
        assert [place_of(line) for line in failed.lines("list", "--each", *filters)] == ["1/2"]
    assert failed.lines("list", "--until", "1h") == []

    for arguments, width in ((["list"], "60"), (["list"], "140"), (["list", "--each"], "80")):
        code, output = failed.dlq(*arguments, COLUMNS=width)
        assert code == 0, output
        assert "5 dead letters" in output
        assert "agents.things.note" in output
        assert "1 letter of group billing" in output
        assert "1 record in the dead letter topic that no worker of ours wrote" in output
    code, output = failed.dlq("list", "--since", "2h", "--key", "nobody")
    assert (code, "no dead letters like that" in output) == (0, True), output


def test_what_was_taken_back_is_not_there(failed: Failed) -> None:
    """Letters of an aborted transaction; its mark at the end of the log keeps nobody waiting."""
    events = failed.read(*(failed.house.thing(f"k{n}", n, partition=0) for n in range(3)))
    letters = [failed.letter(event) for event in events]
    in_transaction(failed.kafka, letters[:1], is_kept=True)
    in_transaction(failed.kafka, letters[1:], is_kept=False)
    assert failed.open() == ["0/0"]


def test_a_letter_is_shown_beside_a_good_event(failed: Failed) -> None:
    """The last one before it of its type that decodes and did not fail itself; it is said what is wrong."""
    house = failed.house
    wrong = b'{"key":"k","number":"three","extra":1}'
    headers = [("ce_type", b"things.Thing"), ("note", b"\x1b[2J")]
    events = failed.read(
        house.thing("k", 1, "good", partition=0),
        house.thing("k", 2, "failed too", partition=0),
        house.thing("k", 3, kind="things.Other", partition=0),
        ProducerRecord(house.topic, b"k", wrong, headers, 0),
    )
    failed.fail(failed.letter(events[1]), failed.letter(events[3], "poison"))
    [shown] = failed.lines("show", "things/0/3")
    assert shown["fault"] == "$.number: Expected `int`, got `str`"
    assert (shown["value"], shown["event_type"]) == (json.loads(wrong), "things.Thing")
    assert shown["compared_with"] == f"{house.topic}/0/0"
    assert [(d["what"], d["path"]) for d in shown["differences"]] == [
        ("missing", "$.note"),
        ("added", "$.extra"),
        ("type", "$.number"),
    ]
    code, output = failed.dlq("show", "things/0/3", COLUMNS="80")
    assert code == 0, output
    assert "It does not decode with this code: $.number: Expected `int`, got `str`" in output
    assert "at fault" in output
    assert "\x1b" not in output
    [before] = failed.lines("show", "--id", "k-2")
    assert (before["fault"], before["compared_with"]) == (None, f"{house.topic}/0/0")

    code, output = failed.dlq("show", "--key", "k")
    assert (code, "show takes one letter, and 2 are like that" in one_line(output)) == (2, True), (
        output
    )
    code, output = failed.dlq("show", "things/1/7")
    assert (code, "no dead letters like that" in one_line(output)) == (1, True), output


# Sending back.


def test_a_redriven_letter_is_the_event_again(failed: Failed) -> None:
    """Its bytes, headers, time, in its partition; it is done then, twice is once, and all of it is accounted for."""
    events = failed.read(
        *(failed.house.thing(f"k{n}", n, "note", partition=n % 2) for n in range(4))
    )
    failed.fail(*(failed.letter(event, hops=n) for n, event in enumerate(events)))
    code, output = failed.dlq("redrive", "things/1/1", "--yes", "--note", "mended")
    assert (code, "1 letter redriven" in output) == (0, True), output
    [came] = failed.back()
    event = events[3]
    assert (came.topic, came.partition, came.offset, came.timestamp) == (
        event.topic,
        1,
        1,
        event.timestamp,
    )
    assert (came.key, came.value, list(came.headers)) == (
        event.key,
        event.value,
        list(event.headers),
    )
    assert (came.action, came.hops, came.edited) == ("redrive", 4, "")
    [audit] = failed.audits()
    assert audit["who"].count("@") == 1
    assert {
        name: audit[name]
        for name in ("action", "topic", "partition", "offset", "hops", "note", "failure")
    } == {
        "action": "redrive",
        "topic": event.topic,
        "partition": 1,
        "offset": 1,
        "hops": 3,
        "note": "mended",
        "failure": "permanent",
    }
    assert failed.open() == ["0/0", "0/1", "1/0"]

    code, output = failed.dlq("redrive", "--everything", "--yes", "--limit", "2")
    assert (code, "2 letters redriven" in output) == (0, True), output
    for _ in range(2):
        code, output = failed.dlq("redrive", "--everything", "--yes")
        assert code == 0, output
    assert "no letters to redrive" in output
    assert sorted((r.partition, r.offset) for r in failed.back()) == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    assert failed.open() == []
    [shown] = failed.lines("show", "things/1/1")
    assert (shown["settled"]["what"], [a["note"] for a in shown["audit"]]) == (
        "redriven",
        ["mended"],
    )
    every = failed.lines("list", "--each", "--all")
    assert [line["settled"]["what"] for line in every] == ["redriven"] * 4

    failed.fail(failed.letter(event, hops=4))
    assert [(place_of(line), line["hops"]) for line in failed.lines("list", "--each")] == [
        ("1/1", 4)
    ]


def test_dropped_letters_are_gone_and_their_values_stay_out(failed: Failed) -> None:
    """The worker is told, so that it lets pass what waits behind them."""
    events = failed.read(*(failed.house.thing("k", n, partition=0) for n in range(3)))
    failed.fail(
        failed.letter(events[0]),
        failed.letter(events[1], "parked"),
        failed.letter(events[2], "parked"),
    )
    code, output = failed.dlq("drop", "things/0/1", "--yes", "--note", "test data")
    assert (code, "1 letter dropped" in output) == (0, True), output
    assert [(came.action, came.offset) for came in failed.back()] == [("drop", 1)]
    assert [(audit["action"], audit["note"]) for audit in failed.audits()] == [
        ("drop", "test data")
    ]
    assert failed.open() == ["0/0", "0/2"]


def test_what_waits_goes_behind_what_it_waits_for(failed: Failed) -> None:
    """In the order of the log, also when a letter is younger than those behind it; others of the key come along."""
    events = failed.read(*(failed.house.thing("k", n, partition=0) for n in range(4)))
    failed.fail(
        *(failed.letter(event, "parked") for event in events[1:]),
        failed.letter(events[0], hops=1),
        failed.letter(failed.read(failed.house.thing("other", 1, partition=1))[-1]),
    )
    code, output = failed.dlq("redrive", "things/0/2", "--yes")
    assert code == 0, output
    assert "2 letters go along" in output
    assert [came.offset for came in failed.back()] == [0, 1, 2]
    code, output = failed.dlq("redrive", "--key", "k", "--yes")
    assert [came.offset for came in failed.back()] == [0, 1, 2, 3]
    assert failed.open() == ["1/0"]


def test_a_redrive_that_is_killed_is_made_whole_by_the_next(failed: Failed) -> None:
    """Each letter goes back; what was sent and not yet accounted for goes twice, which is one batch at most."""
    events = failed.read(*(failed.house.thing(f"k{n}", n, partition=n % 2) for n in range(MANY)))
    failed.fail(*(failed.letter(event) for event in events))
    redrive = failed.started("redrive", "--everything", "--yes", "--rate", "400")
    failed.wait_audits(300)
    redrive.send_signal(signal.SIGKILL)
    redrive.communicate()
    done = len(failed.audits())
    assert 300 <= done < MANY
    code, output = failed.dlq("redrive", "--everything", "--yes", "--rate", "0")
    assert code == 0, output
    assert f"{MANY - done:,} letters redriven" in output
    came = [(record.partition, record.offset) for record in failed.back()]
    assert set(came) == {(event.partition, event.offset) for event in events}
    assert len(came) <= MANY + 100
    accounts = [(audit["partition"], audit["offset"]) for audit in failed.audits()]
    assert (len(accounts), len(set(accounts))) == (MANY, MANY)


def test_a_stop_says_how_far_it_is(failed: Failed) -> None:
    """And leaves nothing in between."""
    events = failed.read(*(failed.house.thing(f"k{n}", n, partition=0) for n in range(400)))
    failed.fail(*(failed.letter(event) for event in events))
    redrive = failed.started("redrive", "--everything", "--yes", "--rate", "40")
    failed.wait_audits()
    redrive.send_signal(signal.SIGINT)
    output, _ = redrive.communicate(timeout=20)
    count = len(failed.audits())
    assert redrive.returncode == 75, output
    assert f"stopped: {count} of 400 letters were redriven; the same command goes on" in one_line(
        output
    )
    assert len(failed.back()) == count == 400 - len(failed.open())


def test_a_broker_that_goes_away_is_69(failed: Failed) -> None:
    """With how far it is."""
    shared = failed.kafka
    with Broker() as broker:
        failed.house.kafka = failed.kafka = shared.model_copy(
            update={"bootstrap_servers": broker.bootstrap_servers}
        )
        failed.settings["KAFKA__BOOTSTRAPSERVERS"] = broker.bootstrap_servers
        failed.house.make_topics()
        events = failed.read(*(failed.house.thing(f"k{n}", n, partition=0) for n in range(400)))
        failed.fail(*(failed.letter(event) for event in events))
        timeout = {"KAFKA__PRODUCERCONFIG__DELIVERYTIMEOUTMS": "2000"}
        redrive = failed.started("redrive", "--everything", "--yes", "--rate", "40", **timeout)
        failed.wait_audits()
        broker.nodes[0].kill()
        output, _ = redrive.communicate(timeout=40)
        assert redrive.returncode == 69, output
        assert "of 400 letters were redriven; the same command goes on with the rest" in one_line(
            output
        )
    failed.house.kafka = shared


def test_a_value_that_was_too_large_comes_from_the_event(failed: Failed) -> None:
    """What is not there any more stays, and so does what waits behind it; editing needs no original."""
    house = failed.house
    long = "x" * 5_000
    events = failed.read(
        house.thing("a", 0, long, partition=0),
        house.thing("b", 0, long, partition=1),
        house.thing("b", 1, partition=1),
        house.thing("c", 0, partition=1),
    )
    letters = [failed.letter(event, is_large=number < 2) for number, event in enumerate(events)]
    assert [letter.value is None for letter in letters] == [True, True, False, False]
    gone = [
        (name, b"0" * 64 if name == "famulus-value-sha256" else of)
        for name, of in letters[1].headers
    ]
    failed.fail(
        letters[0],
        ProducerRecord(failed.letters_topic, b"b", None, gone, 1),
        failed.letter(events[2], "parked"),
        letters[3],
    )
    code, output = failed.dlq("redrive", "--everything", "--yes", COLUMNS="200")
    assert code == 1, output
    assert "3 letters redriven" not in output
    size = len(events[1].value or b"")
    assert (
        f"{house.topic}/1/0 stays: its value ({size} bytes) was too large for the letter, "
        "and another"
    ) in output
    assert f"{house.topic}/1/1 stays: an earlier letter" in output
    assert [(came.key, came.value) for came in failed.back()] == [
        (b"a", events[0].value),
        (b"c", events[3].value),
    ]
    assert failed.open() == ["1/0", "1/1"]
    [shown] = failed.lines("show", "things/1/0")
    assert "another one is" in shown["value_gone"]


def test_a_huge_value_fits_on_its_way_back(failed: Failed) -> None:
    """A record that Kafka just took the first time has our headers beside it now; where that is too much, it stays."""
    house = failed.house
    # Which cannot be compressed to less than half.
    huge = random.Random(1).randbytes(2**19 - 110).hex()
    quiet = {"KAFKA__PRODUCERCONFIG__COMPRESSIONTYPE": "none"}
    events = failed.read(house.thing("a", 0, huge, partition=0), house.thing("b", 1, partition=0))
    failed.fail(failed.letter(events[0], is_large=True), failed.letter(events[1]))
    house.make_topics(failed.back_topic)
    code, output = failed.dlq("redrive", "--everything", "--yes", **quiet, COLUMNS="200")
    assert (code, f"is larger than {failed.back_topic} takes" in output) == (1, True), output
    assert {came.key for came in failed.back()} == {b"b"}
    house.delete_topic(failed.back_topic)
    code, output = failed.dlq("redrive", "--everything", "--yes", **quiet)
    assert code == 0, output
    assert [came.value for came in failed.back()] == [events[0].value]


def test_an_edited_value_must_be_an_event(failed: Failed, tmp_path: Path) -> None:
    """What it was before is kept as its digest."""
    wrong = b'{"key":"k","number":"three","note":""}'
    [event] = failed.read(
        ProducerRecord(failed.house.topic, b"k", wrong, [("ce_type", b"things.Thing")], 0)
    )
    failed.fail(failed.letter(event, "poison"))
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i \'s/"three"/[3]/\' "$1"\n')
    editor.chmod(0o755)
    arguments = ["redrive", "things/0/0", "--edit", "--yes", "--note", "a text"]
    code, output = failed.dlq(*arguments, EDITOR=str(editor))
    assert (code, "not an event of its type: $.number: Expected `int`" in one_line(output)) == (
        1,
        True,
    ), output
    code, output = failed.dlq(*arguments, EDITOR="true")
    assert (code, "nothing was done" in output) == (1, True), output
    assert failed.logged(failed.letters_topic, 0)
    editor.write_text('#!/bin/sh\nsed -i \'s/"three"/3/; s/"k"/"other"/\' "$1"\n')
    code, output = failed.dlq(*arguments, EDITOR=str(editor))
    assert code == 0, output
    assert "$.number" in output
    assert "its key is other now, and its record's key stays k" in output
    [came] = failed.back()
    assert (came.value, came.edited) == (
        b'{"key":"other","number":3,"note":""}',
        sha256(wrong).hexdigest(),
    )
    assert [audit["edited"] for audit in failed.audits()] == [sha256(wrong).hexdigest()]


def test_what_was_sent_back_ten_times_stays(failed: Failed) -> None:
    """Unless somebody insists."""
    events = failed.read(*(failed.house.thing(f"k{n}", n, partition=0) for n in range(2)))
    failed.fail(failed.letter(events[0], hops=10), failed.letter(events[1], hops=9))
    code, output = failed.dlq("redrive", "--everything", "--yes")
    assert (code, "1 letter stays, redriven 10 times already" in output) == (1, True), output
    assert failed.open() == ["0/0"]
    code, output = failed.dlq("redrive", "--everything", "--yes", "--force")
    assert (code, failed.open()) == (0, []), output


# Trying.


def test_a_dry_run_changes_nothing(failed: Failed) -> None:
    """It says what the handlers would do with the rows that there are; what one letter writes the next one sees."""
    house = failed.house
    house.change(TRYING)
    house.make_topics(house.state_topic)
    state = ProducerRecord(house.state_topic, row_key("count", b"k"), b"7", epoch_headers(1), 0)
    events = failed.read(
        house.thing("k", 1, partition=0),
        house.thing("k", 2, partition=0),
        house.thing("l", 3, "again", partition=0),
        house.thing("l", 4, partition=0),
        house.thing("m", 5, kind="things.Other", partition=0),
        house.thing("k", 1, partition=0),
        ProducerRecord(house.topic, b"n", b"{", (), 1),
    )
    house.send(state)
    failed.fail(
        *(failed.letter(events[number]) for number in (0, 1, 2, 4, 5)),
        failed.letter(events[3], "parked"),
        failed.letter(events[6], "poison"),
    )
    code, output = failed.dlq("redrive", "--everything", "--dry-run", "--json")
    assert code == 1, output
    assert "what handlers do outside, by their services, is real" in output
    trials = list(json_lines(output))
    assert [(place_of(trial), trial["verdict"]) for trial in trials] == [
        ("0/0", "handled"),
        ("0/1", "handled"),
        ("0/2", "fails"),
        ("0/3", "parked"),
        ("0/4", "ignored"),
        ("0/5", "duplicate"),
        ("1/0", "fails"),
    ]
    assert [trial["rows"] for trial in trials[:2]] == [
        [{"table": "count", "key": "k", "before": before, "after": before + 1}] for before in (7, 8)
    ]
    assert trials[1]["events"] == [{"topic": house.topic, "type": "things.Thing", "key": "k"}]
    assert (trials[2]["handler"], trials[2]["error"]) == (
        "agents.things.note",
        "famulus.errors.PermanentError",
    )
    assert trials[2]["message"] == "still no"
    assert trials[6]["message"].startswith("$: ")
    code, output = failed.dlq("redrive", "--key", "k", "--dry-run", "--each")
    assert code == 0, output
    assert "row count/k: 7 -> 8" in output
    assert "would be handled, with 2 rows and 2 events" in output

    assert len(failed.open()) == 7
    assert [record.value for record in failed.logged(house.state_topic, 0)] == [b"7"]
    assert len(failed.logged(house.topic, 0)) == 6
    assert failed.back_topic not in house.admin(lambda admin: admin.list_topics())


# What is wrong.


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (
            ["list", "--topic", "nothing"],
            78,
            "no subscription reads topic 'nothing'; there are: things",
        ),
        (["show", "nothing/0/1"], 78, "no subscription reads topic 'nothing'; there are: things"),
        (["show", "things-0-1"], 2, "is not TOPIC/PARTITION/OFFSET"),
        (
            ["list", "--since", "tomorrow"],
            2,
            "is neither a time such as 2026-01-31T12:00 nor an age",
        ),
        (["list", "--yes"], 2, "--yes: only for redrive and drop"),
        (["drop", "--key", "k", "--dry-run"], 2, "--dry-run: only for redrive"),
        (["redrive", "--yes"], 2, "redrive needs an ORIGIN or a filter"),
        (["redrive", "--everything"], 2, "nobody is there to say yes: add --yes"),
        (["list"], 78, "missing topics: "),
    ],
)
def test_wrong_use_is_one_line(house: House, arguments: list[str], code: int, says: str) -> None:
    """With what would be right."""
    house.build(COUNTING)
    failed = Failed(house)
    house.delete_topic(failed.letters_topic)
    found, output = failed.dlq(*arguments)
    assert (found, says in one_line(output)) == (code, True), output


def test_no_broker_is_69(failed: Failed) -> None:
    """The address that was tried, and what to do."""
    away = {"KAFKA__BOOTSTRAPSERVERS": f"127.0.0.1:{free_port()}", "WORKER__STARTUPTIMEOUTS": "2"}
    code, output = failed.dlq("redrive", "--everything", "--yes", **away)
    assert (code, "no Kafka broker answers at 127.0.0.1:" in one_line(output)) == (69, True), output
