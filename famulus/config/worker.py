"""Settings of a worker: process, state, failures, dead letters and claim checks."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from famulus.config.section import Section

GROUP_BYTES_MAX = 800_000


class WorkerConfig(Section):
    """Settings of one worker process."""

    data_dir: Path = Field(
        Path("data"), description="State of this worker. One folder per worker process."
    )
    web_bind: str = Field("127.0.0.1", description="Address of the web views.")
    web_port: int = Field(6066, ge=1, le=65535, description="Port of the web views.")
    read_token: SecretStr = Field(
        SecretStr(""), description="Whoever sends it to the web views may look."
    )
    read_token_file: str = Field(
        "", description="Or a file that holds it, read again when it changes."
    )
    admin_token: SecretStr = Field(
        SecretStr(""), description="Whoever sends it to the web views may look and act."
    )
    admin_token_file: str = Field("", description="Or a file that holds it.")
    web_header_s: float = Field(
        10.0, gt=0, le=300, description="A request's headers are whole by then, seconds."
    )
    web_body_s: float = Field(10.0, gt=0, le=300, description="And then its body, seconds.")
    web_connections: int = Field(
        200, ge=16, description="To the web views at once; at most a quarter of `ulimit -n`."
    )
    web_connections_per_address: int = Field(
        50, ge=1, description="Of one address that shows no token."
    )
    startup_timeout_s: float = Field(
        10.0, gt=0, le=300, description="Wait for the broker at the start, seconds."
    )
    drain_timeout_s: float = Field(
        20.0, gt=0, le=3600, description="Finish work in hand at stop or revoke, seconds."
    )
    stop_timeout_s: float = Field(
        30.0, gt=0, le=3600, description="The process ends so long after a stop, seconds."
    )
    commit_interval_s: float = Field(
        1.0, gt=0.01, le=60, description="Between two offset commits, seconds."
    )
    concurrency: int = Field(100, ge=1, le=100_000, description="Events in hand at once.")
    partition_concurrency: int = Field(
        0, ge=0, description="Of one partition at once; 0 means as many as of all."
    )
    tracing: Literal["auto", "link", "parent", "off"] = Field(
        "auto",
        description="Spans by OpenTelemetry, if a tracer provider is set; link and parent "
        "insist on one.",
    )
    otel_metrics: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Metrics by OpenTelemetry, too, if a meter provider is set; on insists on one.",
    )
    log_consumed: bool = Field(
        default=False,
        description="A line KafkaMessageConsumed of the log for each message: where, type, "
        "how long.",
    )
    show_keys: bool = Field(default=False, description="/hotkeys/ shows keys; else their digests.")
    version: str = Field("dev", max_length=64, description="Of this code; dead letters name it.")
    deadline_s: float = Field(
        300.0, gt=0, description="An event in hand for longer turns /livez red, seconds."
    )
    stall_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Work that nobody works on for so long turns /readyz red, seconds.",
    )
    stall_exit_s: float = Field(
        90.0, gt=0, le=86_400, description="And after so long it ends the worker, seconds."
    )
    watch_interval_s: float = Field(
        10.0,
        gt=0.1,
        le=60,
        description="Between two looks at the topics, the clock and the open files, seconds.",
    )
    clock_skew_s: float = Field(
        60.0,
        gt=0,
        le=86_400,
        description="A clock farther than this from the brokers' is told of, seconds.",
    )
    queue_records: int = Field(
        10_000, ge=1, description="Unfinished records of one partition before it is paused."
    )
    queue_bytes: int = Field(
        64 * 2**20, ge=1024, description="Bytes of one partition held before it is paused."
    )


class StateConfig(Section):
    """Settings of a worker's state: tables, seen marks and source positions."""

    dedupe_window_s: float = Field(
        7 * 86400.0, gt=0, description="An event that comes again is recognised, seconds."
    )
    cache_mib: int = Field(64, ge=1, description="Block cache of all stores of a process, MiB.")
    write_buffer_mib: int = Field(
        64, ge=4, description="What all stores have not yet written out, MiB."
    )
    compression: Literal["none", "lz4", "zstd"] = Field(
        "none", description="Of the stores' files: less disk, more CPU."
    )
    group_bytes: int = Field(
        700_000, ge=10_000, description="Most that is settled in one piece, bytes."
    )
    linger_ms: int = Field(
        20, ge=0, le=1_000, description="A group waits for more while there is more, milliseconds."
    )
    standby_replicas: int = Field(
        0, ge=0, le=9, description="Copies of each partition's state on other workers."
    )
    retention_h: float = Field(
        24.0, gt=0, description="Files of partitions that went elsewhere are kept, hours."
    )
    tombstones_h: float = Field(
        24.0, ge=1, description="Changelogs keep what says that a row was deleted, hours."
    )
    on_commit_ahead: Literal["ignore", "follow", "fail"] = "ignore"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.group_bytes > GROUP_BYTES_MAX:
            raise ValueError(
                f"group_bytes is at most {GROUP_BYTES_MAX}: a record batch has 1 MiB, and not "
                "all is rows"
            )
        return self


