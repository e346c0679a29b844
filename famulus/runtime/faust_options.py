"""Options of the Faust app: from the settings, and fixed ones that the engine relies on."""

import os
from collections.abc import Mapping
from typing import Any

from faust.auth import OAuthCredentials, SASLCredentials, SSLCredentials
from faust.types.auth import CredentialsT

from famulus.config import KafkaConfig, Settings
from famulus.errors import ConfigError
from famulus.kafka.client import client_options

REQUEST_S, REBALANCE_S = 90.0, 60.0  # Faust's defaults
REBALANCE_ROOM_S = 10.0  # for a rebalance, in addition to the drain of events in flight
# The engine builds on this guarantee of Faust, and does not use Faust's transactions.
GUARANTEE = "at_least_once"


def faust_options(
    settings: Settings, variables: Mapping[str, str] = os.environ
) -> dict[str, Any]:  # Any: Faust's settings are of all types
    """Return the keyword arguments of `faust.App`, without the classes that the engine replaces.

    In Faust an environment variable overrides a keyword argument. Faust therefore gets an empty
    environment, and only these settings count. Raises ConfigError when *variables*, the real
    environment, ask Faust for another processing guarantee, which would not hold.
    """
    asked = variables.get("PROCESSING_GUARANTEE", GUARANTEE)
    if asked != GUARANTEE:
        raise ConfigError(
            f"PROCESSING_GUARANTEE is {asked[:40]!r}, and transactions of Kafka are not used "
            "here: unset it; effects "
            "on tables happen once by `dedupe` of a subscription"
        )
    kafka, worker = settings.kafka, settings.worker
    consumer = kafka.consumer_config
    return {
        "env": {},
        "processing_guarantee": GUARANTEE,
        # Else FAUST_WEB_TRANSPORT, which Faust reads at its import, could open another listener.
        "web_transport": "tcp://",
        "broker": [f"kafka://{address.strip()}" for address in kafka.bootstrap_servers.split(",")],
        "broker_credentials": credentials_of(kafka),
        "origin": "app",
        "autodiscover": True,
        "store": "rocksdb://",
        "datadir": worker.data_dir,
        "broker_commit_interval": settings.commit_interval_s,
        "broker_request_timeout": _request_timeout_s(settings),
        "broker_rebalance_timeout": rebalance_timeout_s(settings),
        "broker_session_timeout": consumer.session_timeout_ms / 1000,
        "broker_heartbeat_interval": consumer.heartbeat_interval_ms / 1000,
        "broker_max_poll_interval": consumer.max_poll_interval_ms / 1000,
        "broker_max_poll_records": consumer.max_poll_records,
        "consumer_max_fetch_size": consumer.max_partition_fetch_bytes,
        "consumer_auto_offset_reset": consumer.auto_offset_reset,
        "producer_request_timeout": kafka.producer_config.delivery_timeout_ms / 1000,
        "topic_replication_factor": kafka.replication_factor,
        "topic_partitions": kafka.partitions,
        "topic_disable_leader": True,
        "table_standby_replicas": settings.state.standby_replicas,
        "web_bind": worker.web_bind,
        "web_port": worker.web_port,
        "web_tables_enabled": False,  # the engine's own views show tables
        "web_router_enabled": False,
    }


def rebalance_timeout_s(settings: Settings) -> float:
    """Return how long the group waits for this worker in a rebalance, in seconds.

    The worker may finish its events in flight within that time.
    """
    return max(REBALANCE_S, settings.worker.drain_timeout_s + REBALANCE_ROOM_S)


def _request_timeout_s(settings: Settings) -> float:
    """Return the timeout of requests, in seconds.

    A request to join the group is answered only at the end of a rebalance. Faust refuses to start
    with a timeout below the session timeout.
    """
    session_s = settings.kafka.consumer_config.session_timeout_ms / 1000
    return max(REQUEST_S, session_s, rebalance_timeout_s(settings) + REBALANCE_ROOM_S)


def credentials_of(kafka: KafkaConfig) -> CredentialsT | None:
    """Return the credentials of Faust's own consumer and producer, None in plain text.

    Raises ConfigError as `client_options` does.
    """
    known = client_options(kafka)
    context = known.get("ssl_context")
    if not kafka.is_sasl:
        return None if context is None else SSLCredentials(context)
    if kafka.sasl_mechanism == "OAUTHBEARER":
        return OAuthCredentials(oauth_cb=known["sasl_oauth_token_provider"], ssl_context=context)
    return SASLCredentials(
        username=known["sasl_plain_username"],
        password=known["sasl_plain_password"],
        mechanism=known["sasl_mechanism"],
        ssl_context=context,
    )
