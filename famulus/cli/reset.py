"""`faust -A app reset-offsets`: where a group that does not run is to go on, commit and state alike."""

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


class reset_offsets(Command):  # the class's name is the command's
    """Set where a group that does not run goes on: of a topic, one of its partitions, or all.

    It shows that and asks.

    Refused (78) while the group has members: `seek` does it then. The state stays: it goes on
    there, too, and knows the events that it has handled; when they are read again they are
    duplicates. `state replay` empties the tables and has them handled anew.

    \b
    For example:
    faust -A app reset-offsets order-events --to-beginning --dry-run
    faust -A app reset-offsets order-events --partition 3 --shift-by -100
    faust -A app reset-offsets --all --to-time 2026-01-31T12:00:00+00:00 --yes
    """  # click wants that control character, to leave the lines as they are

    options = [  # as Faust wants it
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

    async def run(  # each is an option
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
        """Do it. Raises ConfigError while the group has members, or when there is no such place."""
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
    """Have the state of these partitions say the new positions: a worker goes on where its state says.

    Raises InvariantError when a worker writes meanwhile.
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
