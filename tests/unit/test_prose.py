"""Tests of the prose rules of docs/contributing/style.md, on every docstring of the engine."""

import pytest

from tests.support.places import ROOT
from tests.support.prose import broken_rules, faults_of, files_of

FILES = [path.relative_to(ROOT) for path in files_of([ROOT / "famulus"])]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_docstrings_keep_the_rules(path: object) -> None:
    source = (ROOT / str(path)).read_text("utf-8")
    assert not [f"{path}:{f.line}: {f.name} {f.rule}" for f in faults_of(source)]


@pytest.mark.parametrize(
    "text",
    [
        # Sentences of earlier versions, each with a fault that was frequent then.
        "What rests of one partition: each event with its lane shut.",
        "Whether whoever sent *request* some time ago may look still.",
        "The same for who does not ask where they stand.",
        "Wake the first one that waits, lest they all run in vain.",
        "Return the letters that are meant.",
        "Commit what is in hand.",
        "Return the offset. It is that of the next record.",
        "Return " + "the offset of a record and " * 5 + "nothing else.",
        "Return the offset\nof the next record.",
    ],
)
def test_a_sentence_that_was_not_plain_is_found(text: str) -> None:
    assert list(broken_rules(text, "name"))


@pytest.mark.parametrize(
    "text",
    [
        "Return the dead letters of a topic.",
        "Return the offset.\n\nHowever many records there are, *letters* has one of each.",
        "Defer the event: its lane stays blocked until the timer fires.",
    ],
)
def test_plain_english_passes(text: str) -> None:
    assert not list(broken_rules(text, "name"))
