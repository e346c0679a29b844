"""The files of a new project."""

import ast
import json

import pytest

from famulus.scaffold.template import Answers, ProjectFile, constraints_of, render

ANSWERS = Answers("payments", "9.8.7", has_wheel=False)


@pytest.fixture(scope="module")
def files() -> dict[str, ProjectFile]:
    """A project without a wheel of its own."""
    return render(ANSWERS)


def test_a_project_has_what_its_commands_need(files: dict[str, ProjectFile]) -> None:
    assert {
        ".ci/run", ".dockerignore", ".gitignore", "Dockerfile", "Makefile", "Procfile", "README.md",
        "agents/__init__.py", "agents/orders.py", "app/__init__.py", "appsettings.json",
        "constraints.txt", "demo.py", "deploy/grafana/famulus.json",
        "deploy/kubernetes/payments.yaml", "deploy/prometheus/rules.yml",
        "deploy/systemd/payments@.service", "docker-compose.yml", "models/orders.py",
        "pyproject.toml", "requirements-dev.txt", "requirements.txt", "tests/test_orders.py",
    } <= set(files)  # fmt: skip


def test_the_name_of_the_project_stands_where_the_engine_had_its_own(
    files: dict[str, ProjectFile],
) -> None:
    assert json.loads(files["appsettings.json"].text)["Kafka"]["ConsumerConfig"]["GroupId"] == (
        "payments"
    )
    for path in ("docker-compose.yml", "deploy/kubernetes/payments.yaml"):
        assert "famulus" not in files[path].text, path
    assert "payments" in files["deploy/systemd/payments@.service"].text
    assert "famulus_ready" in files["deploy/prometheus/rules.yml"].text  # metrics keep their names


def test_nothing_of_the_template_is_left(files: dict[str, ProjectFile]) -> None:
    for file in files.values():
        assert ".jinja" not in file.path
        assert "dot-" not in file.path
        if not file.path.startswith("deploy/"):  # Prometheus has braces of its own
            assert "{{" not in file.text.replace("{{.", ""), file.path
        assert file.text.endswith("\n"), file.path
        if file.path.endswith(".py"):
            ast.parse(file.text)


def test_scripts_are_executable_and_nothing_else(files: dict[str, ProjectFile]) -> None:
    assert [path for path, file in files.items() if file.is_executable] == [".ci/run"]


def test_versions_are_those_that_were_tested(files: dict[str, ProjectFile]) -> None:
    pins = files["constraints.txt"].text
    assert "faust-streaming==" in pins
    assert "--hash" not in pins
    assert "\\" not in pins
    assert "famulus==9.8.7\n" in files["requirements.txt"].text


def test_a_wheel_of_ones_own_is_looked_for_in_the_project() -> None:
    files = render(Answers("payments", "9.8.7", has_wheel=True))
    assert "--find-links wheels\n" in files["requirements.txt"].text
    assert "COPY wheels wheels\n" in files["Dockerfile"].text
    assert "!wheels\n" in files[".dockerignore"].text


def test_constraints_keep_the_conditions_of_a_lock() -> None:
    lock = (
        'a==1 \\\n    --hash=sha256:00\nb==2 ; sys_platform == "darwin" \\\n    --hash=sha256:11\n'
    )
    assert constraints_of(lock).splitlines()[1:] == ["a==1", 'b==2 ; sys_platform == "darwin"']
