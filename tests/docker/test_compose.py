"""What a newcomer with Docker does: the image is built, `docker-compose.yml` carries the main job, a stop is clean.

Needs a Docker daemon with compose 2. What only shows the workers (AKHQ, Prometheus, Grafana) is
started too where its image can be had, and named where it cannot.
"""

import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator

import pytest
import yaml
from docker.models.containers import Container
from testcontainers.compose import DockerCompose
from testcontainers.core.docker_client import DockerClient

from famulus.dev.node import free_port
from tests.support.places import ROOT

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
WORKERS = COMPOSE["services"]["worker"]["deploy"]["replicas"]
SHOWING = ("akhq", "prometheus", "grafana")
PULL_S = 120.0
STOP_S = 40


def has_image(name: str) -> bool:
    """Whether an image is here or can be pulled."""
    for command in (["image", "inspect"], ["pull", "--quiet"]):
        try:
            subprocess.run(
                ["docker", *command, name], check=True, capture_output=True, timeout=PULL_S
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            continue
        return True
    return False


@pytest.fixture(scope="module")
def image() -> str:
    """The image of this checkout, as `docker-compose.yml` calls it."""
    [python] = re.findall(
        r"^ARG PYTHON_IMAGE=(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
    )
    python = os.environ.get("PYTHON_IMAGE") or python
    if not has_image(python):
        warnings.warn(f"{python} cannot be pulled: python:3.11-slim takes its place", stacklevel=1)
        python = "python:3.11-slim"
    arguments = {"PYTHON_IMAGE": python, "PIP_INDEX_URL": os.environ.get("UV_DEFAULT_INDEX", "")}
    given = [
        word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")
    ]
    subprocess.run(
        ["docker", "build", "--quiet", *given, "--tag", "famulus:test", "."], check=True, cwd=ROOT
    )
    return "famulus:test"


@pytest.fixture
def compose(image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[DockerCompose]:
    """Kafka and the workers, up and healthy, from nothing; gone with their volumes at the end."""
    first = free_port()
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", "famulus-test")
    monkeypatch.setenv("FAMULUS_VERSION", image.partition(":")[2])
    monkeypatch.setenv("KAFKA_PORT", str(free_port()))
    monkeypatch.setenv("WORKER_PORTS", f"{first}-{first + WORKERS - 1}")
    shown = [name for name in SHOWING if has_image(COMPOSE["services"][name]["image"])]
    if missing := sorted(set(SHOWING) - set(shown)):
        warnings.warn(f"without {', '.join(missing)}: images that cannot be pulled", stacklevel=1)
    compose = DockerCompose(ROOT)
    compose.stop()  # a run that was cut short left its volumes: the counts must begin at nothing
    compose.services = ["worker", *shown]
    try:
        compose.start()
        yield compose
    finally:
        compose.services = None  # all of them go
        # Pytest shows it when the test failed.
        print("\n".join(compose.get_logs("worker", "topics")))
        compose.stop()


def workers_of(compose: DockerCompose) -> list[Container]:
    """The workers' containers."""
    client = DockerClient().client
    return [
        client.containers.get(str(c.ID)) for c in compose.get_containers() if c.Service == "worker"
    ]


def ports_of(worker: Container) -> list[str]:
    """Where the web views of a worker are on this machine."""
    return [published["HostPort"] for published in worker.ports["6066/tcp"]]


@pytest.mark.timeout(900)
def test_compose_carries_the_orders_and_stops_cleanly(
    compose: DockerCompose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every order of `make run` counts once, in workers that may write nowhere but into their state folder."""
    workers = workers_of(compose)
    assert len(workers) == WORKERS
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"localhost:{os.environ['KAFKA_PORT']}")
    # Where the demo finds the tokens of the workers.
    monkeypatch.setenv("WORKER__DATADIR", "deploy/secrets")
    ports = [
        word for worker in workers for port in ports_of(worker) for word in ("--worker-port", port)
    ]
    demo = subprocess.run(
        [sys.executable, "-m", "demo.orders", *ports], check=False, cwd=ROOT, timeout=300
    )
    assert demo.returncode == 0

    for worker in workers:
        assert health_of(worker) == "healthy"
        assert worker.attrs["HostConfig"]["ReadonlyRootfs"]
        code, said = worker.exec_run(
            ["python", "-c", "import os; print(os.getuid()); open('/srv/famulus/x', 'w')"]
        )
        assert code != 0
        assert b"10001" in said
        assert b"Read-only file system" in said or b"Permission denied" in said

    for worker in workers:
        worker.stop(timeout=STOP_S)
        assert worker.wait()["StatusCode"] == 0, worker.logs(tail=40).decode()


def health_of(worker: Container) -> str:
    """What the image's own check says: the first comes after its interval."""
    deadline = time.monotonic() + 60
    while True:
        worker.reload()
        if (found := str(worker.health)) != "starting" or time.monotonic() > deadline:
            return found
        time.sleep(0.5)
