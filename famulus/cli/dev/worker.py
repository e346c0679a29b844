"""Worker of `dev`: a worker like any other, except that it first creates its topics."""

import asyncio
from typing import Any, NoReturn, cast

from faust.cli.base import cli
from faust.cli.worker import worker

from famulus.application import Famulus
from famulus.cli.needed_topics import make_needed
from famulus.errors import OperatingError
from famulus.runtime.worker_process import Worker
from famulus.standard_streams import make_lenient

NAME = "dev-worker"


class MakingTopics(Worker):
    """A worker process that creates the topics of its subscriptions first."""

    def execute_from_commandline(self) -> NoReturn:
        """Create the topics, then run the worker.

        Exits with the codes of a worker.
        """
        make_lenient()
        try:
            self.loop.run_until_complete(make_needed(cast(Famulus, self.app)))
        except OperatingError as error:
            error.show()
            raise SystemExit(error.exit_code) from None
        super().execute_from_commandline()

    def _gather_all(self) -> None:  # overrides a method of mode
        """Cancel the tasks that are left after the stop.

        Otherwise mode would wait a second for them, at every restart.
        """
        for task in asyncio.all_tasks(self.loop):
            task.cancel()


class dev_worker(worker):  # Faust names the command after the class
    """Run the worker of `dev`. The command `dev` starts it."""

    def on_worker_created(self, worker: Any) -> None:
        """Print no banner, because every restart would repeat it."""

    @property
    def _Worker(self) -> Any:  # noqa: N802  # overrides a property of Faust
        return MakingTopics


cli.commands[NAME].hidden = True
