"""The event of the house's model, for tests that publish and read it themselves: one class, since its name is one."""

from famulus import Event


class Thing(Event, namespace="things.Thing", topic="things", key="key"):
    """What `house.MODEL` says."""

    key: str
    number: int = 0
    note: str = ""
