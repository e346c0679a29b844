"""Find the commands of this package: a new one is a module here, and nothing else names it."""

import importlib
import pkgutil
from functools import cache

from famulus import cli
from famulus.application import Famulus
from famulus.cli.command import adopt, take_settings


def register(app: Famulus) -> None:
    """Add every command to Faust's command line. A second *app* of the process finds them there."""
    del app  # commands belong to the command line, which gives them the app
    _register()


@cache
def _register() -> None:
    for module in pkgutil.iter_modules(cli.__path__):
        importlib.import_module(
            f"{cli.__name__}.{module.name}" + (".command" if module.ispkg else "")
        )
    take_settings()
    adopt()
