"""References in settings files, for values that such a file should not contain. Pure.

- `${VAR}` is the value of an environment variable.
- `${VAR:-default}` is *default* if the variable is unset or empty.
- `${VAR:?message}` is an error with *message* if the variable is unset or empty.
- `${file:PATH}` is the content of a file without the line break at its end.
- `$${` is a literal `${`.

There is one pass: a replaced value is not searched for references, so a password may contain any
characters.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

FILE = "file:"
_reference = re.compile(r"\$\$\{|\$\{([^}]*)\}|\$\{")
_variable = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:-|:\?)(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Expanded:
    """Text whose references were replaced.

    *names* are the variables and files that it refers to, *problems* the references that failed.
    """

    text: str
    names: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def expand(text: str, variables: Mapping[str, str], read: Callable[[str], str]) -> Expanded:
    """Replace the references in *text* by *variables* and by the files that *read* returns.

    *read* takes a path and may raise OSError or ValueError. An invalid reference, or one to a
    missing variable or file, is replaced by nothing and added to the problems, so that all problems
    are found at once.
    """
    names: list[str] = []
    problems: list[str] = []

    def replaced(found: re.Match[str]) -> str:
        said = found[1]
        if found[0] == "$${":
            return "${"
        try:
            name, value = _looked_up(said or "", variables, read)
        except ValueError as error:
            problems.append(str(error))
            return ""
        names.append(name)
        return value

    return Expanded(_reference.sub(replaced, text), tuple(names), tuple(problems))


def _looked_up(
    said: str, variables: Mapping[str, str], read: Callable[[str], str]
) -> tuple[str, str]:
    """Return name and value of the reference between the braces.

    Raises ValueError with the problem.
    """
    if said.startswith(FILE):
        return said, _content(said.removeprefix(FILE), read)
    parts = _variable.fullmatch(said)
    if parts is None:  # the error does not quote the text, which may be part of a password
        raise ValueError("a ${ that begins no reference, write $${ for a plain one")
    name, operator, rest = parts.groups()
    value = variables.get(name)
    if operator == ":-":
        return name, value or rest
    if operator == ":?" and not value:
        raise ValueError(f"{name} ({' '.join(rest.split()) or 'unset or empty'})")
    if value is None:
        raise ValueError(name)
    return name, value


def _content(path: str, read: Callable[[str], str]) -> str:
    try:
        return re.sub(r"\r?\n\Z", "", read(path))
    except OSError as error:
        raise ValueError(f"file {path} ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"file {path} ({error})") from None
