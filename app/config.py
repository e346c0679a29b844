"""The settings, in layers: defaults, `appsettings.json`, `appsettings.{ENVIRONMENT}.json`, environment, command line.

The later one wins, value by value. Every field says its unit. `Kafka.ProducerConfig.Acks` of a file is the variable
`KAFKA__PRODUCERCONFIG__ACKS` and, after a command, `--set Kafka.ProducerConfig.Acks=all`; `KAFKA_BOOTSTRAP_SERVERS` is
an alias of `KAFKA__BOOTSTRAPSERVERS`. Names are compared without case, underscores, dots and dashes, so `GroupId`,
`group_id` and `group.id` are one setting. An unknown name is an error: a setting that is silently ignored is worse than
none. The files are looked for in the working folder or `APPSETTINGS_DIR`; what they may refer to is in
`layers.references`, and `faust -A app config show` says what holds and why.
"""

import os
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.errors import ConfigError
from app.layers.merged import Resolved, merge, nested, resolve
from app.layers.sources import Place, files_of, from_arguments, from_environment, from_file
from app.section import Section, Spelled, UnknownError
from app.security import SecurityConfig
from app.spelling import plain as _plain

GROUP_BYTES_MAX = 800_000


class ProducerConfig(Section):
    """How events leave. The idempotent producer is always on, so `acks` can only be `all`."""

    acks: Literal["all", "-1"] = "all"
    enable_idempotence: bool = True
    retries: int | None = Field(None, ge=0, description="Has no effect, see `publish.connection.explained`.")
    max_in_flight: int | None = Field(None, ge=1, description="Has no effect, see there.")
    compression_type: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "lz4"
    linger_ms: int = Field(5, ge=0, le=10_000, description="How long a batch waits for company, milliseconds.")
    batch_size: int = Field(256 * 1024, ge=1024, le=16 * 2**20, description="Size of a record batch, bytes.")
    max_request_size: int = Field(2**20, ge=1024, le=2**30, description="Largest record, bytes.")
    delivery_timeout_ms: int = Field(120_000, ge=1_000, description="Wait for the cluster to take a record, ms.")
    partitioner: str = Field("murmur2", description="murmur2, consistent_random, or package.module.Class.")

    @field_validator("acks", mode="before")
    @classmethod
    def _all(cls, value: object) -> object:
        text = str(value).lower()
        if text in {"0", "1", "none", "leader"}:
            raise ValueError(
                f"{value} loses events when a broker fails, and the idempotent producer, always on, needs 'all'"
            )
        return text

    @field_validator("partitioner")
    @classmethod
    def _partitioner(cls, value: str) -> str:
        known = {"murmur2": "murmur2", "murmur2random": "murmur2", "consistentrandom": "consistent_random"}
        if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", value):
            return value
        if _plain(value) not in known:
            raise ValueError(f"{value!r} is none of murmur2, consistent_random and package.module.Class")
        return known[_plain(value)]


class ConsumerConfig(Section):
    """How events arrive. Offsets are committed by the worker alone, after the work is done."""

    group_id: str = Field("famulus", min_length=1, max_length=200, pattern=r"^[A-Za-z0-9._-]+$")
    auto_offset_reset: Literal["earliest", "latest"] = "earliest"
    enable_auto_commit: Literal[False, "forced"] = Field(
        default=False,
        description="`true` is refused. `forced` commits every AutoCommitIntervalMs, yet only what is done.",
    )
    auto_commit_interval_ms: int = Field(5_000, ge=100, le=60_000, description="Only if that is forced, milliseconds.")
    session_timeout_ms: int = Field(30_000, ge=6_000, description="A silent worker leaves the group, milliseconds.")
    heartbeat_interval_ms: int = Field(3_000, ge=100, description="Milliseconds.")
    max_poll_interval_ms: int = Field(300_000, ge=10_000, description="Milliseconds.")
    max_poll_records: int = Field(500, ge=1, le=100_000, description="Records of one partition unpacked at once.")
    fetch_max_wait_ms: int = Field(100, ge=1, le=10_000, description="A fetch without data waits, milliseconds.")
    fetch_linger_ms: int = Field(2, ge=0, le=1_000, description="While records flow, a fetch gathers them so long, ms.")
    max_partition_fetch_bytes: int = Field(4 * 2**20, ge=1024, description="Bytes of one fetch from one partition.")

    @field_validator("enable_auto_commit", mode="before")
    @classmethod
    def _ours_alone(cls, value: object) -> object:
        text = str(value).strip().lower()
        if text in {"true", "1", "yes", "on"}:
            raise ValueError(
                "true commits what is not handled yet, and a crash would lose it: leave it out, or say 'forced' for "
                "commits every AutoCommitIntervalMs of what is done"
            )
        return False if text in {"false", "0", "no", "off"} else text


