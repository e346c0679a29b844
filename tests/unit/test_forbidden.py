"""Tests that the code has no pickle, eval, YAML with classes or shell, which make code of data."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.places import ROOT

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "yaml"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
FILES = sorted(
    file
    for room in ("famulus", "app", "agents", "models", "demo")
    for file in (ROOT / room).rglob("*.py")
)


def forbidden(source: str) -> Iterator[str]:
    """Yield each forbidden import and call of *source*."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (
                alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in CALLS:
                yield name
            yield from (
                "shell=True" for keyword in node.keywords if ast.unparse(keyword) == "shell=True"
            )


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_makes_code_of_data(file: Path) -> None:
    """Both the worker and the commands are checked."""
    assert list(forbidden(file.read_text())) == []


def test_each_of_them_would_be_found() -> None:
    """The test above proves something only if the search finds faults."""
    source = (
        "import pickle\nfrom yaml import load\neval('1')\nos.system('x')\nrun('x', "
        "shell=True)\nre.compile('x')"
    )
    assert list(forbidden(source)) == ["pickle", "yaml", "eval", "os.system", "shell=True"]
