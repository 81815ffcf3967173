"""A server for one run: its socket, its threads, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import warnings
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import uvicorn
from PIL import Image

from callbacks.signals import SignalWatch
from cifar_hapi.loading import Weights
from cifar_hapi.run import Run
from cifar_hapi.serving.address import Address
from cifar_hapi.serving.answering import Admission, Answering
from cifar_hapi.serving.app import create_app
from cifar_hapi.serving.batching import Batcher
from cifar_hapi.serving.classifier import image_side, opened_classifier
from cifar_hapi.serving.facts import facts_of
from cifar_hapi.serving.guard import Guard
from cifar_hapi.serving.options import ServingOptions
from cifar_hapi.serving.protocol import GuardedProtocol


@contextlib.contextmanager
def prepared_server(
    run: Run,
    address: Address,
    allow_hosts: Collection[str],
    weights: Weights,
    engine: str | None,
    device: str,
    options: ServingOptions,
    watch: SignalWatch,
    on_start: Callable[[str], None],
) -> Iterator[Callable[[], None]]:
    """All that a server needs, for as long as this is entered; gives what answers until the watch sees a signal."""
    served, admission = facts_of(run, weights, options), Admission(options.queue)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(address.bound())
        network = partial(opened_classifier, run, weights, engine, device, options.batch)
        batcher = Batcher(network, options.batch, options.gather_seconds, lambda: admission.count)
        stack.enter_context(batcher)
        decoders = ThreadPoolExecutor(options.decoders, "decoder")
        stack.callback(decoders.shutdown, cancel_futures=True)
        stack.enter_context(_quiet_pillow())
        Image.init()  # loads the formats' modules, which would be the first image's time
        answering = Answering(options, image_side(run), admission, decoders, batcher)
        app = create_app(served, options, answering)
        guard = Guard(app, {address.host, *allow_hosts}, address.any)
        url = address.url(listener.getsockname()[1])
        server = _Server(_config(guard, options), watch, lambda: on_start(url))
        yield lambda: asyncio.run(server.serve(sockets=[listener]))


@contextlib.contextmanager
def _quiet_pillow() -> Iterator[None]:
    """It warns of metadata, and there are threads: the filters of warnings are set once for all."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        yield


class _Server(uvicorn.Server):
    """Ends when the watch has seen a signal; handles none itself."""

    def __init__(self, config: uvicorn.Config, watch: SignalWatch, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._watch, self._on_start = watch, on_start

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._watch.received is None:
            self._on_start()

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._watch.received is not None


def _config(app: Guard, options: ServingOptions) -> uvicorn.Config:
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it would warn of every stranger's mistake
    return uvicorn.Config(
        app,
        http=partial(GuardedProtocol, options),  # type: ignore[arg-type]  # a class is wanted, and only called
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(options.answer_seconds) + 1,
    )