class MessageTypeConfig(Section):
    """What is different for the events of one type: it wins over what the code of its handlers says."""

    handler_timeout_s: float | None = Field(None, ge=0, description="One attempt, seconds; 0 is for ever.")
    unclassified: Literal["transient", "permanent"] | None = Field(None, description="As in Failures.")
    retry_attempts: int | None = Field(None, ge=1, le=1_000, description="Attempts in the lane, the first included.")
    retry_topics: tuple[str, ...] | None = Field(None, description="Waits after those, such as `1m`; empty is none.")

    @field_validator("retry_topics", mode="before")
    @classmethod
    def _waits(cls, value: object) -> object:
        return [wait.strip() for wait in value.split(",") if wait.strip()] if isinstance(value, str) else value


class RepliesConfig(Section):
    """Requests and their replies: `EventBus.request` and `EventBus.reply`."""

    allowed_topics: str = Field(
        "*.replies", min_length=1, description="Where this worker replies to: patterns with * and ?, comma separated."
    )
    open_max: int = Field(1_000, ge=1, le=1_000_000, description="Requests of a process that wait at once.")
    retention_h: float = Field(24.0, gt=0, le=100_000, description="A reply topic that is made keeps them, hours.")


class KafkaConfig(SecurityConfig):
    """Which cluster, and how to talk to it; `security` has the settings of encryption and login."""

    bootstrap_servers: str = Field("localhost:9092", min_length=1, description="host:port, comma separated.")
    topic_prefix: str = Field("", pattern=r"^[A-Za-z0-9._-]*$", description="Put before every topic name of ours.")
    replication_factor: int = Field(1, ge=1, le=9, description="Copies of the topics that we create.")
    partitions: int = Field(4, ge=1, le=10_000, description="Partitions of the topics that we create.")
    schedule_max_h: float = Field(
        0.0, ge=0, le=100_000, description="An event is published for so much later at most, hours; 0 is never."
    )
    producer_config: ProducerConfig = ProducerConfig()
    consumer_config: ConsumerConfig = ConsumerConfig()
    replies: RepliesConfig = RepliesConfig()
    message_types: dict[str, MessageTypeConfig] = Field({}, description="By the name of the event's class.")

    @field_validator("message_types", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return {_plain(str(name)): own for name, own in value.items()} if isinstance(value, Mapping) else value

    @field_validator("bootstrap_servers", mode="before")
    @classmethod
    def _addresses(cls, value: object) -> object:
        text = ",".join(value) if isinstance(value, list) else value
        for address in str(text).split(","):
            host, _, port = address.strip().rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise ValueError(f"{address.strip()!r} is not host:port")
        return text

    def topic(self, name: str) -> str:
        """The topic's name on the cluster: the prefix setting and *name*, which is what models and agents say."""
        return self.topic_prefix + name

    def message_type(self, name: str) -> MessageTypeConfig:
        """What is different for the events whose class is called *name*."""
        return self.message_types.get(_plain(name), MessageTypeConfig())


class WorkerConfig(Section):
    """What one worker process does."""

    data_dir: Path = Field(Path("data"), description="State of this worker. One folder per worker process.")
    web_bind: str = Field("127.0.0.1", description="Address of the web views.")
    web_port: int = Field(6066, ge=1, le=65535, description="Port of the web views.")
    read_token: SecretStr = Field(SecretStr(""), description="Whoever sends it to the web views may look.")
    read_token_file: str = Field("", description="Or a file that holds it, read again when it changes.")
    admin_token: SecretStr = Field(SecretStr(""), description="Whoever sends it to the web views may look and act.")
    admin_token_file: str = Field("", description="Or a file that holds it.")
    startup_timeout_s: float = Field(10.0, gt=0, le=300, description="Wait for the broker at the start, seconds.")
    drain_timeout_s: float = Field(20.0, gt=0, le=3600, description="Finish work in hand at stop or revoke, seconds.")
    stop_timeout_s: float = Field(30.0, gt=0, le=3600, description="The process ends so long after a stop, seconds.")
    commit_interval_s: float = Field(1.0, gt=0.01, le=60, description="Between two offset commits, seconds.")
    concurrency: int = Field(100, ge=1, le=100_000, description="Events in hand at once.")
    partition_concurrency: int = Field(0, ge=0, description="Of one partition at once; 0 means as many as of all.")
    tracing: Literal["auto", "link", "parent", "off"] = Field(
        "auto", description="Spans by OpenTelemetry, if a tracer provider is set; link and parent insist on one."
    )
    version: str = Field("dev", max_length=64, description="Of this code; dead letters name it.")
    deadline_s: float = Field(300.0, gt=0, description="An event in hand for longer turns /livez red, seconds.")
    queue_records: int = Field(10_000, ge=1, description="Unfinished records of one partition before it is paused.")
    queue_bytes: int = Field(64 * 2**20, ge=1024, description="Bytes of one partition held before it is paused.")


class StateConfig(Section):
    """What a worker remembers: tables, marks of handled events, and how far each partition is."""

    dedupe_window_s: float = Field(7 * 86400.0, gt=0, description="An event that comes again is recognised, seconds.")
    cache_mib: int = Field(64, ge=1, description="Block cache of all stores of a process, MiB.")
    write_buffer_mib: int = Field(64, ge=4, description="What all stores have not yet written out, MiB.")
    group_bytes: int = Field(700_000, ge=10_000, description="Most that is settled in one piece, bytes.")
    linger_ms: int = Field(20, ge=0, le=1_000, description="A group waits for more while there is more, milliseconds.")
    standby_replicas: int = Field(0, ge=0, le=9, description="Copies of each partition's state on other workers.")
    retention_h: float = Field(24.0, gt=0, description="Files of partitions that went elsewhere are kept, hours.")
    tombstones_h: float = Field(24.0, ge=1, description="Changelogs keep what says that a row was deleted, hours.")
    on_commit_ahead: Literal["ignore", "follow", "fail"] = "ignore"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.group_bytes > GROUP_BYTES_MAX:
            raise ValueError(f"group_bytes is at most {GROUP_BYTES_MAX}: a record batch has 1 MiB, and not all is rows")
        return self


class FailuresConfig(Section):
    """What counts as a failure, and for how long one event may be handled."""

    handler_timeout_s: float = Field(120.0, ge=0, description="One attempt of a handler, seconds; 0 is for ever.")
    unclassified: Literal["transient", "permanent"] = Field(
        "transient", description="What an error is that the handler did not classify."
    )


class DeadLetterConfig(Section):
    """What becomes of events that failed for good."""

    per_group: bool = Field(default=False, description="TOPIC.GROUP.dead-letter, for groups that share a topic.")
    retention_h: float = Field(720.0, gt=0, description="Dead letters are kept, hours. Longer than their source.")
    sequence_max: int = Field(10_000, ge=1, description="Of one partition: dead, or parked behind a dead one.")
    on_sequence_full: Literal["halt", "skip"] = "halt"
    flood_run: int = Field(20_000, ge=0, description="Failures for good in a row that stop it all; 0 is never.")
    flood_ratio: float = Field(0.5, gt=0, le=1, description="Failures for good among the events of FloodWindowS.")
    flood_window_s: float = Field(60.0, gt=0, description="Seconds.")


class ClaimCheckConfig(Section):
    """Where payloads go that are too large for Kafka. Publishers and workers of a topic need the same store."""

    store: str = Field("", description="A folder, or s3://BUCKET/PREFIX, gs://..., az://...; empty is none.")
    threshold_bytes: int = Field(0, ge=0, description="Larger payloads are put there, bytes; 0 is never.")
    max_bytes: int = Field(256 * 2**20, ge=1, le=2**40, description="Largest payload that is written or read, bytes.")
    in_hand_bytes: int = Field(512 * 2**20, ge=1, description="Redeemed payloads of one worker in hand at once, bytes.")
    timeout_s: float = Field(60.0, gt=0, le=3600, description="One request to the store, seconds.")
    sweep_margin_h: float = Field(24.0, ge=1, description="Blobs are kept for longer than their topic, hours.")

    @field_validator("store")
    @classmethod
    def _is_known(cls, store: str) -> str:
        scheme, separator, rest = store.partition("://")
        if separator and (scheme not in {"file", "s3", "gs", "az"} or not rest):
            raise ValueError("it is a folder, or begins with file://, s3://, gs:// or az://")
        return store

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.threshold_bytes and not self.store:
            raise ValueError("threshold_bytes needs a store, a folder for example")
        if self.in_hand_bytes < self.max_bytes:
            raise ValueError("in_hand_bytes is at least max_bytes, else the largest payload would wait for ever")
        return self


class Settings(Spelled, BaseSettings):
    """All settings of one process. `load_settings()` gives them; build one by hand only in a test."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)  # it may be a password

    kafka: KafkaConfig = KafkaConfig()
    worker: WorkerConfig = WorkerConfig()
    state: StateConfig = StateConfig()
    failures: FailuresConfig = FailuresConfig()
    dead_letter: DeadLetterConfig = Field(
        DeadLetterConfig(), validation_alias=AliasChoices("dead_letter", "deadletter")
    )
    claim_check: ClaimCheckConfig = Field(
        ClaimCheckConfig(), validation_alias=AliasChoices("claim_check", "claimcheck")
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # ours takes the place of them
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is said in code, then our layers."""
        return init_settings, _Layers(settings_cls)

    @property
    def commit_interval_s(self) -> float:
        """Between two offset commits, seconds."""
        consumer = self.kafka.consumer_config
        forced = consumer.enable_auto_commit == "forced"
        return consumer.auto_commit_interval_ms / 1000 if forced else self.worker.commit_interval_s


class _Layers(PydanticBaseSettingsSource):
    """The layers of this process, merged."""

    def __call__(self) -> dict[str, Any]:
        return nested(read_layers())

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not asked: all fields are given at once."""
        raise NotImplementedError(f"{field_name}: {field}")


def settings_files() -> list[Path]:
    """The settings files of this process, the weaker first; they need not be there."""
    return files_of(Path(os.environ.get("APPSETTINGS_DIR", ".")), os.environ.get("ENVIRONMENT", ""))


def read_layers() -> dict[Place, Resolved]:
    """What files, environment and command line say now, and where. Raises ConfigError."""
    said = [from_file(file) for file in settings_files()]
    said.append(from_environment(os.environ, [_plain(name) for name in Settings.model_fields]))
    said.append(from_arguments(sys.argv))
    return resolve(merge(said), os.environ)


@cache
def load_settings() -> Settings:
    """The settings of this process, read once. Raises ConfigError with one line that names every wrong setting."""
    try:
        return Settings()
    except ValidationError as error:
        layers = read_layers()
        faults = "; ".join(_line(fault, layers) for fault in error.errors(include_input=False, include_url=False))
        raise ConfigError(f"settings: {faults}") from None


def _line(fault: ErrorDetails, layers: Mapping[Place, Resolved]) -> str:
    """One fault: the setting, what is wrong, and who said it."""
    said = [str(part) for part in fault["loc"]]
    unknown = fault.get("ctx", {}).get("error")
    place = tuple(_plain(part) for part in [*said, *([unknown.name] if isinstance(unknown, UnknownError) else [])])
    origins = [str(layer.setting) for at, layer in layers.items() if place and at[: len(place)] == place]
    origin = f" ({origins[0]})" if len(origins) == 1 else ""
    return f"{'.'.join(said) or 'settings'}: {fault['msg'].removeprefix('Value error, ')}{origin}"
