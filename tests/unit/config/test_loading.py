"""Tests of the layers of settings: their precedence, references to variables and files, origins."""

import json
import re
import sys
from pathlib import Path

import pytest

from famulus.config import ClaimCheckConfig, Settings, load_settings, read_settings
from famulus.config.loading.sources import from_arguments
from famulus.errors import ConfigError
from famulus.formatting import starred
from famulus.web.settings_list import schema, shown
from tests.support.places import ROOT

# The unchanged settings files of the .NET module whose formats this project keeps.
MISSION = ROOT / "tests" / "mission"
FAUST = "/somewhere/faust"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the settings folder of a test, and remove variables that change settings."""
    monkeypatch.setenv("APPSETTINGS_DIR", str(tmp_path))
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "ENVIRONMENT", "SECRET"):
        monkeypatch.delenv(name, raising=False)
    load_settings.cache_clear()
    return tmp_path


def write(folder: Path, said: str, environment: str = "") -> None:
    """Write a settings file of the given text."""
    (folder / f"appsettings{environment and '.'}{environment}.json").write_text(said)


def fault() -> str:
    """Return the one line that names all that is wrong with the settings."""
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert caught.value.exit_code == 78
    assert "\n" not in caught.value.format_message()
    return caught.value.format_message()


def layers_of(name: str) -> str:
    """Return the displayed origin of a setting."""
    return next(row.layer for row in shown(read_settings()) if row.name == name)


def test_each_layer_wins_over_the_one_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The origin of the setting is displayed with each layer."""
    name = "Kafka.ProducerConfig.LingerMs"

    def linger() -> tuple[int, str]:
        load_settings.cache_clear()
        return load_settings().kafka.producer_config.linger_ms, layers_of(name)

    assert linger() == (5, "default")
    write(folder, '{"Kafka": {"ProducerConfig": {"LingerMs": 1}}}')
    assert linger() == (1, "appsettings.json")
    write(folder, '{"Kafka": {"ProducerConfig": {"linger.ms": 2}}}', "Production")
    assert linger() == (1, "appsettings.json")
    monkeypatch.setenv("ENVIRONMENT", "production")
    assert linger() == (2, "appsettings.Production.json")
    monkeypatch.setenv("KAFKA__PRODUCERCONFIG__LINGERMS", "3")
    assert linger() == (3, "KAFKA__PRODUCERCONFIG__LINGERMS")
    monkeypatch.setattr(
        sys, "argv", [FAUST, "-A", "app", "worker", "--set", f"{name}=9", f"--set={name}=4"]
    )
    assert linger() == (4, "command line")


def test_the_missions_files_work_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The basic file and the production file are those of the .NET module."""
    monkeypatch.setenv("APPSETTINGS_DIR", str(MISSION))
    kafka = read_settings().kafka
    assert (kafka.consumer_config.group_id, kafka.producer_config.compression_type) == (
        "my-service",
        "snappy",
    )
    monkeypatch.setenv("ENVIRONMENT", "Production")
    assert (
        "KAFKA_USERNAME for Kafka.SaslUsername in appsettings.Production.json; KAFKA_PASSWORD for"
        in fault()
    )
    monkeypatch.setenv("KAFKA_USERNAME", "famulus")
    monkeypatch.setenv("KAFKA_PASSWORD", "${KAFKA_USERNAME}")
    kafka = load_settings().kafka
    assert (kafka.sasl_username, kafka.sasl_password.get_secret_value()) == (
        "famulus",
        "${KAFKA_USERNAME}",
    )
    assert kafka.bootstrap_servers.count("prod.com:9092") == 3
    assert (kafka.producer_config.linger_ms, kafka.consumer_config.session_timeout_ms) == (
        10,
        10_000,
    )


def test_a_reference_that_another_layer_overrides_is_not_missed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only effective references are resolved; values of variables are taken literally."""
    write(folder, '{"Kafka": {"TopicPrefix": "${NOBODY}"}}')
    assert "NOBODY for Kafka.TopicPrefix" in fault()
    monkeypatch.setenv("KAFKA__TOPICPREFIX", "a.b.")
    assert load_settings().kafka.topic_prefix == "a.b."


def test_everything_that_is_missing_is_named_at_once(folder: Path) -> None:
    """The line has variables, messages, files and malformed references, but no values."""
    said = {
        "SaslUsername": "${A:?who are\n we}",
        "SaslPassword": "${file:/nowhere/x}",
        "TopicPrefix": "${B}",
        "SecurityProtocol": "p${ssw0rd",
    }
    write(folder, json.dumps({"Kafka": said}))
    text = fault()
    for says in (
        "A (who are we) for",
        "file /nowhere/x (No such file",
        "B for Kafka.TopicPrefix",
        "write $${ for",
    ):
        assert says in text
    assert "ssw0rd" not in text