class FailuresConfig(Section):
    """Settings for the classification of failures and the time limit of handlers."""

    handler_timeout_s: float = Field(
        120.0, ge=0, description="One attempt of a handler, seconds; 0 is for ever."
    )
    unclassified: Literal["transient", "permanent"] = Field(
        "transient", description="What an error is that the handler did not classify."
    )


class DeadLetterConfig(Section):
    """Settings for the dead letters of events that failed for good."""

    per_group: bool = Field(
        default=False, description="TOPIC.GROUP.dead-letter, for groups that share a topic."
    )
    retention_h: float = Field(
        720.0, gt=0, description="Dead letters are kept, hours. Longer than their source."
    )
    sequence_max: int = Field(
        10_000, ge=1, description="Of one partition: dead, or parked behind a dead one."
    )
    on_sequence_full: Literal["halt", "skip"] = "halt"
    flood_run: int = Field(
        20_000, ge=0, description="Failures for good in a row that stop it all; 0 is never."
    )
    poison_run: int = Field(
        1_000, ge=0, description="Unreadable events in a row that stop it all; 0 is never."
    )
    flood_ratio: float = Field(
        0.5, gt=0, le=1, description="Failures for good among the events of FloodWindowS."
    )
    flood_window_s: float = Field(60.0, gt=0, description="Seconds.")


class ClaimCheckConfig(Section):
    """Settings of the payload store, for payloads that are too large for Kafka.

    Publishers and workers of a topic need the same store.
    """

    store: str = Field(
        "", description="A folder, or s3://BUCKET/PREFIX, gs://..., az://...; empty is none."
    )
    threshold_bytes: int = Field(
        0, ge=0, description="Larger payloads are put there, bytes; 0 is never."
    )
    max_bytes: int = Field(
        256 * 2**20, ge=1, le=2**40, description="Largest payload that is written or read, bytes."
    )
    in_hand_bytes: int = Field(
        512 * 2**20, ge=1, description="Redeemed payloads of one worker in hand at once, bytes."
    )
    timeout_s: float = Field(60.0, gt=0, le=3600, description="One request to the store, seconds.")
    sweep_margin_h: float = Field(
        24.0, ge=1, description="Blobs are kept for longer than their topic, hours."
    )

    @field_validator("store")
    @classmethod
    def _is_known(cls, store: str) -> str:
        scheme, separator, rest = store.partition("://")
        if separator and (scheme not in {"file", "s3", "gs", "az"} or not rest):
            raise ValueError("it is a folder, or begins with file://, s3://, gs:// or az://")
        if separator and "@" in rest.partition("/")[0]:  # a user or password, which logs would show
            raise ValueError(
                "it holds a user: credentials come from the store's own variables, "
                "AWS_SECRET_ACCESS_KEY"
            )
        return store

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.threshold_bytes and not self.store:
            raise ValueError("threshold_bytes needs a store, a folder for example")
        if self.in_hand_bytes < self.max_bytes:
            raise ValueError(
                "in_hand_bytes is at least max_bytes, else the largest payload would wait for ever"
            )
        return self
