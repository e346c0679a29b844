"""Settings of the Kafka cluster, the producer and the consumer."""

import re
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from famulus.config.section import Section
from famulus.config.security import SecurityConfig
from famulus.spelling import plain

MS_MAX = 2**31 - 1  # maximum in Kafka's protocol
HEARTBEATS = 3  # minimum per session timeout


class ProducerConfig(Section):
    """Settings of the producer.

    The idempotent producer is always on, so `acks` can only be `all`.
    """

    acks: Literal["all", "-1"] = Field(
        "all", description="Can only be all: 0 and 1, which lose events, are refused."
    )
    enable_idempotence: bool = Field(
        default=True,
        description="false has no effect: always on, else a record that is sent again is "
        "there twice.",
    )
    retries: int | None = Field(
        None,
        ge=0,
        description="Has no effect: a batch is sent again until DeliveryTimeoutMs, uncounted.",
    )
    max_in_flight: int | None = Field(
        None,
        ge=1,
        description="Has no effect: there is always one batch of a partition on its way, which "
        "keeps order.",
    )
    compression_type: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "lz4"
    linger_ms: int = Field(
        5,
        ge=0,
        le=10_000,
        description="The first record of a batch waits for company, milliseconds.",
    )
    batch_size: int = Field(
        256 * 1024, ge=1024, le=16 * 2**20, description="Largest batch, before compression, bytes."
    )
    buffer_memory: int = Field(
        32 * 2**20,
        ge=64 * 1024,
        le=2**40,
        description="Records that wait to be sent; then calls wait for room, bytes.",
    )
    max_request_size: int = Field(2**20, ge=1024, le=2**30, description="Largest record, bytes.")
    delivery_timeout_ms: int = Field(
        120_000, ge=1_000, description="Wait for the cluster to take a record, ms."
    )
    partitioner: str = Field(
        "murmur2", description="murmur2, consistent_random, or package.module.Class."
    )

    @field_validator("acks", mode="before")
    @classmethod
    def _all(cls, value: object) -> object:
        text = str(value).lower()
        if text in {"0", "1", "none", "leader"}:
            raise ValueError(
                f"{value} loses events when a broker fails, and the idempotent producer, "
                "always on, needs 'all'"
            )
        return text

    @field_validator("partitioner")
    @classmethod
    def _partitioner(cls, value: str) -> str:
        known = {
            "murmur2": "murmur2",
            "murmur2random": "murmur2",
            "consistentrandom": "consistent_random",
        }
        if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", value):
            return value
        if plain(value) not in known:
            raise ValueError(
                f"{value!r} is none of murmur2, consistent_random and package.module.Class"
            )
        return known[plain(value)]


class ConsumerConfig(Section):
    """Settings of the consumer.

    Only the worker commits offsets, and only of records that are done.
    """

    elsewhere: ClassVar[Mapping[str, str]] = {
        "groupinstanceid": "there is no static membership; a worker that ends gives its "
        "partitions away at once, and "
        "State.StandbyReplicas has others take them over quickly",
        "groupprotocol": "workers join by the classic protocol",
        "partitionassignmentstrategy": (
            "partitions are shared out together with their state, in one way"
        ),
        "isolationlevel": "it is always read_committed",
        "clientid": "workers are known by their host",
    }

    group_id: str = Field("famulus", min_length=1, max_length=200, pattern=r"^[A-Za-z0-9._-]+$")
    auto_offset_reset: Literal["earliest", "latest"] = "earliest"
    enable_auto_commit: Literal[False, "forced"] = Field(
        default=False,
        description="`true` is refused. `forced` commits every AutoCommitIntervalMs, yet only "
        "what is done.",
    )
    auto_commit_interval_ms: int = Field(
        5_000, ge=100, le=60_000, description="Only if that is forced, milliseconds."
    )
    session_timeout_ms: int = Field(
        30_000, ge=6_000, le=MS_MAX, description="A silent worker leaves the group, milliseconds."
    )
    heartbeat_interval_ms: int = Field(
        3_000,
        ge=100,
        description="At most a third of the session timeout; less by itself if that is short, ms.",
    )
    max_poll_interval_ms: int = Field(
        300_000,
        ge=10_000,
        le=MS_MAX,
        description="A worker whose event loop hangs for so long leaves the group, ms.",
    )
    max_poll_records: int = Field(
        200, ge=1, le=100_000, description="Records of one partition unpacked at once."
    )
    fetch_max_wait_ms: int = Field(
        100, ge=1, le=10_000, description="A fetch without data waits, milliseconds."
    )
    fetch_linger_ms: int = Field(
        3, ge=0, le=1_000, description="While records flow, a fetch gathers them so long, ms."
    )
    max_partition_fetch_bytes: int = Field(
        4 * 2**20, ge=1024, description="Bytes of one fetch from one partition."
    )
    max_unpacked_bytes: int = Field(
        64 * 2**20,
        ge=2**20,
        le=2**31 - 1,
        description="A compressed batch unpacks to so much at most, bytes.",
    )
    max_value_bytes: int = Field(
        16 * 2**20, ge=1024, description="A larger value is poison, before it is decoded; bytes."
    )
    max_headers: int = Field(256, ge=16, description="A record with more of them is poison.")

    @model_validator(mode="after")
    def _beats_in_time(self) -> Self:
        most = self.session_timeout_ms // HEARTBEATS
        if self.heartbeat_interval_ms > most:
            if "heartbeat_interval_ms" in self.model_fields_set:
                raise ValueError(
                    f"heartbeat_interval_ms is {self.heartbeat_interval_ms}: set it to {most} "
                    "at most, a third of "
                    f"session_timeout_ms ({self.session_timeout_ms}), so that one that is lost "
                    "costs no place"
                )
            self.__dict__["heartbeat_interval_ms"] = most  # the default, lowered to fit
        return self

    @field_validator("enable_auto_commit", mode="before")
    @classmethod
    def _ours_alone(cls, value: object) -> object:
        text = str(value).strip().lower()
        if text in {"true", "1", "yes", "on"}:
            raise ValueError(
                "true commits what is not handled yet, and a crash would lose it: leave it "
                "out, or say 'forced' for "
                "commits every AutoCommitIntervalMs of what is done"
            )
        return False if text in {"false", "0", "no", "off"} else text


