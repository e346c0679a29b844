"""What our commands share: they run without Faust's worker around them and end with the exit codes of `errors`."""

import asyncio
from typing import Any, NoReturn

from faust.cli import AppCommand

from app.bootstrap import Famulus
from app.errors import OperatingError


class Command(AppCommand):
    """A command of ours. Define `run`; an OperatingError that it raises becomes one line and its exit code."""

    abstract = True
    app: Famulus

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run and exit: 0, or the code of what went wrong."""
        try:
            asyncio.run(self.run(*self.args, *args, **{**self.kwargs, **kwargs}))
        except OperatingError as error:
            error.show()
            raise SystemExit(error.exit_code) from None
        raise SystemExit(0)
