"""All settings of a process, and how they come together from its layers."""

import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.config.kafka import KafkaConfig
from app.config.section import Spelled, UnknownError
from app.config.worker import ClaimCheckConfig, DeadLetterConfig, FailuresConfig, StateConfig, WorkerConfig
from app.errors import ConfigError
from app.layers.merged import Resolved, merge, nested, resolve
from app.layers.sources import Place, files_of, from_arguments, from_environment, from_file
from app.spelling import plain


class Settings(Spelled, BaseSettings):
    """All settings of one process. `load_settings()` gives them; build one by hand only in a test."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)  # it may be a password

    kafka: KafkaConfig = KafkaConfig()
    worker: WorkerConfig = WorkerConfig()
    state: StateConfig = StateConfig()
    failures: FailuresConfig = FailuresConfig()
    dead_letter: DeadLetterConfig = Field(
        DeadLetterConfig(), validation_alias=AliasChoices("dead_letter", "deadletter")
    )
    claim_check: ClaimCheckConfig = Field(
        ClaimCheckConfig(), validation_alias=AliasChoices("claim_check", "claimcheck")
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # ours takes the place of them
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is said in code, then our layers."""
        return init_settings, _Layers(settings_cls)

    @property
    def commit_interval_s(self) -> float:
        """Between two offset commits, seconds."""
        consumer = self.kafka.consumer_config
        forced = consumer.enable_auto_commit == "forced"
        return consumer.auto_commit_interval_ms / 1000 if forced else self.worker.commit_interval_s


class _Layers(PydanticBaseSettingsSource):
    """The layers of this process, merged."""

    def __call__(self) -> dict[str, Any]:
        return nested(read_layers())

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not asked: all fields are given at once."""
        raise NotImplementedError(f"{field_name}: {field}")


def settings_files() -> list[Path]:
    """The settings files of this process, the weaker first; they need not be there."""
    return files_of(Path(os.environ.get("APPSETTINGS_DIR", ".")), os.environ.get("ENVIRONMENT", ""))


def read_layers() -> dict[Place, Resolved]:
    """What files, environment and command line say now, and where. Raises ConfigError."""
    said = [from_file(file) for file in settings_files()]
    said.append(from_environment(os.environ, [plain(name) for name in Settings.model_fields]))
    said.append(from_arguments(sys.argv))
    return resolve(merge(said), os.environ)


@cache
def load_settings() -> Settings:
    """The settings of this process, read once. Raises ConfigError with one line that names every wrong setting."""
    try:
        return Settings()
    except ValidationError as error:
        layers = read_layers()
        faults = "; ".join(_line(fault, layers) for fault in error.errors(include_input=False, include_url=False))
        raise ConfigError(f"settings: {faults}") from None


def _line(fault: ErrorDetails, layers: Mapping[Place, Resolved]) -> str:
    """One fault: the setting, what is wrong, and who said it."""
    said = [str(part) for part in fault["loc"]]
    unknown = fault.get("ctx", {}).get("error")
    place = tuple(plain(part) for part in [*said, *([unknown.name] if isinstance(unknown, UnknownError) else [])])
    origins = [str(layer.setting) for at, layer in layers.items() if place and at[: len(place)] == place]
    origin = f" ({origins[0]})" if len(origins) == 1 else ""
    return f"{'.'.join(said) or 'settings'}: {fault['msg'].removeprefix('Value error, ')}{origin}"