def test_a_secret_is_read_from_a_file_and_never_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both secret settings and values from files are hidden.

    A password in a URL is refused.
    """
    (folder / "secret").write_text("hush\n")
    monkeypatch.setenv("SECRET", "hush")
    said = {
        "Kafka": {
            "SecurityProtocol": "SaslSsl",
            "SaslMechanism": "Plain",
            "SaslPassword": "${SECRET}",
            "SaslUsername": f"${{file:{folder}/secret}}",
        },
    }
    write(folder, json.dumps(said))
    assert load_settings().kafka.sasl_username == "hush"
    rows = {row.name: row for row in shown(read_settings())}
    assert "hush" not in str(rows)
    assert rows["Kafka.SaslPassword"][1:] == ("***", "", "appsettings.json (SECRET)")
    write(folder, json.dumps({"ClaimCheck": {"Store": "s3://me:hush@place/x"}}))
    with pytest.raises(ConfigError, match="it holds a user") as caught:
        read_settings()
    assert "hush" not in caught.value.message


def test_a_file_may_have_comments_and_levels_with_colons(folder: Path) -> None:
    """.NET accepts both in such files."""
    said = (
        '{"$schema": "x", // the "group"\n"Kafka:ConsumerConfig:GroupId": "a-b", /* and "more" */}'
    )
    write(folder, f"\ufeff{said}")
    assert load_settings().kafka.consumer_config.group_id == "a-b"


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ('{"Kafka": {"GroupId": "x"}}', "settings: kafka: unknown setting 'groupid'"),
        ('{"Kafkaa": {}}', "settings: unknown setting 'kafkaa', did you mean 'kafka'?"),
        (
            '{"Kafka": {"Partitions": 0}}',
            "greater than or equal to 1 (Kafka.Partitions in appsettings.json)",
        ),
        ('{"Kafka": {"TopicPrefix": "a", "topic_prefix": "b"}}', "one setting, said twice"),
        ('{"Kafka": {"TopicPrefix": "a", "TopicPrefix": "b"}}', "is there twice"),
        ('{"Kafka": 1, "Kafka:TopicPrefix": "b"}', "Kafka in appsettings.json is a value"),
        (
            '{"Kafka": {"MessageTypes": {"OrderCreated": {"RetryAttempt": 1}}}}',
            "did you mean 'retry_attempts'",
        ),
        (
            '{"Kafka": {"ConsumerConfig": {"EnableAutoCommit": true}}}',
            "true commits what is not handled yet",
        ),
        ('{ // a\n/* b\n c */\n"Kafka": x}', "line 4 column 10"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_what_is_wrong_names_its_place(folder: Path, said: str, says: str) -> None:
    """A person can repair the file after reading one line."""
    write(folder, said)
    assert says in fault()


def test_auto_commit_that_is_forced_sets_the_interval_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `Forced`, the interval has no effect, as in other clients."""
    write(
        folder,
        '{"Kafka": {"ConsumerConfig": {"EnableAutoCommit": false, "AutoCommitIntervalMs": 2000}}}',
    )
    assert load_settings().commit_interval_s == 1.0
    monkeypatch.setenv("KAFKA__CONSUMERCONFIG__ENABLEAUTOCOMMIT", "Forced")
    assert read_settings().commit_interval_s == 2.0


def test_a_type_of_events_has_settings_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file has the class name as it is, a variable has it in capitals."""
    write(
        folder, '{"Kafka:MessageTypes:OrderCreated": {"HandlerTimeoutS": 5, "RetryTopics": ["1m"]}}'
    )
    monkeypatch.setenv("KAFKA__MESSAGETYPES__ORDERCREATED__RETRYATTEMPTS", "7")
    monkeypatch.setenv("KAFKA__MESSAGETYPES__STOCKRESERVED__RETRYTOPICS", "1m, 2h")
    kafka = load_settings().kafka
    own = kafka.message_type("OrderCreated")
    assert (own.handler_timeout_s, own.retry_attempts, own.retry_topics) == (5, 7, ("1m",))
    assert kafka.message_type("StockReserved").retry_topics == ("1m", "2h")
    assert kafka.message_type("Other").retry_attempts is None


def test_choices_have_every_spelling(folder: Path) -> None:
    write(folder, '{"Failures": {"Unclassified": "Permanent"}, "State": {"OnCommitAhead": "FAIL"}}')
    settings = load_settings()
    assert (settings.failures.unclassified, settings.state.on_commit_ahead) == ("permanent", "fail")


@pytest.mark.parametrize("environment", ["../x", "a/b", "x\n"])
def test_an_environment_is_no_path(monkeypatch: pytest.MonkeyPatch, environment: str) -> None:
    """The file must be in the settings folder."""
    monkeypatch.setenv("ENVIRONMENT", environment)
    assert "ENVIRONMENT" in fault()


@pytest.mark.parametrize(
    "argv", [["pytest", "--set", "Kafka.TopicPrefix=x"], ["faust", "--", "--set", "x=1"], []]
)
def test_the_command_line_of_others_is_theirs(
    monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    """A script that publishes may have its own option `--set`."""
    monkeypatch.setattr(sys, "argv", argv)
    assert load_settings().kafka.topic_prefix == ""


def test_a_set_without_a_value_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error gives an example."""
    monkeypatch.setattr(sys, "argv", [FAUST, "worker", "--set", "Kafka.TopicPrefix"])
    assert "--set Kafka.ProducerConfig.LingerMs=20" in fault()


