"""`faust -A app reset-offsets`: move a stopped group to other offsets, commit and state."""

import click
import msgspec
from aiokafka import TopicPartition
from faust.cli import argument, option

from famulus.application import Famulus
from famulus.cli.command import PARTITION, Command
from famulus.cli.control_client import cancel_seeks, resolve_scope
from famulus.cli.output import print_note
from famulus.cli.seek import PLACES, agreed, asked_where, show
from famulus.cli.state.json_lines import claimed, prepare_state
from famulus.control.seek_planner import consequences, planned
from famulus.inspection.changelog_reader import belonging, source_partitions
from famulus.kafka.group_members import check_empty, commit_for
from famulus.processing.subscription import Subscription
from famulus.state.changelog import PROCESSED, encode
from famulus.wiring import remembers_s


class reset_offsets(Command):  # Faust names the command after the class
    """Set the offsets at which a stopped group continues: of a topic, a partition, or all.

    The command shows the change and asks before it makes it. While the group has members, it is
    refused (exit code 78); use `seek` then. The state is kept, and its position moves to the new
    offsets. The state still knows the events that were handled, so these are duplicates when they
    are read again. `state replay` empties the tables and has the events handled again.

    \b
    For example:
    faust -A app reset-offsets order-events --to-beginning --dry-run
    faust -A app reset-offsets order-events --partition 3 --shift-by -100
    faust -A app reset-offsets --all --to-time 2026-01-31T12:00:00+00:00 --yes
    """  # \b keeps click from rewrapping the paragraph

    options = [  # Faust reads a list here
        argument("topic", required=False),
        option("--partition", type=PARTITION, help="Only this one."),
        option("--all", "is_all", is_flag=True, help="Every topic, instead of one."),
        *PLACES,
        option(
            "--shift-by",
            type=int,
            metavar="N",
            help="So many from the commit, below 0: back; within the log.",
        ),
        option("--dry-run", "is_dry", is_flag=True, help="Only show it."),
        option("--yes", "is_sure", is_flag=True, help="Do not ask."),
        option("--json", "is_json", is_flag=True, help="A JSON object for each partition."),
    ]

    async def run(  # one parameter for each option
        self,
        topic: str | None,
        partition: int | None,
        offset: int | None,
        time: str | None,
        shift_by: int | None,
        *,
        is_all: bool,
        is_beginning: bool,
        is_end: bool,
        is_dry: bool,
        is_sure: bool,
        is_json: bool,
    ) -> None:
        """Show the new offsets, ask, then write them to the state and commit them.

        Raises ConfigError while the group has members, or when there is no such topic, partition or
        offset.
        """
        if (topic is None) != is_all:
            raise click.UsageError("name a TOPIC, or say --all")
        where = asked_where(offset, time, shift_by, is_beginning=is_beginning, is_end=is_end)
        app, kafka, timeout_s = (
            self.app,
            self.app.settings.kafka,
            self.app.settings.worker.startup_timeout_s,
        )
        await check_empty(kafka, timeout_s)
        target = await resolve_scope(app, topic, partition)
        of = {s.topic_name: s for s in app.subscriptions.values()}
        moves = await planned(kafka, of, target, where, timeout_s)
        show(moves, consequences(moves, remembers_s(of.values())), is_json=is_json)
        if is_dry or not agreed("Go on there?", is_sure=is_sure):
            return
        await check_empty(kafka, timeout_s)
        positions = {move.place: move.to for move in moves}
        await cancel_seeks(app, positions)
        for name, subscription in of.items():
            await _move_state(
                app,
                subscription,
                {at.partition: to for at, to in positions.items() if at.topic == name},
            )
        await commit_for(kafka, positions, timeout_s)
        print_note(f"{len(moves)} partitions go on there")


async def _move_state(app: Famulus, subscription: Subscription, positions: dict[int, int]) -> None:
    """Write the new positions to the state of the partitions.

    A worker continues at the position in its state, so a commit alone would not move it. Raises
    InvariantError when a worker writes to the changelog meanwhile.
    """
    if subscription.state_topic is None or not positions:
        return
    await prepare_state(
        app, subscription, await source_partitions(app, subscription), may_grow=False
    )
    places = [TopicPartition(subscription.state_topic, number) for number in positions]
    async with claimed(app, places) as claims:
        here = await belonging(app, subscription)
        for at, fold, writer in claims:
            moved = msgspec.structs.replace(
                fold.decoded, next_offset=positions[at.partition], ahead=()
            )
            await writer.write([(PROCESSED, encode(here.taken_on(moved, at.partition)))])
