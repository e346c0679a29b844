"""A cache of Kafka's loaded and linked classes (JEP 483, JEP 514), which halves a broker's start.

`python -m famulus.dev.class_archive` makes it, once for each version of Java and Kafka: a broker is
started and stopped while Java records. Java itself checks that a cache fits, and ignores one that
does not.
"""

import os
import subprocess
from contextlib import suppress

import click

from famulus.dev.broker import Broker
from famulus.dev.node import class_cache
from famulus.errors import OperatingError

MAKE_S = 120.0  # Java writes the file when it ends


def make() -> None:
    """Make the cache, unless it is there.

    Does nothing where Java cannot: brokers start without it.
    """
    cache = class_cache()
    if cache.exists():
        return
    partial = cache.with_suffix(f".{os.getpid()}")
    try:
        with Broker(java_options=[f"-XX:AOTCacheOutput={partial}"]) as broker:
            [node] = broker.nodes
            node.ask_to_stop()
            assert node.process is not None
            with suppress(subprocess.TimeoutExpired):
                node.process.wait(MAKE_S)
        if partial.exists():  # complete: a Java that is ended before leaves none
            partial.rename(cache)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        make()
    except OperatingError as error:  # whoever needs a broker hears of it there
        click.echo(f"brokers start without a cache of classes: {error}", err=True)
