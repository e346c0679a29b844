"""Tests that no environment variable of Faust bypasses the settings."""

import os
import subprocess
import sys

import pytest
from faust.types.settings import Settings as FaustSettings

from famulus.config import ConsumerConfig, KafkaConfig, Settings, WorkerConfig, load_settings
from famulus.errors import ConfigError
from famulus.runtime.faust_options import faust_options
from tests.support.places import PROJECT

NAMES = sorted({param.env_name for param in FaustSettings.SETTINGS.values() if param.env_name})
SHOWN = """
import app, json
conf = app.app.conf
changing = "broker_credentials", "reply_to", "web_application_options"  # random, or shown with their address
print(json.dumps({name: repr(getattr(conf, name)) for name in conf.SETTINGS if name not in changing}))
"""
# Valid values for variables that Faust parses.
VALUES = {
    "APP_ENV_PREFIX": "X",
    "TIMEZONE": "UTC",
    "BROKER_CREDENTIALS": "",
    "NODE_CANONICAL_URL": "http://other",
}


def shown(variables: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a process with these variables that prints the settings of Faust."""
    return subprocess.run(
        [sys.executable, "-c", SHOWN],
        cwd=PROJECT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_faust_reads_no_variable_of_its_own() -> None:
    """All variables in Faust's registry are set at once, and those that it reads at import."""
    assert {
        "BROKER_URL",
        "APP_STORE",
        "WEB_PORT",
        "PROCESSING_GUARANTEE",
        "TOPIC_DISABLE_LEADER",
    } <= set(NAMES)
    ours = {"PROCESSING_GUARANTEE"}  # refused, see below
    variables = {name: VALUES.get(name, "1") for name in NAMES if name not in ours}
    early = {
        "FAUST_WEB_PORT": "1",
        "FAUST_F_WEB_BIND": "1.2.3.4",
        "FAUST_WEB_TRANSPORT": "unix:///tmp/none",
    }
    plain, hostile = shown({}), shown({**variables, **early})
    assert plain.returncode == 0, plain.stderr
    assert hostile.returncode == 0, hostile.stderr
    assert hostile.stdout == plain.stdout


@pytest.mark.parametrize("asked", ["exactly_once", "", "EXACTLY_ONCE"])
def test_a_guarantee_of_faust_that_would_not_hold_is_refused(asked: str) -> None:
    """The variable is not ignored: an operator who sets it relies on it."""
    with pytest.raises(ConfigError, match="PROCESSING_GUARANTEE"):
        faust_options(load_settings(), {"PROCESSING_GUARANTEE": asked})


def test_the_guarantee_that_holds_may_be_said() -> None:
    """Faust gets the same value without the variable."""
    options = faust_options(load_settings(), {"PROCESSING_GUARANTEE": "at_least_once"})
    assert (options["processing_guarantee"], options["env"]) == ("at_least_once", {})


def test_what_faust_waits_for_suits_a_long_session_and_a_long_drain() -> None:
    """Faust refuses a session timeout above its request timeout.

    The rebalance timeout covers the drain of events in flight.
    """
    said = (
        KafkaConfig(consumer_config=ConsumerConfig(session_timeout_ms=120_000)),
        WorkerConfig(drain_timeout_s=300),
    )
    for settings, expected in (
        (Settings(), (90, 60)),
        (Settings(kafka=said[0]), (120, 60)),
        (Settings(worker=said[1]), (320, 310)),
    ):
        options = faust_options(settings, {})
        assert (options["broker_request_timeout"], options["broker_rebalance_timeout"]) == expected
