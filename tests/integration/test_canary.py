"""No secret leaves a worker: not in logs or crashes, not over the web, not in what commands print, not in `ps`.

Every secret has the canary in it, see `canary`, whose hooks look through the logs of all tests as
well.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from famulus.config import ConsumerConfig, KafkaConfig
from famulus.dev.node import free_port
from tests.integration.test_door import ask
from tests.support.on_kafka.canary import CANARY, leaks, leaks_below, secret
from tests.support.on_kafka.commands import faust
from tests.support.on_kafka.house import House, wait_for
from tests.support.on_kafka.secured import KEY_PASSWORD, PASSWORD, Secured, environment, secured
from tests.support.places import ROOT

# One process, so that its module's fixtures are made once.
pytestmark = pytest.mark.xdist_group("canary")

# A handler that shows all that it can get hold of, and then breaks.
TALKING = """
import structlog


@handles(Thing)
async def note(thing: Thing) -> None:
    count[thing.key] += 1
    settings, credentials = app.settings, app.conf.broker_credentials
    structlog.get_logger().warning("all of it", settings=settings, conf=app.conf, credentials=credentials)
    print(repr(settings), str(settings.kafka), settings.model_dump_json(), credentials, app.door.__dict__, vars(app))
    password = settings.kafka.sasl_password.get_secret_value()
    raise RuntimeError(f"it broke with {settings!r}") from ValueError(settings)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A broker with logins."""
    with secured(tmp_path_factory.mktemp("secured")) as cluster:
        yield cluster


@pytest.fixture
def way(cluster: Secured) -> dict[str, str]:
    """Into it, by a password and with a certificate whose key is locked."""
    certificate = {
        "SslCertificateLocation": str(cluster.folder / "client.pem"),
        "SslKeyLocation": str(cluster.folder / "client.key"),
        "SslKeyPassword": KEY_PASSWORD,
    }
    return {**cluster.ways()["plain"], **certificate}


@pytest.fixture
def kafka(way: dict[str, str]) -> KafkaConfig:
    """The settings of the test's own clients."""
    group = ConsumerConfig(group_id="canary.famulus", session_timeout_ms=10_000)
    return KafkaConfig.model_validate(
        {**way, "topic_prefix": "canary.", "partitions": 1, "consumer_config": group}
    )


def test_no_secret_is_said_anywhere(house: House, way: dict[str, str], tmp_path: Path) -> None:
    """Each comes by another layer: a file that a file refers to, a variable that it refers to, variables of our own."""
    house.build(TALKING)
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    token = tmp_path / "admin-token"
    token.touch(0o600)
    token.write_text(secret("admin-token"))
    file = house.checkout / "appsettings.json"
    said = json.loads(file.read_text())
    said["Kafka"] |= {
        "SaslPassword": f"${{file:{tmp_path}/password}}",
        "SslKeyPassword": "${KEY_PASSWORD}",
    }
    file.write_text(json.dumps(said))
    others = {
        name: value for name, value in way.items() if name not in {"SaslPassword", "SslKeyPassword"}
    }
    settings = {
        **environment(others),
        "KEY_PASSWORD": KEY_PASSWORD,
        "AWS_SECRET_ACCESS_KEY": secret("store"),
        "WORKER__READTOKEN": secret("read-token"),
        "WORKER__ADMINTOKENFILE": str(token),
        "PYTHONFAULTHANDLER": "1",
    }
    worker = house.start(ready=0, **settings)
    house.wait_log(worker, "Ready")
    house.send(house.thing("a", 1))
    house.wait_log(worker, "dead letter")
    assert not listed_processes()

    for path in json.loads(ask(worker, "GET", "/openapi.json", secret("read-token"))[2])["paths"]:
        for offered in (secret("read-token"), secret("admin-token"), None, secret("wrong-token")):
            status, headers, body = ask(
                worker, "GET", path.format(name="count", key="a", topic=house.topic), offered
            )
            assert not leaks(f"{headers} {body!r}", f"{path}, {status}")

    beside = {
        **settings,
        "KAFKA__TOPICPREFIX": house.kafka.topic_prefix,
        "KAFKA__CONSUMERCONFIG__GROUPID": house.group,
        "WORKER__DATADIR": str(tmp_path / "beside"),
        "WORKER__WEBPORT": str(free_port()),
    }
    for arguments in (
        ["config", "show"],
        ["config", "show", "--json"],
        ["config", "schema"],
        ["acls"],
        ["doctor"],
        ["lag"],
        ["dlq", "list"],
        ["dlq", "show", "--json"],
        ["peek", "things"],
        ["topics", "apply"],
    ):
        # Which looks for the canary itself.
        code, output = faust(*arguments, cwd=house.checkout, **beside)
        assert output, (arguments, code)

    worker.signal(signal.SIGABRT)  # with the stacks of all threads
    wait_for(lambda: worker.exit_code() is not None)
    text = worker.log.read_text("utf-8", "replace")
    assert "Fatal Python error: Aborted" in text
    assert "all of it" in text
    assert "sasl_password=SecretStr('**********')" in text
    assert not leaks(text, "log")


def listed_processes() -> list[str]:
    """The processes of this machine whose command line says the canary, by their number: everybody may see it."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) != os.getpid():
            try:
                found += (
                    [process.name] if CANARY.encode() in (process / "cmdline").read_bytes() else []
                )
            except OSError:  # it has ended
                continue
    return found


def test_a_leak_is_found(tmp_path: Path) -> None:
    """In a log, and in what a test prints: then the run fails, and does not say the secret either."""
    log = tmp_path / "leaking.log"
    log.write_text(f"one\ntwo {secret('password')} three\n")
    assert list(leaks_below(tmp_path)) == ["leaking.log, line 2: two <canary>-password three"]
    log.unlink()  # else this run fails as well
    planted = tmp_path / "test_planted.py"
    for what in (
        f"print('{CANARY}')",
        f"tmp_path.joinpath('x.log').write_text('{CANARY}')",
        "assert tmp_path",
    ):
        planted.write_text(f"def test_it(tmp_path):\n    {what}\n")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "tests.support.on_kafka.canary",
            "-p",
            "no:cacheprovider",
            "-c",
            os.devnull,
            "--rootdir",
            str(tmp_path),
            "--basetemp",
            str(tmp_path / "planted"),
            str(planted),
        ]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == (0 if what.startswith("assert") else 1), done.stdout
        assert ("secrets were written" in done.stdout) == (done.returncode == 1)
        assert "1 passed" in done.stdout
    for left in (tmp_path / "planted").rglob("*.log"):
        left.unlink()
