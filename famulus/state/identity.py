"""What a partition's state belongs to: a store and a changelog partition know it, so that nothing is ever mixed.

Pure: no Kafka, no store. Topic ids are those of KIP-516; "" is one that nobody knows, since brokers
before Kafka 2.8 have none.
"""

from typing import NamedTuple

import msgspec

from famulus.errors import ConfigError


class ChangelogPartition(msgspec.Struct, frozen=True):
    """A changelog partition: *topic* by its name, *topic_id* tells it from one of that name before or after it."""

    cluster_id: str
    topic: str
    topic_id: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


encode_home = msgspec.json.encode
decode_home = msgspec.json.Decoder(ChangelogPartition).decode


class Extent(NamedTuple):
    """A changelog partition as it is: where it begins and ends.

    It says all of the state from *whole_since* on, -1 where nothing says so. *is_own*: its
    processed row knows that it belongs here, so somebody has taken this log for the truth.
    """

    begin: int
    end: int
    whole_since: int = 0
    is_own: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether all of the state can be made from it."""
        return self.begin <= max(self.whole_since, 0)


class StoreCopy(NamedTuple):
    """A store at *path* that holds the changelog of *home* up to *position*, -1: it is empty.

    *home* None: by a version that did not note it.
    """

    home: ChangelogPartition | None
    position: int
    path: object


class Judgement(NamedTuple):
    """What becomes of a store: *rebuilt* says why it is made anew from its changelog, "" where it goes on as it is.

    *lacks*: what only this store has by now, in words.
    """

    rebuilt: str = ""
    lacks: str = ""


def is_other(known: str, now: str) -> bool:
    """Whether two ids are of different things, as far as both are known."""
    return bool(known and now and known != now)


def judged(store: StoreCopy, here: ChangelogPartition, log: Extent, source: str) -> Judgement:
    """What becomes of a *store* for the changelog partition *here*, and of that.

    *source* is the topic that the commands for a cure are about. Raises ConfigError where a person
    has to decide: what is there is never mixed, and the only copy of something is never deleted.
    """
    if store.home is not None:
        check_place(store.home, here, store.path)
        if is_other(store.home.topic_id, here.topic_id):
            if not log.is_own:
                raise ConfigError(
                    f"{here}: the changelog was deleted and made anew, and the state in "
                    f"{store.path} is of the one "
                    f"before; {restore_or_replay(source)}"
                )
            _check_whole(here, log, source)
            return Judgement("the changelog was made anew, and others go on by it")
    start = store.position + 1
    if start > log.end:
        raise ConfigError(
            f"{here}: the state in {store.path} holds the changelog up to offset "
            f"{store.position}, but the changelog "
            f"ends at {log.end}: it was made anew or lost records; {restore_or_replay(source)}"
        )
    if start < log.begin:
        _check_whole(here, log, source)
        return Judgement(
            f"the changelog was made anew from offset {log.whole_since} on" if start else ""
        )
    if not log.is_whole:
        return Judgement(
            lacks=f"the changelog begins at offset {log.begin}: what was before it, only this "
            "state has"
        )
    return Judgement()


def check_place(store: ChangelogPartition, here: ChangelogPartition, path: object) -> None:
    """Raise ConfigError when the *store* at *path* is of another cluster, topic or partition than *here*."""
    if is_other(store.cluster_id, here.cluster_id):
        raise ConfigError(
            f"the state in {path} is of the cluster {store.cluster_id}, and this one is "
            f"{here.cluster_id}: set "
            "KAFKA_BOOTSTRAP_SERVERS to that cluster, or Worker.DataDir to a folder of its own "
            "for this one"
        )
    if (store.topic, store.partition) != (here.topic, here.partition):
        raise ConfigError(
            f"the state in {path} is that of {store}: it was put into the wrong place; move it "
            "back there, or away: "
            f"then the state of {here} is made from its changelog"
        )


def _check_whole(here: ChangelogPartition, log: Extent, source: str) -> None:
    if not log.is_whole:
        raise ConfigError(
            f"{here}: the changelog begins at offset {log.begin}, and what was before it is in "
            "no state of this worker:"
            " it was truncated; start the worker that has the state, or "
            f"{restore_or_replay(source)}"
        )


def check_written_here(
    written: ChangelogPartition | None, here: ChangelogPartition, source: str
) -> None:
    """Raise ConfigError when the records of *here* say that they were *written* for another changelog partition."""
    if written is None:
        return
    why = ""
    if is_other(written.cluster_id, here.cluster_id):
        why = f"the cluster {written.cluster_id}, and this one is {here.cluster_id}"
    elif (written.topic, written.partition) != (here.topic, here.partition):
        why = f"{written}"
    elif is_other(written.topic_id, here.topic_id):
        why = (
            f"a topic of the same name with the id {written.topic_id}, and this one has "
            f"{here.topic_id}"
        )
    if why:
        raise ConfigError(
            f"the records of the changelog {here} were written for {why}: they were copied, "
            "and what they say of "
            f"offsets is of no use here; `faust -A app reset-offsets {source}` keeps the "
            "tables and goes on where you "
            f"say, or {replay(source)}"
        )


class CommitNote(msgspec.Struct, frozen=True):
    """What stands beside an offset that the group commits: of which topic it is, and whether there is a state."""

    source_id: str = ""
    has_state: bool = False


def note_text(note: CommitNote) -> str:
    """As the metadata of a commit."""
    return msgspec.json.encode(note).decode()


def note_of(metadata: str) -> CommitNote:
    """What the *metadata* of a commit says, nothing when it was made by somebody else or an older version."""
    try:
        return msgspec.json.decode(metadata, type=CommitNote)
    except (msgspec.DecodeError, RecursionError):
        return CommitNote()


def made_anew(source: str, before: str, now: str) -> ConfigError:
    """The error that says that a *source* is not the topic that its state knows."""
    return ConfigError(
        f"{source} was deleted and made anew (its id was {before}, now it is {now}): the "
        "offsets in its state are of "
        f"the topic before; `faust -A app reset-offsets {source} --to-beginning` keeps the "
        "tables and reads the new "
        f"topic from its beginning, or {replay(source)}"
    )


def check_leader_epoch(source: str, partition: int, next_offset: int, end: int | None) -> None:
    """Raise ConfigError when the records of the epoch that was read up to *next_offset* *end* before that."""
    if end is not None and end < next_offset:
        raise ConfigError(
            f"{source}-{partition}: what was read as records {end} to {next_offset - 1} is not "
            "in the topic any more: "
            f"it was truncated to offset {end} and may have been written anew from there; "
            "`faust -A app reset-offsets "
            f"{source} --partition {partition} --to-offset {end}` keeps the tables and reads "
            "on there, or "
            f"{replay(source)}"
        )


def restore_or_replay(source: str) -> str:
    """Both cures of a state without its changelog."""
    return (
        f"`faust -A app state restore-changelog --topic {source}` writes it back from the "
        "state of this worker, "
        f"or {replay(source)}"
    )


def replay(source: str) -> str:
    """The cure that is always there."""
    return f"`faust -A app state replay --topic {source}` makes the state anew"
