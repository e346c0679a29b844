"""Settings for people and editors: each with its unit and its layer, and the JSON Schema."""

import json
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, SecretStr

from famulus.config import Settings
from famulus.config.loading.sources import Place
from famulus.config.settings import Said
from famulus.formatting import starred
from famulus.spelling import plain

STARS = "***"
# By the end of a name; Kafka's own names of sizes say no unit.
UNITS = {
    "_ms": "ms",
    "_s": "s",
    "_h": "h",
    "_mib": "MiB",
    "bytes": "bytes",
    "batch_size": "bytes",
    "max_request_size": "bytes",
    "buffer_memory": "bytes",
    "_records": "records",
    "partitions": "partitions",
    "concurrency": "events",
    "_ratio": "share",
    "replication_factor": "copies",
    "_replicas": "copies",
    "attempts": "attempts",
    "sequence_max": "events",
    "flood_run": "events",
    "poison_run": "events",
}
_secret = re.compile(r"password|secret|token(?!_endpoint)")
_points_at = re.compile(r"(file|location|url|hosts)$")
REFERENCE = {"type": "string", "pattern": r"\$\{.+\}"}  # what stands for a number or a choice


class Shown(NamedTuple):
    """A setting as it is shown."""

    name: str
    value: Any  # Any: what JSON has
    unit: str
    layer: str


def file_name(name: str) -> str:
    """Return a field's name as settings files have it: `linger_ms` is `LingerMs`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def shown(settings: Settings) -> list[Shown]:
    """Every setting, and who said it."""
    return list(_rows(settings, (), settings.said))


def _rows(
    section: BaseModel, above: tuple[str, ...], layers: Mapping[Place, Said]
) -> Iterator[Shown]:
    for field in type(section).model_fields:
        value, names = getattr(section, field), (*above, file_name(field))
        if isinstance(value, BaseModel):
            yield from _rows(value, names, layers)
        elif isinstance(value, dict):
            for key, own in value.items():
                yield from _rows(own, (*names, key), layers)
        else:
            said = layers.get(tuple(map(plain, names)))
            is_secret = said is not None and said.is_secret
            seen = _seen(field, value, is_secret=is_secret)
            yield Shown(
                ".".join(names), seen, unit_of(field), said.layer if said is not None else "default"
            )


def unit_of(field: str) -> str:
    """Return the unit of a field by its name, empty for texts and plain numbers."""
    return next((unit for end, unit in UNITS.items() if field.endswith(end)), "")


def _seen(field: str, value: object, *, is_secret: bool) -> Any:  # Any: what JSON has
    if isinstance(value, SecretStr):
        return STARS if value.get_secret_value() else ""
    if value and (is_secret or (_secret.search(field) and not _points_at.search(field))):
        return STARS
    if isinstance(value, (str, Path, Enum)):
        return starred(str(value))
    return list(value) if isinstance(value, tuple) else value


def schema() -> dict[str, Any]:  # Any: JSON
    """Return the JSON Schema of a settings file, with names, types, limits and descriptions."""
    made = Settings.model_json_schema()
    for part in (made, *made["$defs"].values()):
        part["properties"] = {
            file_name(name): _property(name, said) for name, said in part["properties"].items()
        }
    made["properties"] = {"$schema": {"type": "string"}, **made["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _property(name: str, said: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
    said = {key: value for key, value in said.items() if key != "title"}
    about: dict[str, Any] = {
        key: said.pop(key) for key in ("description", "default") if key in said
    }
    unit = unit_of(name)
    if unit:
        about["description"] = f"{about.get('description', '')} Unit: {unit}.".strip()
    if isinstance(about.get("default"), dict):
        del about["default"]  # of a section: its settings have theirs
    is_section = "$ref" in said or "$ref" in json.dumps(said)
    if is_section or said == {"type": "string"}:
        return {**about, **said}
    return {**about, "anyOf": [said, *_spellings(said), REFERENCE]}


def _spellings(said: dict[str, Any]) -> list[dict[str, Any]]:  # Any: JSON
    """Return schemas of the other spellings of a setting's choices: `SaslSsl` is `SASL_SSL`."""
    of_parts = [choice for part in said.get("anyOf", ()) for choice in part.get("enum", ())]
    choices = [
        choice
        for choice in said.get("enum", of_parts)
        if isinstance(choice, str) and choice[:1].isalpha()
    ]
    each = "|".join(
        "[-_.]?".join(f"[{c.upper()}{c.lower()}]" for c in plain(choice)) for choice in choices
    )
    return [{"type": "string", "pattern": f"^({each})$"}] if choices else []
