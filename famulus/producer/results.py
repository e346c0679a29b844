"""What sending comes to: where a record stands, or why it does not, and what helps."""

from collections.abc import Sequence
from typing import NamedTuple

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from famulus.errors import OperatingError, PermanentError, TransientError

TIMES = (
    "the topic does not take its time: set this machine's clock and the broker's by NTP, or "
    "raise the topic's "
    "message.timestamp.after.max.ms (message.timestamp.before.max.ms for an old record)"
)


class Published(NamedTuple):
    """Where a record stands now. *timestamp_ms* is the record's time, milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class PublishError(OperatingError):
    """A record could not be sent, or nobody can tell whether it was.

    *published* says of each record of `produce_many` up to there where it stands; None: it was not
    sent, or nobody knows. In a handler it counts as any error of the handler's own unless it is a
    PermanentError or TransientError too.
    """

    def __init__(self, message: str, published: "Sequence[Published | None]" = ()) -> None:
        super().__init__(message)
        self.published = list(published)


class RecordTooLargeError(PublishError, PermanentError):
    """A record is larger than `MaxRequestSize` or than its topic takes (EX_DATAERR).

    Nothing of it was sent.
    """

    exit_code = 65


class UnknownTopicError(PublishError):
    """The cluster has no such topic, or the topic has no such partition."""

    exit_code = 78


class NotAuthorizedError(PublishError):
    """The cluster does not let this client write to the topic (EX_NOPERM). Nothing was sent."""

    exit_code = 77


class NotAcknowledgedError(PublishError, TransientError):
    """No answer came in `DeliveryTimeoutMs`.

    The record *may_be_sent*, or still be sent, unless that is false.
    """

    exit_code = 69

    def __init__(
        self,
        message: str,
        published: "Sequence[Published | None]" = (),
        *,
        may_be_sent: bool = True,
    ) -> None:
        super().__init__(message, published)
        self.may_be_sent = may_be_sent


class TooLarge(MessageSizeTooLargeError):  # type: ignore[misc]  # noqa: N818  # aiokafka's way
    """What `send_all` raises for a record that was not sent: larger than a limit, which *setting* has set."""

    def __init__(self, topic: str, size: int, limit: int, setting: str) -> None:
        super().__init__(f"a record for {topic} is too large: {size} bytes, {setting} is {limit}")

    def __str__(self) -> str:
        return str(self.args[0])  # without Kafka's number for it


class Found(NamedTuple):
    """What there is to be said beside an error: *is_open* when an answer may still come."""

    partitions: int  # that the topic has, 0 when it is not there
    limit_ms: int
    is_open: bool


def in_words(
    error: Exception, topic: str, published: "Sequence[Published | None]", found: Found
) -> PublishError:
    """What aiokafka raised, and TimeoutError, in our words. *topic* is the name on the cluster."""
    if isinstance(error, MessageSizeTooLargeError):
        words = (
            str(error)
            if isinstance(error, TooLarge)
            else f"a record for {topic} is too large for the topic"
        )
        return RecordTooLargeError(
            f"{words}; raise that, or send a reference to the payload", published
        )
    if isinstance(error, UnknownTopicOrPartitionError) and found.partitions:
        words = f"topic {topic} has no such partition: there are {found.partitions}, counted from 0"
        return UnknownTopicError(words, published)
    if isinstance(error, UnknownTopicOrPartitionError):
        cure = "create it, with `faust -A app topics apply` if a subscription reads it"
        return UnknownTopicError(f"there is no topic {topic}: {cure}", published)
    if isinstance(error, (TopicAuthorizationFailedError, ClusterAuthorizationFailedError)):
        cure = "ask for an ACL that allows Describe and Write"
        return NotAuthorizedError(
            f"the cluster does not let us write to topic {topic}: {cure}", published
        )
    if isinstance(error, TimeoutError):
        so = "it may have been sent, or still be" if found.is_open else "nothing of it was sent"
        words = (
            f"no answer for a record to {topic} in {found.limit_ms} ms "
            "(DeliveryTimeoutMs), the cluster may be away"
        )
        return NotAcknowledgedError(f"{words}; {so}", published, may_be_sent=found.is_open)
    return PublishError(f"a record for {topic} was refused: {_refusal(error)}", published)


def cause(error: Exception) -> str:
    """What is wrong with records of several topics, and what helps."""
    if isinstance(error, TooLarge):
        return f"{error}; raise that"
    if isinstance(error, MessageSizeTooLargeError):
        return "one is larger than the topic takes; raise its max.message.bytes"
    if isinstance(error, UnknownTopicOrPartitionError):
        return f"there is no topic {', '.join(map(str, error.args)) or 'or partition'}; create it"
    if isinstance(error, TopicAuthorizationFailedError):
        return "the cluster does not let us write; ask for an ACL that allows Describe and Write"
    if isinstance(error, TimeoutError):
        return "no answer in time; the cluster may be away"
    return _refusal(error)


def _refusal(error: Exception) -> str:
    return TIMES if isinstance(error, InvalidTimestampError) else f"{type(error).__name__}: {error}"
