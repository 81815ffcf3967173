"""`serve`: from a run to a server that answers until it is told to end."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from callbacks.signals import SignalWatch
from cifar_hapi.loading import Weights
from cifar_hapi.run import Run
from cifar_hapi.serving.address import Address
from cifar_hapi.serving.libraries import check_libraries
from cifar_hapi.serving.options import ServingOptions

_SAID = b"\nanswering what has been asked; once more ends it at once\n"


def serve(
    run: Run | str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_hosts: Collection[str] = (),
    weights: Weights = "latest",
    engine: str | None = None,
    device: str = "auto",
    options: ServingOptions | None = None,
    on_start: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve a page and a JSON API that classify images by a run, until Ctrl-C or SIGTERM.

    host, port: where to listen; port 0 is any free one. allow_hosts: names by which it is asked, besides those of
    loopback and `host`. weights, engine, device: as for `predict`, whose answers these are. on_start: called with the
    page's URL once it answers.

    What has been asked is answered before KeyboardInterrupt is raised, or SystemExit(143) after SIGTERM; a second
    signal ends at once. Nothing that is sent is written to disk or logged.

    Raises RunError, RecipeError as `predict`, RecipeError for a host that is none, CifarHapiError where the port is
    taken, ImportError where the extra `serve` is missing.
    """
    run, options = run if isinstance(run, Run) else Run(run), options or ServingOptions()
    check_libraries()
    from cifar_hapi.serving.server import prepared_server

    address, watch = Address.of(host, port), SignalWatch(_SAID)
    watch.start()
    try:
        with prepared_server(run, address, allow_hosts, weights, engine, device, options, watch, on_start) as answer:
            answer()
    finally:
        watch.stop()
    if watch.received:
        watch.leave(watch.received)
