"""The broker of a scenario, with two ways to it: at once, and through a network that can be hurt."""

import random
from typing import Self

from famulus.dev.broker import Broker, Listener
from famulus.dev.node import HOST, Node, free_port
from torture.proxy import Proxy

HURT = "HURT"  # the listener behind the proxy


class Cluster:
    """One broker, and a proxy in front of its second listener. Use it as a context manager."""

    def __init__(self, seed: int = 0) -> None:
        port, hurt_port = free_port(), free_port()
        self.broker = Broker(
            port=port,
            listeners=[Listener(HURT, "PLAINTEXT", {})],
            config={
                "advertised.listeners": f"PLAINTEXT://{HOST}:{port},{HURT}://{HOST}:{hurt_port}"
            },
        )
        chance = random.Random(seed)  # to be repeated, not to be secret
        self.proxy = Proxy(hurt_port, lambda: self.node.ports[HURT], chance)

    @property
    def node(self) -> Node:
        """Its only node."""
        [node] = self.broker.nodes
        return node

    @property
    def bootstrap_servers(self) -> str:
        """The way to it that is never hurt."""
        return self.broker.bootstrap_servers

    @property
    def hurt_servers(self) -> str:
        """The way through the proxy."""
        return f"{HOST}:{self.proxy.port}"

    def __enter__(self) -> Self:
        self.broker.start()
        try:
            self.proxy.start()
        except BaseException:
            self.broker.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.proxy.stop()
        finally:
            self.broker.stop()
