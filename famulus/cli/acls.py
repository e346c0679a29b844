"""`faust -A app acls`: the rights that Kafka has to give, no more than are used."""

import shlex
from collections.abc import Iterator
from typing import NamedTuple

from faust.cli import option

from famulus.application import Famulus
from famulus.cli.command import Command
from famulus.control.pauses import admin_audit_topic, admin_topic
from famulus.deadletter.topics import audit_topic
from famulus.processing.subscription import Subscription
from famulus.producer.reply_headers import replies_topic
from famulus.wiring import topic_of

LOOK = "Describe", "DescribeConfigs"
HEAD = """#!/bin/sh -eu
# What the worker and whoever handles dead letters may do, and nothing else. Written by `faust -A app acls`.
#   BOOTSTRAP=kafka:9092 ADMIN=admin.properties sh deploy/acls/famulus.sh
# Repeating it changes nothing. The idempotent producer needs nothing beside Write (Kafka 2.8 and later), and there are
# no transactions, so no right to a transactional id. Take away Write of the topics that no handler publishes to, the
# topic of replies where no handler asks for any, and Create and Alter once the topics are there. A worker that replies
# to another group needs Write and Describe of that one's topic, GROUP.replies.
allow() { kafka-acls.sh --bootstrap-server "$BOOTSTRAP" --command-config "$ADMIN" --add --allow-principal "$@"; }
"""


class Right(NamedTuple):
    """What a principal may do with a *resource*, `topic` or `group`, of that *name*."""

    principal: str
    resource: str
    name: str
    operations: tuple[str, ...]

    def __str__(self) -> str:
        """A line of the script."""
        operations = " ".join(f"--operation {operation}" for operation in self.operations)
        return (
            f"allow {shlex.quote(self.principal)} --{self.resource} "
            f"{shlex.quote(self.name)} {operations}"
        )


def rights_of_worker(app: Famulus, principal: str) -> Iterator[Right]:
    """What the workers do. Topics of their own they make themselves, each by its name."""
    kafka = app.settings.kafka
    yield Right(principal, "group", app.group, ("Read", "Describe"))
    yield from rights_of_admin(app, principal)
    yield from rights_of_replies(app, principal)
    if app.scheduler is not None:
        later = app.scheduler.topic  # its consumer group has the same name
        yield Right(principal, "group", later, ("Read", "Describe"))
        yield Right(principal, "topic", later, ("Create", "Alter", "Read", "Write", *LOOK))
    # A handler may publish an event of any type that is handled here: which ones it does, only its
    # code knows.
    published = {kafka.topic(topic_of(event_type)) for event_type in app.dispatcher.event_types}
    for subscription in _subscriptions(app):
        write = ("Write",) if subscription.topic_name in published else ()
        yield Right(principal, "topic", subscription.topic_name, ("Read", *write, *LOOK))
        yield Right(principal, "topic", app.dead_letter_topic(subscription), ("Write", *LOOK))
        if subscription.state_topic is not None:
            yield Right(
                principal, "topic", subscription.state_topic, ("Create", "Read", "Write", *LOOK)
            )
        redrive, *retries = app.redelivery_topics(subscription)
        yield Right(principal, "topic", redrive, ("Create", "Alter", "Read", *LOOK))
        for topic in retries:
            yield Right(principal, "topic", topic, ("Create", "Alter", "Read", "Write", *LOOK))


def rights_of_admin(app: Famulus, principal: str) -> Iterator[Right]:
    """What telling the group takes (pauses, seeks, concurrency), by a command or by a worker's web views."""
    yield Right(principal, "topic", admin_topic(app.group), ("Create", "Read", "Write", *LOOK))
    yield Right(principal, "topic", admin_audit_topic(app.group), ("Create", "Write", *LOOK))


def rights_of_replies(app: Famulus, principal: str) -> Iterator[Right]:
    """What requests of handlers take, and replies: to this group, and to the topics that the settings name in full."""
    own = replies_topic(app.group)
    yield Right(principal, "topic", own, ("Create", "Read", "Write", *LOOK))
    for name in app.settings.kafka.replies.allowed_topics.split(","):
        topic = name.strip()
        if topic != own and not set("*?[") & set(topic):
            yield Right(principal, "topic", topic, ("Write", *LOOK))


def rights_of_operator(app: Famulus, principal: str) -> Iterator[Right]:
    """What `dlq` does: it reads letters, state and sources, sends letters back, and writes down what was done."""
    yield Right(principal, "group", app.group, ("Describe",))
    yield from rights_of_admin(app, principal)
    for subscription in _subscriptions(app):
        letters = app.dead_letter_topic(subscription)
        for topic in (subscription.topic_name, letters, subscription.state_topic):
            if topic is not None:
                yield Right(principal, "topic", topic, ("Read", *LOOK))
        yield Right(principal, "topic", audit_topic(letters), ("Create", "Read", "Write", *LOOK))
        yield Right(
            principal,
            "topic",
            app.redrive_topic(subscription),
            ("Create", "Alter", "Read", "Write", *LOOK),
        )


def _subscriptions(app: Famulus) -> list[Subscription]:
    return [subscription for _, subscription in sorted(app.subscriptions.items())]


class acls(Command):  # the class's name is the command's
    """Print a script of kafka-acls commands: what the cluster must allow workers, and whoever handles dead letters.

    Example: faust -A app acls --worker User:famulus --operator User:famulus-operator
    >deploy/acls/famulus.sh
    """

    options = [  # as Faust wants it
        option(
            "--worker", default="User:famulus", show_default=True, help="Principal of the workers."
        ),
        option(
            "--operator",
            default="User:famulus-operator",
            show_default=True,
            help="Principal who uses `dlq`.",
        ),
    ]

    async def run(self, worker: str, operator: str) -> None:
        """Print it."""
        self.say(HEAD)
        for right in (*rights_of_worker(self.app, worker), *rights_of_operator(self.app, operator)):
            self.say(str(right))
