"""Results and errors of sending: positions of records, causes and cures of errors."""

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
    """Position of a record in the log.

    *timestamp_ms* is the record's timestamp in milliseconds since 1970.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class PublishError(OperatingError):
    """A record could not be sent, or it is unknown whether it was.

    *published* has the position of each record of `produce_many` up to the error, None for one that
    was not sent or whose outcome is unknown. In a handler it counts as any other error of the
    handler, unless it is also a PermanentError or a TransientError.
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
    """The cluster does not let this client write to the topic (EX_NOPERM).

    Nothing was sent.
    """

    exit_code = 77


class NotAcknowledgedError(PublishError, TransientError):
    """No answer came within `DeliveryTimeoutMs`.

    The record may have been sent, or may still be sent, unless *may_be_sent* is false.
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


class TooLarge(MessageSizeTooLargeError):  # type: ignore[misc]  # noqa: N818  # named as aiokafka's errors
    """Error of `send_all` for a record that was not sent, being larger than a limit.

    *size* and *limit* are in bytes, *setting* names the setting of the limit.
    """

    def __init__(self, topic: str, size: int, limit: int, setting: str) -> None:
        super().__init__(f"a record for {topic} is too large: {size} bytes, {setting} is {limit}")

    def __str__(self) -> str:
        return str(self.args[0])  # without Kafka's error code


class Found(NamedTuple):
    """Facts that the text of an error needs.

    *limit_ms* is the time limit in milliseconds. *is_open* means that an answer may still come.
    """

    partitions: int  # number of partitions of the topic, 0 when it does not exist
    limit_ms: int
    is_open: bool


def in_words(
    error: Exception, topic: str, published: "Sequence[Published | None]", found: Found
) -> PublishError:
    """Return the PublishError for an aiokafka error or TimeoutError, with its cure.

    *topic* is the name on the cluster.
    """
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
    """Return cause and cure of an error for records of several topics, as text."""
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
