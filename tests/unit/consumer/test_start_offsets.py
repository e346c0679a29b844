"""Tests of start offsets: the state decides, then the commit, then the settings."""

from collections.abc import Collection, Mapping

import pytest
from faust.types import TP

from famulus.consumer.start_offsets import KnownPositions, StartOffsets, find_start_offsets
from famulus.errors import ConfigError
from famulus.state.changelog import SourcePosition
from famulus.state.identity import CommitNote, note_of, note_text

PLACE, OTHER, NEW = TP("orders", 0), TP("orders", 1), TP("orders", 2)


class Cluster:
    """A topic with three partitions whose logs reach from 100 to 200.

    *asked* records the ends that were queried. *committed* are the commits of the group.
    """

    def __init__(self, committed: Mapping[TP, int] | None = None) -> None:
        self.asked: list[str] = []
        self.committed = committed or {}

    async def earliest_offsets(self, *partitions: TP) -> dict[TP, int]:
        """Return where the logs begin."""
        self.asked += ["begin"] * len(partitions)
        return dict.fromkeys(partitions, 100)

    async def highwaters(self, *partitions: TP) -> dict[TP, int]:
        """Return where the logs end."""
        self.asked += ["end"] * len(partitions)
        return dict.fromkeys(partitions, 200)

    async def partitions(self, topics: Collection[str]) -> set[TP]:
        """Return the partitions of the topic."""
        assert set(topics) == {PLACE.topic}
        return {PLACE, OTHER, NEW}

    async def commits(self, partitions: Collection[TP]) -> Mapping[TP, int]:
        """Return the committed offsets of *partitions*."""
        return {tp: offset for tp, offset in self.committed.items() if tp in partitions}


@pytest.mark.parametrize("is_earliest", [True, False])
@pytest.mark.parametrize(
    ("known", "found", "gone"),
    [
        (KnownPositions(SourcePosition(150), 150, 150), {PLACE: 150}, {}),  # the state decides
        (KnownPositions(SourcePosition(150), 120, 120), {PLACE: 150}, {}),  # a commit was lost
        (KnownPositions(SourcePosition(150), None, None), {PLACE: 150}, {}),
        (
            KnownPositions(SourcePosition(20), 20, 20),
            {PLACE: 100},
            {PLACE: 80},
        ),  # the records in between are deleted
        (KnownPositions(None, 120, 120), {}, {}),  # Faust continues at the commit
        (KnownPositions(None, 20, 20), {PLACE: 100}, {PLACE: 80}),
        (KnownPositions(None, 0, 0), {PLACE: 100}, {PLACE: 100}),
    ],
)
async def test_what_is_known_of_a_partition_decides_whatever_the_setting_says(
    known: KnownPositions, found: dict[TP, int], gone: dict[TP, int], *, is_earliest: bool
) -> None:
    """If retention has overtaken the group, only deleted records are skipped."""
    cluster = Cluster()
    assert await find_start_offsets(
        {PLACE: known}, cluster, "ignore", is_earliest=is_earliest
    ) == StartOffsets(found, gone)
    assert set(cluster.asked) <= {"begin", "end"}


