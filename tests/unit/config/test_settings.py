"""Tests of the settings: layers, spellings, and one clear line for each fault."""

import json
from pathlib import Path

import pytest

from famulus.config import ProducerConfig, load_settings, read_settings
from famulus.errors import ConfigError
from famulus.producer.connection import explained
from tests.support.places import ROOT


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set an empty settings folder for each test, and remove variables that change settings."""
    monkeypatch.setenv("APPSETTINGS_DIR", str(tmp_path))
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    load_settings.cache_clear()


def write(folder: Path, settings: object) -> None:
    """Write the settings file."""
    (folder / "appsettings.json").write_text(json.dumps(settings))


def test_the_environment_wins_over_the_file_and_the_file_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers of a section are merged setting by setting."""
    write(
        tmp_path,
        {"Kafka": {"ConsumerConfig": {"GroupId": "from-file", "AutoOffsetReset": "latest"}}},
    )
    monkeypatch.setenv("KAFKA__CONSUMERCONFIG__GROUPID", "from-environment")
    consumer = load_settings().kafka.consumer_config
    assert (consumer.group_id, consumer.auto_offset_reset, consumer.session_timeout_ms) == (
        "from-environment",
        "latest",
        30_000,
    )


@pytest.mark.parametrize(
    "name", ["BootstrapServers", "bootstrap_servers", "bootstrap.servers", "BOOTSTRAPSERVERS"]
)
def test_spellings_are_one(tmp_path: Path, name: str) -> None:
    """Case, underscores and dots do not matter."""
    write(tmp_path, {"Kafka": {name: "a:1,b:2"}})
    assert load_settings().kafka.bootstrap_servers == "a:1,b:2"


