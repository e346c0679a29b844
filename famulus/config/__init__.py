"""The settings, in layers: defaults, `appsettings.json`, `appsettings.{ENVIRONMENT}.json`, environment, command line.

The later one wins, value by value. Every field says its unit. `Kafka.ProducerConfig.Acks` of a file
is the variable `KAFKA__PRODUCERCONFIG__ACKS` and, after a command, `--set
Kafka.ProducerConfig.Acks=all`; `KAFKA_BOOTSTRAP_SERVERS` is an alias of `KAFKA__BOOTSTRAPSERVERS`.
Names are compared without case, underscores, dots and dashes, so `GroupId`, `group_id` and
`group.id` are one setting. An unknown name is an error: a setting that is silently ignored is worse
than none. The files are looked for in the working folder or `APPSETTINGS_DIR`; what they may refer
to is in `layers.references`, and `faust -A app config show` says what holds and why.
"""

from famulus.config.kafka import ConsumerConfig, KafkaConfig, ProducerConfig, RepliesConfig
from famulus.config.settings import Settings, load_settings, read_settings, settings_files
from famulus.config.worker import ClaimCheckConfig, DeadLetterConfig, WorkerConfig

__all__ = [
    "ClaimCheckConfig",
    "ConsumerConfig",
    "DeadLetterConfig",
    "KafkaConfig",
    "ProducerConfig",
    "RepliesConfig",
    "Settings",
    "WorkerConfig",
    "load_settings",
    "read_settings",
    "settings_files",
]
