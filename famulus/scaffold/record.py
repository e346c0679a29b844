"""The note of the template that a project was made from: the base of its next upgrade."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from famulus.errors import ConfigError
from famulus.scaffold.template import Answers, ProjectFile

FILE = ".famulus.json"
ABOUT = "Written by `famulus init` and `famulus upgrade`, which compares with it: keep it in git."


@dataclass(frozen=True)
class Record:
    """The answers and the texts of the upgraded files, as they were rendered, by path."""

    answers: Answers
    texts: Mapping[str, str]


def write_record(project: Path, answers: Answers, files: Mapping[str, ProjectFile]) -> None:
    """Note the *files* that later versions upgrade."""
    texts = {path: file.text for path, file in files.items() if not file.is_sample}
    content = {"about": ABOUT, "answers": asdict(answers), "files": texts}
    (project / FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read_record(project: Path) -> Record:
    """Return what *project* was made from. Raises ConfigError when it has no readable note."""
    file = project / FILE
    try:
        content = json.loads(file.read_text("utf-8"))
        answers = Answers(**content["answers"])
        return Record(answers, {str(path): str(text) for path, text in content["files"].items()})
    except FileNotFoundError:
        raise ConfigError(f"{project} was not made by `famulus init`: it has no {FILE}") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{file} cannot be read ({type(error).__name__}): take it from git"
        ) from None
