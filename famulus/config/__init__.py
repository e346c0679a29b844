"""Settings of a process, merged from layers.

The layers are, from weak to strong: defaults, `appsettings.json`,
`appsettings.{ENVIRONMENT}.json`, environment variables, command line. The strongest layer that sets
a value wins, value by value. Every field states its unit.

`Kafka.ProducerConfig.Acks` of a file is the variable `KAFKA__PRODUCERCONFIG__ACKS` and, after a
command, `--set Kafka.ProducerConfig.Acks=all`. `KAFKA_BOOTSTRAP_SERVERS` is an alias of
`KAFKA__BOOTSTRAPSERVERS`. Names are compared without case, underscores, dots and dashes, so
`GroupId`, `group_id` and `group.id` are one setting. An unknown name is an error, since a setting
that is silently ignored is worse than none.

The files are read from the working folder or `APPSETTINGS_DIR`. References in them are described in
`loading.references`. `faust -A app config show` lists the values in effect and their origins.
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
