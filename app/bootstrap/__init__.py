"""The only place that builds objects and joins them: settings, producer, bus, dispatcher, pipelines, Faust's app."""

from app.bootstrap.famulus import Famulus, agent_modules
from app.config import load_settings
from app.observe.logs import plain_logs
from app.observe.rate import calm_libraries

__all__ = ["Famulus", "agent_modules", "app"]

plain_logs()
calm_libraries()
app = Famulus(load_settings())
