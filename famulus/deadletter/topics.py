"""What the topics are called that failed events go through.

The dead letter topic stands beside its source and is for people and tools of every group. The
others belong to one group: through them events come back to it alone, each in the partition that it
came from.
"""

SUFFIX, REDRIVE, RETRY = ".dead-letter", ".redrive", ".retry-"


def dead_letter_topic(topic: str, group: str = "") -> str:
    """Where the dead letters of *topic* go; with *group*, those of that group alone (`DeadLetter.PerGroup`)."""
    return f"{topic}.{group}{SUFFIX}" if group else topic + SUFFIX


def audit_topic(dead_letters: str) -> str:
    """What was done about the dead letters in the topic *dead_letters*, and by whom."""
    return dead_letters + ".audit"


def redrive_topic(topic: str, group: str) -> str:
    """Through which dead letters of *topic* come back to *group*."""
    return f"{topic}.{group}{REDRIVE}"


def retry_topic(topic: str, group: str, number: int) -> str:
    """Where events of *topic* wait for *group* to try them again: the *number*-th wait, counted from 1."""
    return f"{topic}.{group}{RETRY}{number}"


def retry_number(topic: str, group: str, name: str) -> int:
    """Return which wait of *group* the retry topic *name* of *topic* is for, 0 when it is no such topic."""
    number = stage_of(name)
    return number if number and name == retry_topic(topic, group, number) else 0


def is_way_of(topic: str, name: str) -> bool:
    """Whether *name* is a topic that events of *topic* go through when they fail, in whatever group."""
    if not name.startswith(f"{topic}."):
        return False
    return name.endswith((SUFFIX, REDRIVE)) or stage_of(name) > 0


def stage_of(name: str) -> int:
    """The number of the retry topic *name*, 0 for another topic."""
    _, mark, number = name.rpartition(RETRY)
    return int(number) if mark and number.isascii() and number.isdecimal() else 0
