"""`faust -A app acls`: a script that grants the ACLs that Famulus needs, and no more."""

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
    """Operations that a principal may perform on one resource.

    *resource* is `topic` or `group`, *name* the name of that topic or group.
    """

    principal: str
    resource: str
    name: str
    operations: tuple[str, ...]

    def __str__(self) -> str:
        """Return the line of the script that grants the right."""
        operations = " ".join(f"--operation {operation}" for operation in self.operations)
        return (
            f"allow {shlex.quote(self.principal)} --{self.resource} "
            f"{shlex.quote(self.name)} {operations}"
        )


def rights_of_worker(app: Famulus, principal: str) -> Iterator[Right]:
    """Yield the rights of the workers.

    Workers create their own topics, so they get the right to create each of these by its name.
    """
    kafka = app.settings.kafka
    yield Right(principal, "group", app.group, ("Read", "Describe"))
    yield from rights_of_admin(app, principal)
    yield from rights_of_replies(app, principal)
    if app.scheduler is not None:
        later = app.scheduler.topic  # its consumer group has the same name
        yield Right(principal, "group", later, ("Read", "Describe"))
        yield Right(principal, "topic", later, ("Create", "Alter", "Read", "Write", *LOOK))
    # A handler may publish events of any type that is handled here. The types that it does publish
    # are known to its code only, so all of these topics get Write.
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
    """Yield the rights that control commands need, for pauses, seeks and concurrency.

    A command or the web views of a worker write these to the admin topic.
    """
    yield Right(principal, "topic", admin_topic(app.group), ("Create", "Read", "Write", *LOOK))
    yield Right(principal, "topic", admin_audit_topic(app.group), ("Create", "Write", *LOOK))


def rights_of_replies(app: Famulus, principal: str) -> Iterator[Right]:
    """Yield the rights for requests of handlers and for replies to requests.

    Replies go to this group's own topic, and to the topics that the settings name in full.
    """
    own = replies_topic(app.group)
    yield Right(principal, "topic", own, ("Create", "Read", "Write", *LOOK))
    for name in app.settings.kafka.replies.allowed_topics.split(","):
        topic = name.strip()
        if topic != own and not set("*?[") & set(topic):
            yield Right(principal, "topic", topic, ("Write", *LOOK))


def rights_of_operator(app: Famulus, principal: str) -> Iterator[Right]:
    """Yield the rights of an operator who uses `dlq`.

    `dlq` reads dead letters, state and source topics, redrives dead letters, and writes an audit
    record of each action.
    """
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


class acls(Command):  # Faust names the command after the class
    """Print a script of kafka-acls commands for the workers and for operators of dead letters.

    The script grants what they need and nothing else.

    Example: faust -A app acls --worker User:famulus --operator User:famulus-operator
    >deploy/acls/famulus.sh
    """

    options = [  # Faust reads a list here
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
        """Print the script."""
        self.say(HEAD)
        for right in (*rights_of_worker(self.app, worker), *rights_of_operator(self.app, operator)):
            self.say(str(right))
