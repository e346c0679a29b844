"""`faust -A app state`: export, import, verify, replay and restore state."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from faust.cli import argument, option
from rich.progress import Progress

from famulus.cli.command import PARTITION, Command
from famulus.cli.output import error_console, is_answering, print_json, print_note
from famulus.cli.state.json_lines import exported, import_rows
from famulus.cli.state.replay import Start, Step, planned, replay, start_of
from famulus.cli.state.restore_changelog import restored
from famulus.cli.state.verify import Verdict, verified
from famulus.errors import ConfigError
from famulus.formatting import printable_json
from famulus.inspection.changelog_reader import (
    Progressed,
    places_of,
    subscription_of,
    subscriptions_of,
)

DIFFERENCES_SHOWN = 10
ONLY_FOR = {  # which options belong to which actions
    "table": ("export",),
    "output": ("export",),
    "file": ("import",),
    "replace": ("import",),
    "keep_partition": ("import",),
    "start": ("replay",),
    "yes": ("replay",),
    "partition": ("restore-changelog",),
    "older": ("restore-changelog",),
    "is_json": ("verify", "replay", "restore-changelog"),
}

SPELT = {"start": "--from", "is_json": "--json"}


class state(Command):  # Faust names the command after the class
    """Export, import or verify the state of subscriptions, or build it again.

    `export` writes the rows of tables as lines of JSON. The rows come from the changelog, so
    workers may run meanwhile. `import` writes such lines into the state of one subscription, each
    row to the partition of its key. `verify` compares the stores under Worker.DataDir with the
    changelogs, and exits with 1 when they differ. Unreadable rows are exported and counted;
    `export` and `verify` exit with 1 when there are any. `replay` drops the state of one
    subscription and has its records handled again. `restore-changelog` writes a changelog that was
    deleted, created again or truncated, from the stores under Worker.DataDir. For `import`,
    `replay` and `restore-changelog` the group's workers must be stopped.

    \b
    For example:
    faust -A app state export --table spend --output spend.jsonl
    faust -A app state import --topic order-events spend.jsonl
    faust -A app state verify
    faust -A app state replay --topic order-events --from 0:100,1:250
    faust -A app state restore-changelog --topic order-events
    """  # \b keeps click from rewrapping the paragraph

    options = [  # Faust reads a list here
        argument(
            "action",
            type=click.Choice(["export", "import", "verify", "replay", "restore-changelog"]),
        ),
        argument(
            "file", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False
        ),
        option(
            "--topic",
            help="The source topic of one subscription; import, replay and restore-changelog "
            "need it.",
        ),
        option("--table", help="export: this table only."),
        option(
            "--output", type=click.Path(path_type=Path, dir_okay=False), help="export: into a file."
        ),
        option(
            "--replace", is_flag=True, help="import: delete the rows that the file does not have."
        ),
        option(
            "--keep-partition",
            is_flag=True,
            help="import: rows stay in the partitions that the lines name.",
        ),
        option(
            "--from",
            "start",
            metavar="WHERE",
            help="replay: earliest (unless set), PARTITION:OFFSET,... or a time.",
        ),
        option("--partition", type=PARTITION, help="restore-changelog: only this one."),
        option(
            "--older", is_flag=True, help="restore-changelog: take a store that is not the newest."
        ),
        option("--yes", is_flag=True, help="replay: do not ask."),
        option("--json", "is_json", is_flag=True, help="A JSON object for each partition."),
    ]

    async def run(self, action: str, topic: str | None, **given: object) -> None:
        """Check the options, then run the action.

        Raises UsageError for options that do not fit the action.
        """
        for name, actions in ONLY_FOR.items():
            # 0 is a valid partition, so the truth of the value does not decide.
            if given[name] is not None and given[name] is not False and action not in actions:
                spelt = SPELT.get(name, "--" + name.replace("_", "-"))
                raise click.UsageError(f"{spelt}: only for {' and '.join(actions)}")
        if action in ("import", "replay", "restore-changelog") and topic is None:
            raise click.UsageError(
                f"{action} needs --topic, one of: {', '.join(self.app.subscriptions)}"
            )
        act = getattr(self, f"_{action.replace('-', '_')}")
        await act(
            topic, **{name: value for name, value in given.items() if action in ONLY_FOR[name]}
        )

    async def _export(self, topic: str | None, table: str | None, output: Path | None) -> None:
        subscriptions = subscriptions_of(self.app, topic)
        if table is not None:
            known = {name: s for s in subscriptions for name in s.tables}
            if table not in known:
                raise ConfigError(f"no table {table!r}; there are: {', '.join(known) or 'none'}")
            subscriptions = [known[table]]
        places = await places_of(self.app, subscriptions)
        unknown, unreadable = set[str](), Counter[str]()
        count = 0
        with _written(output) as write, _progress("reading the state") as progressed:
            async for line in exported(
                self.app,
                places,
                table,
                progressed=progressed,
                unknown=unknown,
                unreadable=unreadable,
            ):
                write(line)
                count += 1
        if unknown:
            self._note(
                "left out, since no subscription declares them: rows of "
                f"{', '.join(sorted(unknown))}"
            )
        self._note(f"{count} rows")
        if unreadable:
            self._note(
                f"{unreadable.total()} of them cannot be read ({_counted(unreadable)}): their "
                "lines say why in "
                "`unreadable`, and are imported as they are"
            )
            raise SystemExit(1)

    async def _import(
        self, topic: str, file: Path | None, *, replace: bool, keep_partition: bool
    ) -> None:
        if file is None:
            raise click.UsageError("import needs a file")
        subscription = subscription_of(self.app, topic)
        written, deleted = await import_rows(
            self.app, subscription, file, is_replacing=replace, is_kept=keep_partition
        )
        self.say(f"{written} rows written" + (f", {deleted} others deleted" if replace else ""))

    async def _verify(self, topic: str | None, *, is_json: bool) -> None:
        with _progress("reading the state") as progressed:
            verdicts = await verified(self.app, subscriptions_of(self.app, topic), progressed)
        headers = ["partition", "rows", "marks", "epoch", "position", "differences"]
        self.list_rows(
            [_verdict_row(verdict) for verdict in verdicts], headers, "State", is_json=is_json
        )
        for verdict in verdicts:
            for difference in verdict.differences[:DIFFERENCES_SHOWN]:
                self._note(f"{verdict.at.topic}-{verdict.at.partition}: {difference}")
            if verdict.unreadable:
                self._note(
                    f"{verdict.at.topic}-{verdict.at.partition}: rows that cannot be read: "
                    f"{_counted(verdict.unreadable)}; `state export` says which and why"
                )
        if any(verdict.differences or verdict.unreadable for verdict in verdicts):
            raise SystemExit(1)

    async def _replay(self, topic: str, start: str | None, *, yes: bool, is_json: bool) -> None:
        subscription = subscription_of(self.app, topic)
        steps = await planned(self.app, subscription, _start(start or "earliest"))
        headers = ["partition", "rows", "marks", "committed", "processed", "goes on at", "again"]
        self.list_rows(
            [_step_row(step) for step in steps], headers, f"Replay of {topic}", is_json=is_json
        )
        if not yes:
            if not is_answering():
                raise click.UsageError("nobody is there to say yes: add --yes")
            click.confirm("Drop these rows and marks, and go on there?", abort=True)
        await replay(self.app, subscription, steps)
        self._note(f"{len(steps)} partitions of {subscription.topic_name} go on there")

    async def _restore_changelog(
        self, topic: str, partition: int | None, *, older: bool, is_json: bool
    ) -> None:
        subscription = subscription_of(self.app, topic)
        with _progress("writing the state") as progressed:
            found = await restored(self.app, subscription, partition, progressed, takes_older=older)
        rows = [
            (f"{of.at.topic}-{of.at.partition}", str(of.written), of.why or "written")
            for of in found
        ]
        self.list_rows(
            rows, ["partition", "records", "what"], f"Changelog of {topic}", is_json=is_json
        )
        self._note(f"{sum(of.written for of in found)} records written")
        if any(of.is_older for of in found):
            raise SystemExit(1)

    def _note(self, text: str) -> None:
        print_note(text)


def _counted(rows: Counter[str]) -> str:
    """Return the number of rows of each table as text."""
    return ", ".join(f"{table}: {count}" for table, count in sorted(rows.items()))


def _start(text: str) -> Start:
    try:
        return start_of(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--from") from None


def _verdict_row(of: Verdict) -> Sequence[str]:
    at = f"{of.at.topic}-{of.at.partition}"
    if of.position is None and not of.differences:
        return (
            at,
            str(of.rows),
            str(of.marks),
            str(of.epoch),
            f"log at {of.end - 1}",
            "no local store",
        )
    position = f"{of.position} of {of.end - 1}"
    return (
        at,
        str(of.rows),
        str(of.marks),
        str(of.epoch),
        position,
        str(len(of.differences) or "none"),
    )


def _step_row(of: Step) -> Sequence[str]:
    rows, marks = (len(of.fold.rows), len(of.fold.marks)) if of.fold is not None else (0, 0)
    processed = of.fold.next_offset if of.fold is not None else None
    again = f"{of.again} records" if of.again >= 0 else f"skips {-of.again}"
    numbers = (rows, marks, of.committed, processed, of.position)
    return (
        str(of.source.partition),
        *("-" if number is None else str(number) for number in numbers),
        again,
    )


@contextmanager
def _progress(what: str) -> Iterator[Progressed]:
    """Show a progress bar on stderr if that is a terminal."""
    err = error_console()
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda count: bar.advance(task, count)


@contextmanager
def _written(output: Path | None) -> Iterator[Callable[[bytes], object]]:
    """Open the output: standard output, or a private file that is replaced as a whole.

    The file appears only when it is complete, and only its owner can read it, because state is
    private. Raises ConfigError when it cannot be written.
    """
    if output is None:
        yield print_json
        return
    part = output.with_name(f"{output.name}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123
            yield lambda line: file.write(f"{printable_json(line)}\n".encode())
        part.replace(output)
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