class MessageTypeConfig(Section):
    """Settings for the events of one type; they override those in the code of its handlers."""

    handler_timeout_s: float | None = Field(
        None, ge=0, description="One attempt, seconds; 0 is for ever."
    )
    unclassified: Literal["transient", "permanent"] | None = Field(
        None, description="As in Failures."
    )
    retry_attempts: int | None = Field(
        None, ge=1, le=1_000, description="Attempts in the lane, the first included."
    )
    retry_topics: tuple[str, ...] | None = Field(
        None, description="Waits after those, such as `1m`; empty is none."
    )

    @field_validator("retry_topics", mode="before")
    @classmethod
    def _waits(cls, value: object) -> object:
        return (
            [wait.strip() for wait in value.split(",") if wait.strip()]
            if isinstance(value, str)
            else value
        )


class RepliesConfig(Section):
    """Settings of requests and replies: `EventBus.request` and `EventBus.reply`."""

    allowed_topics: str = Field(
        "*.replies",
        min_length=1,
        description="Where this worker replies to: patterns with * and ?, comma separated.",
    )
    open_max: int = Field(
        1_000, ge=1, le=1_000_000, description="Requests of a process that wait at once."
    )
    retention_h: float = Field(
        24.0, gt=0, le=100_000, description="A reply topic that is made keeps them, hours."
    )


_address_form = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9.])?):([0-9]{1,5})"
)


def _address(text: str) -> str:
    """Return *text* if it is the address of one broker, host:port.

    Raises ValueError, which says what it should look like.
    """
    found = _address_form.fullmatch(text)
    if found is not None and 0 < int(found[1]) < 65536:
        return text
    if "://" in text:
        cure = "write host:port alone, the protocol is Kafka.SecurityProtocol"
    elif ";" in text or len(text.split()) > 1:
        cure = "brokers are separated by commas: a:9092,b:9092"
    elif text.count(":") > 1 and not text.startswith("["):
        cure = "an IPv6 address stands in brackets: [::1]:9092"
    elif found is not None or re.fullmatch(r"[^:]+:[0-9]+", text):
        cure = "a port is 1 to 65535"
    else:
        cure = "such as broker-1:9092"
    raise ValueError(f"{text!r} is not host:port: {cure}")


class KafkaConfig(SecurityConfig):
    """Settings of the cluster and its clients; see `security` for encryption and authentication."""

    bootstrap_servers: str = Field(
        "localhost:9092", min_length=1, description="host:port, comma separated."
    )
    topic_prefix: str = Field(
        "", pattern=r"^[A-Za-z0-9._-]*$", description="Put before every topic name of ours."
    )
    replication_factor: int = Field(
        1, ge=1, le=9, description="Copies of the topics that we create."
    )
    partitions: int = Field(
        4, ge=1, le=10_000, description="Partitions of the topics that we create."
    )
    schedule_max_h: float = Field(
        0.0,
        ge=0,
        le=100_000,
        description="An event is published for so much later at most, hours; 0 is never.",
    )
    producer_config: ProducerConfig = ProducerConfig()
    consumer_config: ConsumerConfig = ConsumerConfig()
    replies: RepliesConfig = RepliesConfig()
    message_types: dict[str, MessageTypeConfig] = Field(
        {}, description="By the name of the event's class."
    )

    @field_validator("message_types", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return (
            {plain(str(name)): own for name, own in value.items()}
            if isinstance(value, Mapping)
            else value
        )

    @field_validator("bootstrap_servers", mode="before")
    @classmethod
    def _addresses(cls, value: object) -> object:
        said = [str(each) for each in value] if isinstance(value, list) else str(value).split(",")
        return ",".join(_address(each.strip()) for each in said)

    def topic(self, name: str) -> str:
        """Return the name on the cluster of the topic that models and agents call *name*."""
        return self.topic_prefix + name

    def message_type(self, name: str) -> MessageTypeConfig:
        """Return the settings for events whose class is called *name*, by default all unset."""
        return self.message_types.get(plain(name), MessageTypeConfig())
