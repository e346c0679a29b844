"""Lag of a consumer group on every partition, in records and in seconds, with its state."""

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiokafka import TopicPartition

from famulus.config import KafkaConfig
from famulus.errors import ConfigError
from famulus.kafka.admin import admin_of
from famulus.kafka.burrow import LagSample, Rates, State, eta_s_of, kept, rates_of, state_of, worst
from famulus.kafka.group_admin import GroupAdmin, Members

NAMED_MAX = 20  # groups in an error


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """Lag of a partition by its last sample, *look*.

    *age_s* is the age of the next record to be read in seconds, None without one. *state*, *rates*
    and *eta_s* (seconds until the lag is zero) come from the window of samples, None if it is too
    short. *eta_s* is also None if the lag does not shrink. *owner* is client@host, None without
    one.
    """

    place: TopicPartition
    look: LagSample
    age_s: float | None
    state: State | None
    rates: Rates | None
    eta_s: float | None
    owner: str | None

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain values for JSON."""
        return {
            "topic": self.place.topic,
            "partition": self.place.partition,
            "committed": self.look.committed,
            "begin": self.look.begin,
            "end": self.look.end,
            "lag": self.look.lag,
            "lag_s": _rounded(self.age_s),
            "state": self.state,
            "eta_s": _rounded(self.eta_s),
            "arrived_per_s": _rounded(self.rates.arrived if self.rates else None),
            "consumed_per_s": _rounded(self.rates.consumed if self.rates else None),
            "deleted": self.look.deleted,
            "ahead": self.look.ahead,
            "open_since": self.open_since,
            "owner": self.owner,
        }

    @property
    def open_since(self) -> int | None:
        """Return the begin of the open transaction that blocks the group, None without one."""
        return self.look.position if self.look.is_held_up else None


@dataclass(frozen=True, slots=True)
class GroupLag:
    """Lag of a group *at_s* (seconds since 1970), judged over a window of *window_s* seconds.

    *unanswered* are partitions without a leader that answers: their lag is not included.
    """

    group: str
    at_s: float
    window_s: float
    members: int
    partitions: tuple[PartitionLag, ...]
    unanswered: tuple[TopicPartition, ...]

    @property
    def lag(self) -> int:
        """Return the lag of all partitions, in records."""
        return sum(partition.look.lag for partition in self.partitions)

    @property
    def age_s(self) -> float | None:
        """Return the age of the oldest unread record in seconds, None without any."""
        return max((p.age_s for p in self.partitions if p.age_s is not None), default=None)

    @property
    def state(self) -> State | None:
        """Return the worst of the partitions' states; an unanswered one counts as unknown."""
        return worst(
            [*(partition.state for partition in self.partitions), *(None for _ in self.unanswered)]
        )

    @property
    def eta_s(self) -> float | None:
        """Return the seconds until no partition has lag; None for never or unknown."""
        etas = [partition.eta_s for partition in self.partitions]
        known = [eta for eta in etas if eta is not None]
        return max(known, default=0.0) if len(known) == len(etas) and not self.unanswered else None

    def as_json(self) -> dict[str, Any]:
        """Return the fields and the totals of the group as plain values for JSON."""
        return {
            "group": self.group,
            "at_s": round(self.at_s, 3),
            "window_s": round(self.window_s, 3),
            "members": self.members,
            "state": self.state,
            "lag": self.lag,
            "lag_s": _rounded(self.age_s),
            "eta_s": _rounded(self.eta_s),
            "partitions": [partition.as_json() for partition in self.partitions],
            "unanswered": [f"{at.topic}/{at.partition}" for at in self.unanswered],
        }


class GroupLagMonitor:
    """Samples the lag of *group*, and keeps a window of samples for each partition.

    No worker is needed. Partitions are those that the group has committed or that its members own,
    and all of the topics that *expected* names (cluster names), of which missing ones are left out.
    With *only*, those of this topic alone.
    """

    def __init__(
        self,
        settings: KafkaConfig,
        group: str,
        timeout_s: float,
        *,
        expected: Collection[str] = (),
        only: str = "",
    ) -> None:
        self._settings = settings
        self._group = group
        self._timeout_s = timeout_s
        self._expected = {only} if only else set(expected)
        self._only = only
        self._windows: dict[TopicPartition, list[LagSample]] = {}

    async def look(self) -> GroupLag:
        """Take a sample of every partition, and return the lag of the group.

        Raises UnavailableError when no broker answers within the time limit, ConfigError when there
        is no such group or topic, AccessError when a right is missing.
        """
        async with admin_of(self._settings, self._timeout_s) as admin:
            asker = GroupAdmin(admin, self._group)
            members, committed = await asyncio.gather(asker.members(), asker.committed())
            leaders = await asker.leaders()
            places = self._places(leaders, members, committed)
            if not places and not self._expected.intersection(at.topic for at in leaders):
                await self._explain(asker)
            begins, ends = (
                await asker.offsets(places, "earliest"),
                await asker.offsets(places, "latest"),
            )
            now_s = time.time()
            looks = {
                at: LagSample(
                    now_s,
                    begins[at],
                    max(ends[at], begins[at]),
                    committed.get(at),
                    is_held=members.are_there,
                )
                for at in places
                if at in begins and at in ends
            }
            lagging = {at: look.position for at, look in looks.items() if look.lag}
            stable = await asker.offsets(lagging, "stable")
            looks |= {
                at: replace(looks[at], is_held_up=True)
                for at, of in lagging.items()
                if stable.get(at) == of
            }
            times_ms = await asker.times_ms(lagging)
        was = self._windows
        self._windows = {
            at: kept(was.get(at, ()), looks[at]) if at in looks else was.get(at, [])
            for at in places
        }
        return self._report(now_s, looks, times_ms, members)

    def _places(
        self,
        leaders: Iterable[TopicPartition],
        members: Members,
        committed: Iterable[TopicPartition],
    ) -> list[TopicPartition]:
        """Return the partitions of every topic of the group, those without a commit included."""
        topics = {at.topic for at in committed} | members.topics | self._expected
        return sorted(at for at in leaders if at.topic in topics and self._only in ("", at.topic))

    async def _explain(self, asker: GroupAdmin) -> None:
        if self._only:
            raise ConfigError(f"there is no topic {self._only}")
        groups = await asker.groups()
        if self._group not in groups:
            some = ", ".join(sorted(groups)[:NAMED_MAX]) + (
                ", ..." if len(groups) > NAMED_MAX else ""
            )
            raise ConfigError(f"there is no group {self._group}; there are: {some or 'none'}")

    def _report(
        self,
        now_s: float,
        answered: Collection[TopicPartition],
        times_ms: Mapping[TopicPartition, int],
        members: Members,
    ) -> GroupLag:
        found, unanswered = [], []
        for at, window in self._windows.items():
            if at not in answered:
                unanswered.append(at)
                continue
            rates, last = rates_of(window), window[-1]
            age_s = max(now_s - times_ms[at] / 1000, 0.0) if at in times_ms else None
            eta_s = eta_s_of(last.lag, rates)
            found.append(
                PartitionLag(
                    at, last, age_s, state_of(window), rates, eta_s, members.owners.get(at)
                )
            )
        window_s = max((now_s - self._windows[p.place][0].at_s for p in found), default=0.0)
        return GroupLag(
            self._group, now_s, window_s, members.count, tuple(found), tuple(unanswered)
        )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
