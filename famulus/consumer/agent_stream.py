"""What the agent of a subscription is given."""

from typing import Any, cast

import faust

from famulus.consumer.assignment import AssignedPartitions
from famulus.errors import ConfigError
from famulus.processing.partition_processor import PartitionProcessor


class Deliveries(faust.Stream[Any]):
    """What a subscription's agent is given: `await deliveries.carry()`.

    Any other agent gets an ordinary stream.
    """

    async def carry(self) -> None:
        """Have this subscription's events carried until the worker stops."""
        assigned: AssignedPartitions = cast(
            Any, self.app
        ).assigned  # our app is both Faust's App and a Host
        queue, topic = cast(Any, self.channel).queue, cast(Any, self.channel).topics[0]
        assigned.carrying[topic] += 1
        try:
            while True:
                try:
                    processor: PartitionProcessor = await queue.get()
                except StopAsyncIteration:  # Faust's way to say that the worker stops
                    return
                assigned.task_pool.wake(processor)
        finally:
            assigned.carrying[topic] -= 1

    def __aiter__(self) -> Any:
        channel: Any = self.channel  # Any: Faust's own type is its iterator side only
        if isinstance(channel, faust.Topic) and any(
            map(cast(Any, self.app).is_managed, channel.topics)
        ):
            raise ConfigError(
                "events of a subscription go to handlers: `await deliveries.carry()`, no "
                "`async for`"
            )
        return super().__aiter__()
