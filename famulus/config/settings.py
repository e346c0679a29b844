"""All settings of a process, and their loading from the layers."""

import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pydantic import ConfigDict, PrivateAttr, ValidationError
from pydantic_core import ErrorDetails

from famulus.config.kafka import KafkaConfig
from famulus.config.loading.merge import Resolved, merge, nested, resolve
from famulus.config.loading.sources import (
    Place,
    files_of,
    from_arguments,
    from_environment,
    from_file,
)
from famulus.config.section import Section, UnknownError
from famulus.config.worker import (
    ClaimCheckConfig,
    DeadLetterConfig,
    FailuresConfig,
    StateConfig,
    WorkerConfig,
)
from famulus.errors import ConfigError
from famulus.spelling import plain


class Said(NamedTuple):
    """Origin of a setting.

    *layer* names it for display. *is_secret*: the value was read from a separate file, as secrets
    are.
    """

    layer: str
    is_secret: bool


class Settings(Section):
    """All settings of one process.

    `load_settings()` returns them. Create one directly only in a test.
    """

    model_config = ConfigDict(hide_input_in_errors=True)  # it may be a password

    kafka: KafkaConfig = KafkaConfig()
    worker: WorkerConfig = WorkerConfig()
    state: StateConfig = StateConfig()
    failures: FailuresConfig = FailuresConfig()
    dead_letter: DeadLetterConfig = DeadLetterConfig()
    claim_check: ClaimCheckConfig = ClaimCheckConfig()
    _said: Mapping[Place, Said] = PrivateAttr(default_factory=dict)

    @property
    def said(self) -> Mapping[Place, Said]:
        """Return the origins of the settings when they were read; others are defaults."""
        return self._said

    @property
    def commit_interval_s(self) -> float:
        """Return the time between two offset commits, in seconds."""
        consumer = self.kafka.consumer_config
        forced = consumer.enable_auto_commit == "forced"
        return consumer.auto_commit_interval_ms / 1000 if forced else self.worker.commit_interval_s


def settings_files() -> list[Path]:
    """Return the paths of this process's settings files, the weaker first.

    The files need not exist. Raises ConfigError when `APPSETTINGS_DIR` is not a folder or
    `ENVIRONMENT` cannot be part of a file name.
    """
    folder = os.environ.get("APPSETTINGS_DIR")
    if folder and not Path(folder).is_dir():
        raise ConfigError(
            f"APPSETTINGS_DIR {folder!r} is no folder: name the one that has appsettings.json, "
            "or unset it"
        )
    return files_of(Path(folder or "."), os.environ.get("ENVIRONMENT", ""))


def _read_layers() -> dict[Place, Resolved]:
    """Read files, environment and command line, and return the merged settings.

    Raises ConfigError.
    """
    said = [from_file(file) for file in settings_files()]
    said.append(from_environment(os.environ, [plain(name) for name in Settings.model_fields]))
    said.append(from_arguments(sys.argv))
    return resolve(merge(said), os.environ)


def read_settings() -> Settings:
    """Return the settings as the layers define them now.

    Raises ConfigError with one line that names every wrong setting.
    """
    layers = _read_layers()
    try:
        settings = Settings.model_validate(nested(layers))
    except ValidationError as error:
        faults = "; ".join(
            _line(fault, layers) for fault in error.errors(include_input=False, include_url=False)
        )
        raise ConfigError(f"settings: {faults}") from None
    settings._said = {place: Said(of.layer, of.is_secret) for place, of in layers.items()}
    return settings


@cache
def load_settings() -> Settings:
    """Return the settings of this process, read once. Raises ConfigError."""
    return read_settings()


def _line(fault: ErrorDetails, layers: Mapping[Place, Resolved]) -> str:
    """Describe one fault: the setting, what is wrong with it, and its origin."""
    said = [str(part) for part in fault["loc"]]
    unknown = fault.get("ctx", {}).get("error")
    place = tuple(
        plain(part)
        for part in [
            *said,
            *([unknown.name] if isinstance(unknown, UnknownError) and unknown.is_one else []),
        ]
    )
    origins = [
        str(layer.setting) for at, layer in layers.items() if place and at[: len(place)] == place
    ]
    origin = f" ({origins[0]})" if len(origins) == 1 else ""
    name = f"{'.'.join(said)}: " if said else ""
    return f"{name}{fault['msg'].removeprefix('Value error, ')}{origin}"
