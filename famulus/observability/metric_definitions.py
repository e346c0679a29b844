"""Catalogue of a worker's metrics: name, unit, labels and the question that each answers.

Names are those of OpenTelemetry's messaging conventions 1.44 in the spelling of Prometheus, where
one exists, and for lag those of the common Kafka exporters. All other names begin with `famulus_`.
A label is never a key or an id, so the number of series depends on topics, partitions and handlers,
not on events.
"""

from typing import Literal, NamedTuple

OTHER = "other"  # the value of a label for everything beyond its maximum number of values
ERROR_TYPES_MAX = 50  # of one topic's dead letters
TOPICS_SENT_MAX = 200
TYPES_MAX = 50  # event types of one topic
Kind = Literal["counter", "gauge", "histogram", "summary"]


class Metric(NamedTuple):
    """One metric.

    *alias_of* names the metric with the same meaning. Aliases exist for dashboards that use this
    name.
    """

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    question: str
    alias_of: str = ""


MESSAGING = "messaging_system", "messaging_operation_name"
CONSUMED = *MESSAGING, "messaging_consumer_group_name", "messaging_destination_name"
TOPIC = ("topic",)
PARTITION = "topic", "partition"

RECEIVED = Metric(
    "messaging_client_consumed_messages_total",
    "counter",
    "records",
    CONSUMED,
    "How many records were received? One that comes again after a rebalance counts again.",
)
SENT = Metric(
    "messaging_client_sent_messages_total",
    "counter",
    "records",
    (*MESSAGING, "messaging_destination_name"),
    "How many events and dead letters has Kafka acknowledged? State changelogs aside.",
)
PROCESSING = Metric(
    "messaging_process_duration_seconds",
    "histogram",
    "seconds",
    CONSUMED,
    "How long is an event in hand, each time that it is? Each that waits is timed; sum and "
    "count are "
    "those of all, the buckets of the others are those of a fair sample.",
)
TYPE_PROCESSING = Metric(
    "famulus_event_duration_seconds",
    "histogram",
    "seconds",
    (*TOPIC, "type"),
    f"How long is an event of a type in hand? A topic's first {TYPES_MAX} types that have a "
    f"handler here; `{OTHER}` is every other one. Sum and count of those that do not wait are "
    "estimates where a topic has several types.",
)
IN_RECORDS = Metric(
    "famulus_partition_records_total",
    "counter",
    "records",
    PARTITION,
    "How many records did the partition bring? Of the topic itself, as read: what comes "
    "again counts "
    "again.",
)
IN_BYTES = Metric(
    "famulus_partition_bytes_total",
    "counter",
    "bytes",
    PARTITION,
    "How many bytes did they have, keys and values without compression?",
)
OUTCOMES = Metric(
    "famulus_records_total",
    "counter",
    "records",
    (*TOPIC, "outcome"),
    "How did records end: handled, duplicate, dead_lettered, ignored? Counted when settled.",
)
RETRIES = Metric(
    "famulus_retries_total",
    "counter",
    "attempts",
    TOPIC,
    "How many attempts failed and were tried again in their lane?",
)
POSTPONED = Metric(
    "famulus_postponed_total",
    "counter",
    "attempts",
    TOPIC,
    "How many events left their lane for a retry topic?",
)
GONE = Metric(
    "famulus_records_gone_total",
    "counter",
    "offsets",
    TOPIC,
    (
        "How many offsets did the topic's retention, or somebody, delete before this worker had "
        "read them?"
    ),
)
DEAD_LETTERS = Metric(
    "famulus_dead_letters_total",
    "counter",
    "records",
    (*TOPIC, "kind", "handler", "error_type"),
    f"Why are there dead letters? A topic's first {ERROR_TYPES_MAX} error types, then `{OTHER}`. "
    "Counted before they are settled.",
)
OWNED = Metric(
    "famulus_partitions_owned", "gauge", "partitions", TOPIC, "How many partitions has this worker?"
)
BLOCKED = Metric(
    "famulus_partitions_blocked",
    "gauge",
    "partitions",
    (*TOPIC, "reason"),
    "How many do not get on: halted behind a dead letter; unsent, because Kafka refuses what they "
    "publish; or disk, because the disk does not take what they did?",
)
PAUSED = Metric(
    "famulus_partitions_paused",
    "gauge",
    "partitions",
    TOPIC,
    "How many has somebody paused, so that nothing more of them is started?",
)
FLOOD = Metric(
    "famulus_dead_letter_flood",
    "gauge",
    "0 or 1",
    TOPIC,
    "Has the worker stopped writing dead letters, because too many events fail?",
)
IN_FLIGHT = Metric(
    "famulus_in_flight_records",
    "gauge",
    "records",
    PARTITION,
    "How many records were unpacked and are not finished?",
)
OLDEST = Metric(
    "famulus_oldest_in_flight_seconds",
    "gauge",
    "seconds",
    PARTITION,
    "For how long is the oldest of those in flight, which holds the commit back?",
)
IN_HAND = Metric(
    "famulus_in_hand_records",
    "gauge",
    "records",
    PARTITION,
    "How many events have handlers that wait for something?",
)
BACKLOG = Metric(
    "famulus_lane_backlog_records",
    "gauge",
    "records",
    PARTITION,
    "How many records wait for their turn in the lanes?",
)
RESTING = Metric(
    "famulus_resting_records",
    "gauge",
    "records",
    PARTITION,
    "How many events wait for another attempt, or for something else to end?",
)
WINDOW_FULL = Metric(
    "famulus_window_full",
    "gauge",
    "0 or 1",
    PARTITION,
    "Does the partition hold as much as it may, so that no more is unpacked?",
)
COMMIT_GAP = Metric(
    "famulus_commit_gap_records",
    "gauge",
    "offsets",
    PARTITION,
    "How far is the commit behind what is settled?",
)
GROUP_RECORDS = Metric(
    "famulus_group_records",
    "histogram",
    "records",
    TOPIC,
    "How many records share a group commit? Topics that remember nothing make a group only for "
    "what they publish.",
)
SETTLING = Metric(
    "famulus_group_settle_seconds",
    "histogram",
    "seconds",
    TOPIC,
    "How long does settling a group take: publishing, changelog, store?",
)
BREAKER_OPEN = Metric(
    "famulus_breaker_open",
    "gauge",
    "0 or 1",
    ("handler",),
    "Does what the handler needs count as away?",
)
BREAKER_WAITING = Metric(
    "famulus_breaker_waiting_records",
    "gauge",
    "records",
    ("handler",),
    "How many events wait for it?",
)
CLAIMS_AWAY = Metric(
    "famulus_claim_store_away", "gauge", "0 or 1", (), "Is the store of large payloads away?"
)
ON_CONSUMED = Metric(
    "famulus_on_consumed_failures_total",
    "counter",
    "calls",
    ("callback",),
    "How often has a callback of `app.on_consumed` raised something?",
)
LATE_REPLIES = Metric(
    "famulus_late_replies_total",
    "counter",
    "records",
    (),
    "How many replies to requests of this process came after their time limit?",
)
STRAYS = Metric(
    "famulus_stray_records_total",
    "counter",
    "records",
    ("kind",),
    "How many records of the group's own topics were left alone, because no worker of ours "
    "wrote them or "
    "they cannot be read: of state changelogs, admin, retry, redrive, scheduled, replies?",
)
READY = Metric(
    "famulus_ready",
    "gauge",
    "0 or 1",
    (),
    "Are the partitions assigned and restored, and none of them stuck, as `/readyz` says?",
)
CONDITIONS = Metric(
    "famulus_conditions",
    "gauge",
    "conditions",
    ("condition",),
    "What does the worker need and not have, by the last look: topic-missing, topic-changed, "
    "state-missing, partitions-added, agent, clock, open-files?",
)
CLOCK_AHEAD = Metric(
    "famulus_clock_ahead_seconds",
    "gauge",
    "seconds",
    (),
    "How far is this machine's clock ahead of the brokers', below 0 behind? There is no "
    "series while "
    "no broker has told its time.",
)
LAG = Metric(
    "kafka_consumergroup_lag",
    "gauge",
    "offsets",
    ("consumergroup", *PARTITION),
    "How many records of the worker's partitions are not settled, in retry and redrive topics, "
    "too? By the "
    "high watermark of the last fetch, which stands still while a partition is blocked.",
)
LAG_ALIAS = Metric(
    "kafka_consumer_lag",
    "gauge",
    "offsets",
    PARTITION,
    "The same as `kafka.consumer.lag`.",
    LAG.name,
)
LAG_S = Metric(
    "kafka_consumergroup_group_lag_seconds",
    "gauge",
    "seconds",
    ("group", *PARTITION),
    "How old is the oldest record that is not settled, by its own time? Where none is "
    "unpacked, as while "
    "the partition is paused: for how long has lag been seen without progress. 0 without lag.",
)
ETA = Metric(
    "famulus_drain_eta_seconds",
    "gauge",
    "seconds",
    PARTITION,
    "In how many seconds is nothing left, if what came and what was settled during the last "
    "ten scrapes goes "
    "on? There is no series where that is never, nor at the first scrape.",
)
STATE = Metric(
    "famulus_partition_state",
    "gauge",
    "0 or 1",
    (*PARTITION, "state"),
    "Which of Burrow's states is it in, by the last ten scrapes: ok, warning (the lag never "
    "gets less), "
    "rewind, stalled (nothing is settled)? All are 0 while it is too early to say; stopped is what "
    "only `faust -A app lag` can see.",
)
PROCESSING_ALIAS = Metric(
    "kafka_message_processing_time_milliseconds",
    "summary",
    "milliseconds",
    TOPIC,
    "The same as `kafka.message.processing.time`.",
    PROCESSING.name,
)

CATALOGUE = (
    RECEIVED,
    SENT,
    PROCESSING,
    TYPE_PROCESSING,
    IN_RECORDS,
    IN_BYTES,
    OUTCOMES,
    RETRIES,
    POSTPONED,
    GONE,
    DEAD_LETTERS,
    OWNED,
    BLOCKED,
    PAUSED,
    FLOOD,
    IN_FLIGHT,
    OLDEST,
    IN_HAND,
    BACKLOG,
    RESTING,
    WINDOW_FULL,
    COMMIT_GAP,
    GROUP_RECORDS,
    SETTLING,
    BREAKER_OPEN,
    BREAKER_WAITING,
    CLAIMS_AWAY,
    ON_CONSUMED,
    LATE_REPLIES,
    STRAYS,
    READY,
    CONDITIONS,
    CLOCK_AHEAD,
    LAG,
    LAG_ALIAS,
    LAG_S,
    ETA,
    STATE,
    PROCESSING_ALIAS,
)
