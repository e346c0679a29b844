"""Faust's web server, with limits on its connections."""

from aiohttp.web import BaseSite
from faust.types import AppT
from faust.web.drivers.aiohttp import Web

from famulus.webserver.connections import Limits, Runner, Site


class GuardedWeb(Web):
    """Faust's web server on aiohttp, whose connections are limited by *limits*."""

    def __init__(self, app: AppT, limits: Limits) -> None:
        super().__init__(app)
        self._runner: Runner = Runner(self.web_app, limits)

    def _new_transport_tcp(self) -> BaseSite:
        conf = self.app.conf
        return Site(self._runner, conf.web_bind, conf.web_port, conf.web_ssl_context)
