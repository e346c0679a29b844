"""The worker of `dev`: it makes the topics that its subscriptions need, and is a worker like any other then."""

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
    """A worker process that makes its topics first."""

    def execute_from_commandline(self) -> NoReturn:
        """Make them and run. Exits as a worker does."""
        make_lenient()
        try:
            self.loop.run_until_complete(make_needed(cast(Famulus, self.app)))
        except OperatingError as error:
            error.show()
            raise SystemExit(error.exit_code) from None
        super().execute_from_commandline()

    def _gather_all(self) -> None:  # the name is mode's
        """Cancel the tasks that are left when all is stopped: mode waits a second for them, with each save."""
        for task in asyncio.all_tasks(self.loop):
            task.cancel()


class dev_worker(worker):  # the class's name is the command's
    """Run the worker of `dev`, which starts it."""

    def on_worker_created(self, worker: Any) -> None:
        """Show no banner: it would come again with each save."""

    @property
    def _Worker(self) -> Any:  # noqa: N802  # Faust's
        return MakingTopics


cli.commands[NAME].hidden = True