def test_the_conventional_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """KAFKA_BOOTSTRAP_SERVERS is an alias; the exact name wins over it."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "alias:1")
    assert read_settings().kafka.bootstrap_servers == "alias:1"
    monkeypatch.setenv("KAFKA__BOOTSTRAPSERVERS", "exact:2")
    assert read_settings().kafka.bootstrap_servers == "exact:2"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"Kafka": {"BootstrapServer": "a:1"}}, "did you mean 'bootstrap_servers'"),
        ({"Kafak": {}}, "did you mean 'kafka'"),
        (
            {"Kafka": {"ConsumerConfig": {"GroupInstanceId": "a"}}},
            "'groupinstanceid': there is no static membership",
        ),
        (
            {"Kafka": {"ConsumerConfig": {"group.instance.id": "a"}}},
            "there is no static membership",
        ),
        ({"Kafka": {"ConsumerConfig": {"Isolation_Level": "a"}}}, "it is always read_committed"),
        (
            {"Kafka": {"ConsumerConfig": {"SessionTimeoutMs": 9000, "HeartbeatIntervalMs": 3001}}},
            "3000 at most",
        ),
        (
            {"Kafka": {"ConsumerConfig": {"SessionTimeoutMs": 2**31}}},
            "less than or equal to 2147483647",
        ),
        ({"Kafka": {"BootstrapServers": "nowhere"}}, "'nowhere' is not host:port"),
        ({"Worker": {"WebPort": 0}}, "worker.web_port"),
        ({"Kafka": {"ProducerConfig": {"Acks": 1}}}, "kafka.producer_config.acks: 1 loses events"),
        (
            {"Kafka": {"ProducerConfig": {"Acks": "1"}}},
            "kafka.producer_config.acks: 1 loses events",
        ),
        ({"Kafka": {"ProducerConfig": {"Acks": "leader"}}}, "leader loses events"),
        (
            {"Kafka": {"ProducerConfig": {"Partitioner": "fnv1a"}}},
            "none of murmur2, consistent_random",
        ),
        ({"Kafka": 5}, "kafka"),
        ([1], "cannot be read"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(
    tmp_path: Path, settings: object, says: str
) -> None:
    """The line suggests the nearest match of an unknown setting."""
    write(tmp_path, settings)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert says in caught.value.format_message()
    assert "\n" not in caught.value.format_message()
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("a:1;b:2", "'a:1;b:2' is not host:port: brokers are separated by commas"),
        ("a:1 b:2", "separated by commas"),
        ("a:1,,b:2", "'' is not host:port"),
        ("a:1,", "'' is not host:port"),
        ("", "is not host:port"),
        (" ", "is not host:port"),
        ("a", "'a' is not host:port: such as broker-1:9092"),
        (":9092", "':9092' is not host:port"),
        ("a:", "'a:' is not host:port"),
        ("a:0", "a port is 1 to 65535"),
        ("a:65536", "a port is 1 to 65535"),
        ("a:123456", "a port is 1 to 65535"),
        ("a:b", "is not host:port"),
        ("PLAINTEXT://a:1", "write host:port alone, the protocol is Kafka.SecurityProtocol"),
        ("kafka://a:1", "write host:port alone"),
        ("::1:9092", "an IPv6 address stands in brackets"),
        ("[::1]", "is not host:port"),
        ("[::1:9092", "is not host:port"),
        ("a:9092/x", "is not host:port"),
        ("a:\u0661", "is not host:port"),
        ("a\x1b:1", r"'a\x1b:1' is not host:port"),
        ([9092, 9093], "'9092' is not"),
        ([["a:1"]], "is not host:port"),
        ([], "kafka.bootstrap_servers"),
        (9092, "'9092' is not host:port"),
        ({"a": 1}, "kafka"),
        (None, "is not host:port"),
        (True, "is not host:port"),
    ],
)
def test_addresses_that_are_none_are_one_line_with_the_right_spelling(
    tmp_path: Path, said: object, says: str
) -> None:
    """Some of them are valid in Faust."""
    write(tmp_path, {"Kafka": {"BootstrapServers": said}})
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert says in caught.value.format_message()
    assert caught.value.format_message().isprintable()


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("a:1, b.example-1:65535", "a:1,b.example-1:65535"),
        ("[::1]:9092", "[::1]:9092"),
        (["a:1", "b_c:2"], "a:1,b_c:2"),
        ("10.0.0.1:9092", "10.0.0.1:9092"),
        ("a.:1", "a.:1"),
    ],
)
def test_addresses_are_separated_by_commas_or_a_list(
    tmp_path: Path, said: object, meant: str
) -> None:
    """Blanks around the addresses do not matter."""
    write(tmp_path, {"Kafka": {"BootstrapServers": said}})
    assert load_settings().kafka.bootstrap_servers == meant


def test_heartbeats_that_nobody_set_suit_the_session(tmp_path: Path) -> None:
    """A short session timeout alone must be valid."""
    for session_ms, beat_ms in ((6_000, 2_000), (9_000, 3_000), (120_000, 3_000)):
        write(tmp_path, {"Kafka": {"ConsumerConfig": {"SessionTimeoutMs": session_ms}}})
        load_settings.cache_clear()
        assert load_settings().kafka.consumer_config.heartbeat_interval_ms == beat_ms


def test_every_unknown_section_is_named(tmp_path: Path) -> None:
    """The line suggests a known section for each."""
    write(tmp_path, {"Kafak": {}, "Logging": {"Level": 1}, "AllowedHosts": "*"})
    with pytest.raises(ConfigError) as caught:
        load_settings()
    line = caught.value.format_message()
    assert "'kafak', did you mean 'kafka'?" in line
    assert "'allowedhosts'" in line
    assert "'logging'; known are kafka, worker" in line


def test_a_settings_folder_that_is_not_there_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Otherwise, the defaults would apply silently."""
    monkeypatch.setenv("APPSETTINGS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"APPSETTINGS_DIR '.*nowhere' is no folder"):
        load_settings()


def test_the_mark_of_an_editor_is_no_part_of_a_secret(tmp_path: Path) -> None:
    """A byte order mark may begin a file of a secret, and the settings file."""
    (tmp_path / "password").write_bytes(b"\xef\xbb\xbfs3cret\r\n")
    said = {"Worker": {"Version": f"${{file:{tmp_path}/password}}"}}
    (tmp_path / "appsettings.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(said).encode())
    assert load_settings().worker.version == "s3cret"


def test_the_producer_takes_the_names_and_values_of_other_clients(tmp_path: Path) -> None:
    """Names of the .NET client without an effect are kept, so that they can be explained."""
    config = {
        "Acks": "All",
        "EnableIdempotence": False,
        "Retries": 10,
        "MaxInFlight": 5,
        "CompressionType": "Lz4",
        "LingerMs": 10,
        "BatchSize": 16384,
        "Partitioner": "ConsistentRandom",
    }
    write(tmp_path, {"Kafka": {"ProducerConfig": config}})
    producer = load_settings().kafka.producer_config
    assert (producer.acks, producer.compression_type, producer.partitioner) == (
        "all",
        "lz4",
        "consistent_random",
    )
    assert (producer.linger_ms, producer.batch_size) == (10, 16384)
    assert [text.split(":")[0] for text in explained(producer)] == [
        "Retries 10",
        "MaxInFlight 5",
        "EnableIdempotence false",
    ]
    assert not explained(ProducerConfig())


def test_a_broken_file_is_one_line(tmp_path: Path) -> None:
    """The file is no JSON."""
    (tmp_path / "appsettings.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings()


def test_every_wrong_setting_is_named_at_once(tmp_path: Path) -> None:
    """One start shows all mistakes."""
    write(tmp_path, {"Kafka": {"Partitions": 0, "ReplicationFactor": 99}})
    with pytest.raises(
        ConfigError,
        match=r"kafka\.partitions.*kafka\.replication_factor|replication_factor.*partitions",
    ):
        load_settings()


def test_the_files_settings_are_those_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPSETTINGS_DIR", str(ROOT))
    assert read_settings().kafka.consumer_config.group_id == "famulus"
