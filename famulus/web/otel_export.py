"""Export of metrics to OpenTelemetry, chosen at the start: it need not be installed."""

import asyncio
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any, cast

import structlog
from prometheus_client.core import Metric as Family

from famulus.application import Famulus
from famulus.observability.otel import otel
from famulus.web.api.metrics import WorkerCollector

log = structlog.get_logger()
READ_S = 5.0  # for the event loop to have its turn


def start_metering(app: Famulus) -> None:
    """Make the instruments as `Worker.OtelMetrics` says; `auto` needs a meter provider to be set.

    Raises ConfigError when it is `on` and there is no provider.
    """
    mode = app.settings.worker.otel_metrics
    meters = otel(
        "famulus.observability.otel_metrics",
        "Worker.OtelMetrics",
        mode,
        "meter",
        has_provider=_has_provider(),
    )
    if meters is not None:
        collector = WorkerCollector(app)
        meters.Meters(
            on_loop(
                asyncio.get_running_loop(), lambda: list(collector.collect()) if app.started else []
            )
        )


def on_loop(
    loop: asyncio.AbstractEventLoop, look: Callable[[], Iterable[Family]]
) -> Callable[[], Iterable[Family]]:
    """Make a function that calls *look* on *loop* from any thread.

    Exporters have threads of their own. The function returns nothing when the loop does not run in
    time, such as while the worker ends.
    """
    home = threading.get_ident()

    async def look_there() -> Iterable[Family]:
        return look()

    def read() -> Iterable[Family]:
        if not loop.is_running():
            return ()
        if threading.get_ident() == home:
            return look()
        try:
            return asyncio.run_coroutine_threadsafe(look_there(), loop).result(READ_S)
        except TimeoutError:
            log.warning("the metrics were not exported: the event loop is busy", limit_s=READ_S)
            return ()

    return read


def _has_provider() -> bool:
    """Return True if a meter provider is set.

    A provider cannot be set without importing OpenTelemetry's module, so this function imports
    nothing.
    """
    metrics = cast(Any, sys.modules.get("opentelemetry.metrics"))
    if metrics is None:
        return False
    proxy = metrics._internal._ProxyMeterProvider  # what there is until somebody sets one
    return not isinstance(metrics.get_meter_provider(), (proxy, metrics.NoOpMeterProvider))
