"""Headers of requests and replies, and the topic and partition of a reply.

The sender of a request names a topic, and the responder checks it. Otherwise any client that may
write a request could make the worker write to any topic. A reply goes to the partition to which the
request's id hashes, so that a client that repeats a request knows where the first reply is. Pure.
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
_TOPIC, _PARTITION = "ce_replytopic", "ce_replypartition"  # CloudEvents extension attributes
_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")  # of a topic


class RequestError(PublishError):
    """A request cannot be made as it is. Nothing was sent."""


class TooManyRequestsError(RequestError, TransientError):
    """Too many requests of this process wait for their replies. Nothing was sent."""

    exit_code = 69


class RequestTimeoutError(OperatingError, TransientError):
    """No reply came in time. The request may still be handled.

    *request_id* identifies the request when it is sent again.
    """

    exit_code = 69

    def __init__(self, message: str, request_id: str) -> None:
        super().__init__(message)
        self.request_id = request_id


class ReplyRefusedError(PublishError, PermanentError):
    """The request asks for its reply in a topic to which this worker does not reply.

    Nothing was sent.
    """


class ReplyTo(NamedTuple):
    """Destination of a reply: a topic, named as on the cluster, and a partition."""

    topic: str
    partition: int

    def headers(self) -> list[tuple[str, bytes]]:
        """Return the headers by which a request names this destination."""
        return [(_TOPIC, self.topic.encode()), (_PARTITION, b"%d" % self.partition)]


def replies_topic(group: str) -> str:
    """Return the topic of the replies to requests of *group*, as named on the cluster."""
    return group + SUFFIX


def reply_to(headers: Headers, allowed: str) -> ReplyTo | None:
    """Return the destination of the reply to a request, None when it asks for none.

    *headers* are those of the request. Raises ReplyRefusedError for a topic whose name does not end
    with `.replies` or does not match *allowed* (patterns with `*` and `?`, comma separated), and
    for a partition that is not a number.
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
    """Return the partition for the reply to a request.

    Every sender gets the same one, because the partitioner of events is not used.
    """
    return murmur2(request_id.encode(), partitions)


def id_for(partition: int, partitions: int, new: Callable[[], str]) -> str:
    """Return an id made by *new* whose reply goes to *partition*.

    With such ids, a process reads only one partition.
    """
    while partition_of(identifier := new(), partitions) != partition:
        pass
    return identifier


def check_id(request_id: str) -> None:
    """Raise RequestError when *request_id* is not a valid id."""
    if not request_id or not request_id.isprintable() or len(request_id.encode()) > ID_BYTES_MAX:
        raise RequestError(f"a request_id is a printable text of 1 to {ID_BYTES_MAX} bytes")
