"""Where a worker goes on, on a real Kafka: where its state is, whatever became of the group's offsets or the topic."""

from collections import Counter

from famulus.dev.worker import WorkerProcess
from tests.support.on_kafka.house import LIMIT_S, House, wait_for


def refused(worker: WorkerProcess) -> str:
    """The one line of a worker that ends with 78."""
    assert worker.wait_exit(LIMIT_S) == 78
    text = worker.log.read_text("utf-8", "replace")
    [line] = [line for line in text.splitlines() if line.startswith("Error: ")]
    return line


def test_the_state_says_where_to_go_on(house: House) -> None:
    """Offsets that were rewound, set ahead or deleted by hand change nothing, and it is said."""
    house.build()
    events = [house.thing(f"key-{number % 3}", number) for number in range(40)]
    worker = house.start()
    house.send(*events[:20])
    house.wait_settled(20, worker)
    assert worker.stop() == 0
    assert house.committed() == {0: 20}

    house.commit({0: 5})
    worker = house.start()
    line = house.wait_log(worker, "the commit of 5 is behind; the state goes on where it is")
    assert "goes_on_at=20" in line
    # Else whoever asks the group sees a lag that nothing ends.
    wait_for(lambda: house.committed() == {0: 20})
    assert worker.get("/subscriptions/")[0]["next_offsets"] == {"0": 20}
    house.send(*events[20:21])
    house.wait_settled(21, worker)
    assert house.outcomes(worker) == Counter(handled=1)
    assert worker.stop() == 0
    assert house.committed() == {0: 21}

    house.send(*events[21:30])
    house.commit({0: 25})
    worker = house.start()
    line = house.wait_log(worker, "somebody else committed offset 25; not followed")
    assert "[WARNING]" in line
    assert "goes_on_at=21" in line
    house.wait_settled(30, worker)
    assert worker.rows("count") == {f"key-{key}": 10 for key in range(3)}
    assert worker.stop() == 0

    house.forget_group()
    assert house.committed() == {}
    house.send(*events[30:])
    worker = house.start()
    house.wait_settled(40, worker)
    assert house.outcomes(worker)["handled"] == 10
    assert sum(worker.rows("count").values()) == 40
    assert worker.stop() == 0


def test_a_commit_ahead_is_followed_or_refused_and_a_topic_made_anew_is_refused(
    house: House,
) -> None:
    """`State.OnCommitAhead`; and a log that is shorter than the state is never guessed about."""
    house.build()
    worker = house.start()
    house.send(*(house.thing("key", number) for number in range(5)))
    house.wait_settled(5, worker)
    assert worker.stop() == 0
    house.send(*(house.thing("key", number) for number in range(5, 10)))
    house.commit({0: 8})

    line = refused(house.start(ready=0, STATE__ONCOMMITAHEAD="fail"))
    assert "the committed offset 8 is ahead of the state, which has processed up to 5" in line

    worker = house.start(STATE__ONCOMMITAHEAD="follow")
    house.wait_log(worker, "somebody else committed offset 8; followed")
    house.wait_settled(10, worker)
    assert worker.rows("count") == {"key": 7}
    assert worker.stop() == 0

    house.delete_topic(house.topic)
    house.make_topics()
    house.send(*(house.thing("new", number) for number in range(3)))
    worker.log.unlink()
    line = refused(house.start(ready=0))
    assert f"{house.topic} was deleted and made anew" in line
    assert f"`faust -A app state replay --topic {house.topic}`" in line
