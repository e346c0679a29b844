"""Discovery of the commands of this package.

A new command is a new module or package here. No other file has to list it.
"""

import importlib
import pkgutil
from functools import cache

from famulus import cli
from famulus.application import Famulus
from famulus.cli.command import adopt, take_settings


def register(app: Famulus) -> None:
    """Add every command to Faust's command line.

    A second *app* of the process finds the commands registered already.
    """
    del app  # Faust's command line has the commands, and passes the app to them
    _register()


@cache
def _register() -> None:
    for module in pkgutil.iter_modules(cli.__path__):
        importlib.import_module(
            f"{cli.__name__}.{module.name}" + (".command" if module.ispkg else "")
        )
    take_settings()
    adopt()