def test_the_schema_knows_what_the_model_knows() -> None:
    """The schema has the names of the files, and a number may be a reference."""
    made = schema()
    for row in shown(Settings()):
        at = made
        for name in row.name.split("."):
            at = at["properties"][name]
            at = made["$defs"][at["$ref"].rsplit("/", 1)[1]] if "$ref" in at else at
        assert "description" in at or "anyOf" in at or at["type"] == "string", row
    linger = made["$defs"]["ProducerConfig"]["properties"]["LingerMs"]
    assert linger["anyOf"][0] == {"type": "integer", "minimum": 0, "maximum": 10_000}
    assert linger["description"].endswith("Unit: ms.")
    assert made["$defs"]["ProducerConfig"]["additionalProperties"] is False


@pytest.mark.parametrize(
    "said",
    [
        "Worker.ReadToken=x",
        "worker:admin_token=x",
        "Kafka.SaslPassword=x",
        "Kafka.Ssl-Key-Password=x",
        "Kafka.SaslOauthbearerClientSecret=x",
        "Kafka.SaslPaswordd.Secret=x",
        "Worker.ReedToken=x",
        "ClaimCheck.Store=s3://bucket/a?X-Amz-Signature=x",
        "Other.Url=https://user:x@host/",
    ],
)
def test_a_secret_on_the_command_line_is_refused(said: str) -> None:
    """Every user of the machine can read it there; the error names the right places for it."""
    name = said.partition("=")[0]
    for arguments in (["--set", said], [f"--set={said}"]):
        with pytest.raises(ConfigError, match=re.escape(name)) as refused:
            from_arguments(["faust", "-A", "app", "worker", *arguments])
        assert refused.value.exit_code == 78
        assert "=x" not in refused.value.message
        assert "${file:PATH}" in refused.value.message
        assert "__" in refused.value.message


def test_what_only_points_at_a_secret_may_be_said() -> None:
    """A file name, an endpoint and an empty value are no secrets."""
    for said in (
        "Worker.ReadTokenFile=/x",
        "Kafka.SaslOauthbearerTokenEndpointUrl=https://x/y",
        "Worker.ReadToken=",
        "ClaimCheck.Store=s3://bucket/a",
        "Kafka.ProducerConfig.LingerMs=20",
    ):
        assert len(from_arguments(["faust", "--set", said])) == 1


@pytest.mark.parametrize(
    ("text", "shows"),
    [
        ("s3://bucket/path?X-Amz-Signature=abc&x=y", "s3://bucket/path?***"),
        ("https://user:pass@host:1/a#frag", "https://***@host:1/a?***"),
        (
            "the store, az://c/p?sig=abc%2F, is away: https://h/?sig=q",
            "the store, az://c/p?*** is away: https://h/?***",
        ),
        ("s3://bucket/path", "s3://bucket/path"),
        ("file:///var/lib/x", "file:///var/lib/x"),
        ("/a/folder? yes, a@b", "/a/folder? yes, a@b"),
        ("host:9092,other:9092", "host:9092,other:9092"),
    ],
)
def test_urls_are_shown_without_what_they_are_signed_with(text: str, shows: str) -> None:
    """The host and the path stay."""
    assert starred(text) == shows
    assert starred(shows).count("***") == shows.count("***")


def test_a_signed_store_is_shown_as_its_place() -> None:
    """`config show` and the console use this text."""
    settings = Settings(claim_check=ClaimCheckConfig(store="s3://bucket/a?X-Amz-Signature=abc"))
    values = {row.name: row.value for row in shown(settings)}
    assert values["ClaimCheck.Store"] == "s3://bucket/a?***"
