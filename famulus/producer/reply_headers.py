"""What a request says of its reply, and where a reply may go: headers, topics and partitions. Pure.

The sender of a request names a topic, so the responder checks it: else whoever may write a request
could have the worker write anywhere. A reply goes to the partition that the request's id falls
into, so that whoever repeats a request knows where the first reply is.
"""

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import NamedTuple

from famulus.errors import OperatingError, PermanentError, TransientError
from famulus.kafka.partitioner import murmur2
from famulus.producer.results import PublishError
from famulus.serialization.records import Headers

SUFFIX = ".replies"
ID_BYTES_MAX = 200
_TOPIC, _PARTITION = "ce_replytopic", "ce_replypartition"  # extensions of the CloudEvent
_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")  # of a topic


class RequestError(PublishError):
    """A request cannot be made as it is. Nothing was sent."""


class TooManyRequestsError(RequestError, TransientError):
    """As many requests of this process wait for their replies as may. Nothing was sent."""

    exit_code = 69


class RequestTimeoutError(OperatingError, TransientError):
    """No reply came in time. The request may still be handled: *request_id* is for asking again."""

    exit_code = 69

    def __init__(self, message: str, request_id: str) -> None:
        super().__init__(message)
        self.request_id = request_id


class ReplyRefusedError(PublishError, PermanentError):
    """The request names a topic for its reply to which this worker does not reply.

    Nothing was sent.
    """


class ReplyTo(NamedTuple):
    """Where a reply is to go, as the request says: a topic as named on the cluster, and one of its partitions."""

    topic: str
    partition: int

    def headers(self) -> list[tuple[str, bytes]]:
        """What a request says of it."""
        return [(_TOPIC, self.topic.encode()), (_PARTITION, b"%d" % self.partition)]


def replies_topic(group: str) -> str:
    """Where the replies to requests of *group* arrive, as named on the cluster."""
    return group + SUFFIX


def reply_to(headers: Headers, allowed: str) -> ReplyTo | None:
    """Where the reply to a request with *headers* goes, None when it asks for none.

    Raises ReplyRefusedError for a topic whose name does not end with `.replies` or does not match
    *allowed* (patterns with `*` and `?`, comma separated), and for a partition that is no number.
    """
    named = dict(headers)
    if _TOPIC not in named:
        return None
    topic = (named[_TOPIC] or b"").decode("utf-8", "backslashreplace")
    if not _NAME.fullmatch(topic) or not topic.endswith(SUFFIX):
        raise ReplyRefusedError(
            f"a reply was asked for in {topic[:249]!r}, and replies go to topics named *{SUFFIX}"
        )
    if not any(fnmatchcase(topic, pattern.strip()) for pattern in allowed.split(",")):
        raise ReplyRefusedError(
            f"replies to {topic} are not allowed here: Kafka.Replies.AllowedTopics is {allowed!r}"
        )
    partition = named.get(_PARTITION) or b""
    if not re.fullmatch(rb"[0-9]{1,5}", partition):
        raise ReplyRefusedError(
            f"a reply was asked for in {topic}, in a partition that is no number"
        )
    return ReplyTo(topic, int(partition))


def partition_of(request_id: str, partitions: int) -> int:
    """The partition of the reply to a request: the same for every sender, whatever partitioner events have."""
    return murmur2(request_id.encode(), partitions)


def id_for(partition: int, partitions: int, new: Callable[[], str]) -> str:
    """An id, made by *new*, whose reply goes to *partition*: then a process reads only that one."""
    while partition_of(identifier := new(), partitions) != partition:
        pass
    return identifier


def check_id(request_id: str) -> None:
    """Raise RequestError when *request_id* cannot be an id."""
    if not request_id or not request_id.isprintable() or len(request_id.encode()) > ID_BYTES_MAX:
        raise RequestError(f"a request_id is a printable text of 1 to {ID_BYTES_MAX} bytes")
