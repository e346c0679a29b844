"""Stream that the agent of a subscription receives."""

from typing import Any, cast

import faust

from famulus.consumer.assignment import AssignedPartitions
from famulus.errors import ConfigError
from famulus.processing.partition_processor import PartitionProcessor


class Deliveries(faust.Stream[Any]):
    """Stream of a subscription's agent, which calls `await deliveries.carry()`.

    An agent of any other topic gets an ordinary Faust stream.
    """

    async def carry(self) -> None:
        """Hand this subscription's partitions to the task pool until the worker stops."""
        assigned: AssignedPartitions = cast(
            Any, self.app
        ).assigned  # the app is both Faust's App and a Host
        queue, topic = cast(Any, self.channel).queue, cast(Any, self.channel).topics[0]
        assigned.carrying[topic] += 1
        try:
            while True:
                try:
                    processor: PartitionProcessor = await queue.get()
                except StopAsyncIteration:  # Faust raises it when the worker stops
                    return
                assigned.task_pool.wake(processor)
        finally:
            assigned.carrying[topic] -= 1

    def __aiter__(self) -> Any:
        channel: Any = self.channel  # Any: Faust's type covers the iterator alone
        if isinstance(channel, faust.Topic) and any(
            map(cast(Any, self.app).is_managed, channel.topics)
        ):
            raise ConfigError(
                "events of a subscription go to handlers: `await deliveries.carry()`, no "
                "`async for`"
            )
        return super().__aiter__()
