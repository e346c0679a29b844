"""Identity of a partition's state, so that states of different origin are never mixed.

Store and changelog partition both note the cluster, topic, topic id and partition that they belong
to.

This module is pure: no Kafka, no store. Topic ids are those of KIP-516. "" is an unknown id, since
brokers before Kafka 2.8 have none.
"""

from typing import NamedTuple

import msgspec

from famulus.errors import ConfigError


class ChangelogPartition(msgspec.Struct, frozen=True):
    """Identity of a changelog partition.

    *topic_id* distinguishes the topic from earlier or later ones of the same name.
    """

    cluster_id: str
    topic: str
    topic_id: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


encode_home = msgspec.json.encode
decode_home = msgspec.json.Decoder(ChangelogPartition).decode


class Extent(NamedTuple):
    """Offsets of a changelog partition, and the records in it that tell if it is complete.

    *begin* is the first offset and *end* the one after the last. The log has all of the state from
    *whole_since* on; -1 means that no record says so. *is_own* is True when its source position
    names this topic, so a worker has already accepted this log as the truth.
    """

    begin: int
    end: int
    whole_since: int = 0
    is_own: bool = False

    @property
    def is_whole(self) -> bool:
        """Return True if all of the state can be restored from the log."""
        return self.begin <= max(self.whole_since, 0)


class StoreCopy(NamedTuple):
    """Identity of a store at *path* that holds the changelog *home* up to *position*.

    *position* is -1 for an empty store. *home* is None when an older version wrote the store
    without noting it.
    """

    home: ChangelogPartition | None
    position: int
    path: object


class Judgement(NamedTuple):
    """Decision about a store.

    *rebuilt* is the reason to rebuild it from its changelog, "" to keep it as it is. *lacks*
    describes what only this store has and its changelog lacks.
    """

    rebuilt: str = ""
    lacks: str = ""


def is_other(known: str, now: str) -> bool:
    """Return True if two ids are known and differ."""
    return bool(known and now and known != now)


def judged(store: StoreCopy, here: ChangelogPartition, log: Extent, source: str) -> Judgement:
    """Decide if a *store* is kept or rebuilt for the changelog partition *here*.

    *log* is the extent of that partition. *source* is the source topic that the commands in error
    messages name.

    Raises ConfigError when an operator has to decide. States are never mixed, and the only copy of
    a state is never deleted.
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
    """Check that a *store* belongs to the cluster, topic and partition of *here*.

    Raises ConfigError when it does not. *path* is its folder, for the message.
    """
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
    """Raise ConfigError when the records of *here* were *written* for another changelog partition.

    *written* is None where a version wrote them that did not note it.
    """
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
    """Metadata of an offset that the group commits.

    *source_id* is the id of the topic that the offset belongs to, *has_state* is True if the
    partition has state.
    """

    source_id: str = ""
    has_state: bool = False


def note_text(note: CommitNote) -> str:
    """Encode a note as the metadata of an offset commit."""
    return msgspec.json.encode(note).decode()


def note_of(metadata: str) -> CommitNote:
    """Decode the *metadata* of an offset commit.

    The note is empty when another client or an older version made the commit.
    """
    try:
        return msgspec.json.decode(metadata, type=CommitNote)
    except (msgspec.DecodeError, RecursionError):
        return CommitNote()


def made_anew(source: str, before: str, now: str) -> ConfigError:
    """Return the error for a *source* that was deleted and created again."""
    return ConfigError(
        f"{source} was deleted and made anew (its id was {before}, now it is {now}): the "
        "offsets in its state are of "
        f"the topic before; `faust -A app reset-offsets {source} --to-beginning` keeps the "
        "tables and reads the new "
        f"topic from its beginning, or {replay(source)}"
    )


def check_leader_epoch(source: str, partition: int, next_offset: int, end: int | None) -> None:
    """Check that the source was not truncated below *next_offset* (KIP-320).

    *end* is the end offset of the leader epoch that was read up to *next_offset*, None if unknown.
    Raises ConfigError when it is below *next_offset*.
    """
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
    """Return the advice for a state that has lost its changelog: both ways to repair it."""
    return (
        f"`faust -A app state restore-changelog --topic {source}` writes it back from the "
        "state of this worker, "
        f"or {replay(source)}"
    )


def replay(source: str) -> str:
    """Return the advice that always applies: replay the source."""
    return f"`faust -A app state replay --topic {source}` makes the state anew"
