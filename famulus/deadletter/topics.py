"""Names of the topics for failed events.

The dead letter topic stands beside its source and is for people and tools of every group. The other
topics belong to one group: events return by them to that group alone, each in the partition that it
came from.
"""

SUFFIX, REDRIVE, RETRY = ".dead-letter", ".redrive", ".retry-"


def dead_letter_topic(topic: str, group: str = "") -> str:
    """Return the dead letter topic of *topic*.

    With *group*, it is the one of that group alone (`DeadLetter.PerGroup`).
    """
    return f"{topic}.{group}{SUFFIX}" if group else topic + SUFFIX


def audit_topic(dead_letters: str) -> str:
    """Return the topic with the audit records of the dead letters in *dead_letters*."""
    return dead_letters + ".audit"


def redrive_topic(topic: str, group: str) -> str:
    """Return the topic by which dead letters of *topic* return to *group*."""
    return f"{topic}.{group}{REDRIVE}"


def retry_topic(topic: str, group: str, number: int) -> str:
    """Return the topic in which events of *topic* wait for the *number*-th time, from 1.

    Each *group* has its own.
    """
    return f"{topic}.{group}{RETRY}{number}"


def retry_number(topic: str, group: str, name: str) -> int:
    """Return the number of the wait that the retry topic *name* is for, else 0.

    The number is 0 unless *name* is a retry topic of *topic* and *group*.
    """
    number = stage_of(name)
    return number if number and name == retry_topic(topic, group, number) else 0


def is_way_of(topic: str, name: str) -> bool:
    """Return whether *name* is a dead letter, redrive or retry topic of *topic*, of any group."""
    if not name.startswith(f"{topic}."):
        return False
    return name.endswith((SUFFIX, REDRIVE)) or stage_of(name) > 0


def stage_of(name: str) -> int:
    """Return the number in the name of a retry topic, 0 for another topic."""
    _, mark, number = name.rpartition(RETRY)
    return int(number) if mark and number.isascii() and number.isdecimal() else 0
