"""Sources of settings: settings files, environment, command line. Each value has its origin.

Names are compared without case, underscores, dots and dashes. Levels of a name are separated by a
colon in a file, as in `"Kafka:ProducerConfig:Acks"`, by two underscores in the name of a variable,
and by a dot or a colon on the command line.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from famulus.errors import ConfigError
from famulus.formatting import starred
from famulus.spelling import plain

Place = tuple[str, ...]  # path of a setting: the plain names of its sections, then its own
COMMAND_LINE = "command line"
ALIAS = "KAFKA_BOOTSTRAP_SERVERS"  # a common variable, for KAFKA__BOOTSTRAPSERVERS
_noise = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_last_comma = re.compile(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])')
# A plain name that matches `_secret` and not `_points_at` is that of a secret.
_secret = re.compile(r"password|passwd|secret|token(?!endpoint)|credential|accesskey")
_points_at = re.compile(r"(file|location|url|hosts)$")
_environment_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of a layer.

    *name* is spelled as in the layer. *origin* is the name of the file or the variable, or
    `command line`.
    """

    place: Place
    value: object
    name: str
    origin: str
    may_refer: bool = False  # whether `${VAR}` is a reference: only in values of files

    def __str__(self) -> str:
        return self.origin if self.name == self.origin else f"{self.name} in {self.origin}"


def files_of(folder: Path, environment: str) -> list[Path]:
    """Return the paths of the settings files of an *environment*, the weaker first.

    The files need not exist. The case of the environment's name does not matter. Raises ConfigError
    when the name cannot be part of a file name.
    """
    files = [folder / "appsettings.json"]
    if environment:
        if not _environment_name.fullmatch(environment):
            raise ConfigError(
                f"ENVIRONMENT {environment!r} is no name of a file: letters, digits, dots "
                "and dashes"
            )
        own = folder / f"appsettings.{environment}.json"
        same = sorted(folder.glob("appsettings.*.json")) if not own.exists() else []
        files.append(next((f for f in same if f.name.lower() == own.name.lower()), own))
    return files


def from_file(path: Path) -> list[Setting]:
    """Return the settings of a JSON file, none if the file does not exist.

    Comments and a comma after the last value are accepted. Raises ConfigError when the file cannot
    be read, is not a JSON object, or has a name twice.
    """
    try:
        text = path.read_text("utf-8-sig")
        # Comments become spaces, so that the lines keep their numbers in error messages.
        text = _noise.sub(lambda found: found[1] or re.sub(r"[^\n]", " ", found[0]), text)
        said = json.loads(
            _last_comma.sub(lambda found: found[1] or " ", text), object_pairs_hook=_once
        )
        if not isinstance(said, dict):
            # Turned into a ConfigError below, like every other fault of the file.
            raise TypeError("it must be a JSON object")
    except FileNotFoundError:
        return []
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"settings: {path.name} cannot be read: {error}") from None
    said.pop("$schema", None)  # used by editors only
    return list(_flat(said, (), path.name))


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    said = dict(pairs)
    if len(said) < len(pairs):
        raise ValueError(f"one of {', '.join(said)} is there twice")
    return said


def _flat(said: Mapping[str, object], above: tuple[str, ...], origin: str) -> Iterator[Setting]:
    for name, value in said.items():
        names = *above, *name.split(":")
        if isinstance(value, dict) and value:
            yield from _flat(value, names, origin)
        else:
            yield Setting(tuple(map(plain, names)), value, ".".join(names), origin, may_refer=True)


def from_environment(variables: Mapping[str, str], sections: Collection[str]) -> list[Setting]:
    """Return the settings of the variables that belong to one of *sections*.

    The name of such a variable begins with the plain name of a section and two underscores.
    `KAFKA_BOOTSTRAP_SERVERS` counts as `KAFKA__BOOTSTRAPSERVERS` if that is not set.
    """
    found = []
    for name, value in variables.items():
        names = tuple(map(plain, name.split("__")))
        # A variable named only STATE or WORKER belongs to another program.
        if len(names) > 1 and names[0] in sections:
            found.append(Setting(names, value, name, name))
    place = ("kafka", "bootstrapservers")
    if variables.get(ALIAS) and all(setting.place != place for setting in found):
        found.append(Setting(place, variables[ALIAS], ALIAS, ALIAS))
    return found


def from_arguments(arguments: Sequence[str]) -> list[Setting]:
    """Return the settings of `--set NAME=VALUE` on the command line of `faust`.

    *arguments* begin with the program. The result is empty for other programs, which may have an
    option `--set` of their own. If a name is given several times, the last value wins. Raises
    ConfigError for a name without a value, and for a secret, since every user of the machine can
    see the arguments of a process.
    """
    program = Path(arguments[0] if arguments else "")
    if program.stem != "faust" and program.parts[-2:] != ("faust", "__main__.py"):
        return []
    found: dict[Place, Setting] = {}
    rest = iter(arguments[1:])
    for argument in rest:
        if argument == "--":
            break
        option, is_joined, said = argument.partition("=")
        if option == "--set":
            name, separator, value = (said if is_joined else next(rest, "")).partition("=")
            if not separator:
                raise ConfigError(
                    "--set needs a name and a value: --set Kafka.ProducerConfig.LingerMs=20"
                )
            place = tuple(plain(part) for part in re.split(r"[.:]", name))
            _check_argument(name, place, value)
            found[place] = Setting(place, value, name, COMMAND_LINE)
    return list(found.values())


def _check_argument(name: str, place: Place, value: str) -> None:
    is_secret = _secret.search(place[-1]) and not _points_at.search(place[-1])
    if value and (is_secret or starred(value) != value):
        raise ConfigError(
            f"--set {name}: a secret does not belong on the command line, where every user of "
            "this machine sees it: "
            f"set the variable {'__'.join(part.upper() for part in place)}, "
            "or refer to a file in appsettings.json: ${file:PATH}"
        )
