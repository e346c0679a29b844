"""Folders that tests need: this repository, and a project of the tests' own."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The engine's tests run workers of this one, whatever stands in `models/` and `agents/`.
PROJECT = ROOT / "tests" / "project"