async def test_a_commit_of_0_is_set_where_the_log_begins_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By itself aiokafka would not move."""

    async def begins(_: Cluster, *partitions: TP) -> dict[TP, int]:
        return dict.fromkeys(partitions, 0)

    monkeypatch.setattr(Cluster, "earliest_offsets", begins)
    assert await find_start_offsets(
        {PLACE: KnownPositions(None, None, 0)}, Cluster(), "ignore", is_earliest=False
    ) == StartOffsets({PLACE: 0})


UNKNOWN = KnownPositions(None, None, None)


async def test_a_topic_that_the_group_knows_nothing_of_begins_as_the_setting_says() -> None:
    """If it begins at its end, all of its partitions are committed at once."""
    assert await find_start_offsets(
        {PLACE: UNKNOWN}, Cluster(), "ignore", is_earliest=True
    ) == StartOffsets({PLACE: 100})
    fresh = dict.fromkeys((PLACE, OTHER, NEW), 200)
    assert await find_start_offsets(
        {PLACE: UNKNOWN}, Cluster(), "ignore", is_earliest=False
    ) == StartOffsets({PLACE: 200}, fresh=fresh)


@pytest.mark.parametrize("is_earliest", [True, False])
async def test_a_new_partition_of_a_known_topic_begins_with_its_log(*, is_earliest: bool) -> None:
    """The group has committed other partitions of it, or this worker has the state of one."""
    committed = Cluster({PLACE: 150, OTHER: 150})
    found = await find_start_offsets({NEW: UNKNOWN}, committed, "ignore", is_earliest=is_earliest)
    assert found == StartOffsets({NEW: 100})
    known = {PLACE: KnownPositions(SourcePosition(150), None, None), NEW: UNKNOWN}
    found = await find_start_offsets(known, Cluster(), "ignore", is_earliest=is_earliest)
    assert found == StartOffsets({PLACE: 150, NEW: 100})


async def test_who_comes_second_begins_where_the_first_worker_says() -> None:
    """Two workers that start together see each other's first commits.

    These must not pass for a sign of new partitions.
    """
    first = await find_start_offsets({PLACE: UNKNOWN}, Cluster(), "ignore", is_earliest=False)
    found = await find_start_offsets(
        {OTHER: UNKNOWN}, Cluster(first.fresh | {OTHER: 195}), "ignore", is_earliest=False
    )
    assert found == StartOffsets({OTHER: 195})


async def test_a_state_of_another_topic_is_refused() -> None:
    """The error names the remedy."""
    with pytest.raises(
        ConfigError, match=r"orders-0: .*the topic ends at 200.*state replay --topic orders"
    ):
        await find_start_offsets(
            {PLACE: KnownPositions(SourcePosition(201), 150, 150)},
            Cluster(),
            "ignore",
            is_earliest=True,
        )


async def test_a_source_that_was_made_anew_is_refused_where_there_is_a_state() -> None:
    """The length of the new topic does not matter.

    The error names a remedy that keeps or rebuilds the tables.
    """
    known = KnownPositions(SourcePosition(150, source_id="one"), 150, 150, "two")
    with pytest.raises(
        ConfigError, match=r"orders was deleted and made anew.*reset-offsets orders --to-beginning"
    ):
        await find_start_offsets({PLACE: known}, Cluster(), "ignore", is_earliest=True)
    for same in "", "one":  # a broker without ids, and the same id
        assert await find_start_offsets(
            {PLACE: known._replace(source_id=same)}, Cluster(), "ignore", is_earliest=True
        ) == StartOffsets({PLACE: 150})
    older = known._replace(processed=SourcePosition(150))
    assert await find_start_offsets(
        {PLACE: older}, Cluster(), "ignore", is_earliest=True
    ) == StartOffsets({PLACE: 150})


@pytest.mark.parametrize("is_earliest", [True, False])
@pytest.mark.parametrize(
    ("known", "begins_anew"),
    [
        (KnownPositions(None, 150, 150, "two", CommitNote("one"), has_state=False), True),
        (KnownPositions(None, None, None, "two", has_state=False, is_anew=True), True),
        (KnownPositions(None, 150, 150, "one", CommitNote("one"), has_state=False), False),
        # Committed by an older version.
        (KnownPositions(None, 150, 150, "two", CommitNote(), has_state=False), False),
    ],
)
async def test_a_source_that_was_made_anew_is_read_from_its_beginning_where_there_is_no_state(
    known: KnownPositions,
    begins_anew: bool,
    is_earliest: bool,  # from the parameters
) -> None:
    """The setting for groups without commits does not apply."""
    found = await find_start_offsets({PLACE: known}, Cluster(), "ignore", is_earliest=is_earliest)
    assert found == StartOffsets({PLACE: 100} if begins_anew else {})


async def test_a_state_that_is_lost_is_not_taken_for_one_that_begins() -> None:
    """The note of the commit says that there was state, so that an empty changelog is an error."""
    lost = KnownPositions(None, 150, 150, "one", CommitNote("one", has_state=True))
    with pytest.raises(
        ConfigError,
        match=r"committed offset 150 with a state, and there is none.*restore-changelog",
    ):
        await find_start_offsets({PLACE: lost}, Cluster(), "ignore", is_earliest=True)
    for note in (
        CommitNote(),
        CommitNote("one"),
    ):  # an older version, or before it had state
        assert (
            await find_start_offsets(
                {PLACE: lost._replace(note=note)}, Cluster(), "ignore", is_earliest=True
            )
            == StartOffsets()
        )


def test_a_note_of_somebody_else_says_nothing() -> None:
    """The metadata of a commit is free text."""
    assert note_of(note_text(CommitNote("one", has_state=True))) == CommitNote(
        "one", has_state=True
    )
    for other in "", "x", "[1]", '{"source_id": 5}', "[" * 10_000:
        assert note_of(other) == CommitNote()
