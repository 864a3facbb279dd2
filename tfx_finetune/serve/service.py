"""A model that answers requests: how many at a time, and how its next version takes over."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from tfx_finetune.core import hardware, progress
from tfx_finetune.core.errors import UserError
from tfx_finetune.serve import rest
from tfx_finetune.serve.batching import Batcher
from tfx_finetune.serve.model_version import Place, load, newest

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Limits(NamedTuple):
    """What may be asked for.

    body: Bytes a request.
    pixels: Pixels a picture.
    waiting: Samples in work; further ones are refused until there is room again.
    batch: Samples that are predicted together.
    """

    body: int
    pixels: int
    waiting: int
    batch: int


class BusyError(Exception):
    """There is no room for a request now."""


class Service:
    """One model in its newest version.

    Args:
        name: Of the model, in its addresses.
        path: A bundle, or a folder of numbered ones.
        format: The file that answers; by default the fastest here that is exact.
        limits: What may be asked for.

    Raises:
        UserError: There is no bundle, or none that can be served.
    """

    def __init__(self, name: str, path: Path, format: str, limits: Limits) -> None:
        self.name, self.path, self.format, self.limits = name, path, format, limits
        self.draining = False
        self._waiting = 0
        self._model = ThreadPoolExecutor(1, "model")
        self._readers = ThreadPoolExecutor(hardware.detect().threads, "reader")

        disable_created_metrics()
        self.registry = CollectorRegistry()
        told: dict[str, Any] = {"namespace": "tfx_finetune", "registry": self.registry}
        self.answers = Counter("answers", "Answers by method and HTTP status", ("method", "status"), **told)
        self.seconds = Histogram("answer_seconds", "Time from request to answer", ("method",), **told)
        self._batches = Histogram("batch_samples", "Samples predicted together", buckets=_SIZES, **told)
        self._loads = Counter("loads", "Versions by what became of them", ("result",), **told)
        self._version = Gauge("version", "Version that answers", **told)
        Gauge("waiting_samples", "Samples in work", **told).set_function(lambda: self._waiting)

        place = newest(path)
        if not place:
            todo = "name the folder bundle/ of a finished run, or a folder of bundles named 1, 2, ..."
            raise UserError("nothing to serve", received=path, todo=todo)
        self._load(place, 1)

    def _load(self, place: Place, number: int) -> None:
        """Lets a version answer from now on; `number` is that of a bundle that lies in no numbered folder."""
        self._place = place  # Also where it fails: it is not tried again until it changes.
        served = load(place, self.format, self.limits.pixels, self.limits.batch)
        self.served = dataclasses.replace(served, version=place.version or number)
        self._batcher = Batcher(served.predict, self._model, self.limits.batch, self._batches.observe)
        self._loads.labels("loaded").inc()
        self._version.set(self.served.version)

    async def watch(self, seconds: float) -> None:
        """Looks for another version ever so many seconds; requests that came before are answered by the one before."""
        while True:
            await asyncio.sleep(seconds)
            place = newest(self.path)
            if place is None or place == self._place:
                continue
            try:
                await asyncio.to_thread(self._load, place, self.served.version + 1)
                progress.say(f"version {self.served.version} answers from now on")
            except Exception as error:  # Whatever is wrong with it, the version that works goes on.
                self._loads.labels("refused").inc()
                progress.say(f"version {self.served.version} goes on, {place.folder} cannot be served: {error}")

    @contextlib.contextmanager
    def admitted(self, samples: int = 1) -> Iterator[None]:
        """Counts samples as in work meanwhile.

        Raises:
            BusyError: There is no room for them.
        """
        if self._waiting + samples > self.limits.waiting:
            raise BusyError(f"{self._waiting} samples are in work, at most {self.limits.waiting}")
        self._waiting += samples
        try:
            yield
        finally:
            self._waiting -= samples

    async def answer(self, method: str, body: bytes) -> bytes:
        """The answer to a request's body.

        Args:
            method: One of `rest.METHODS`.
            body: JSON text; see `rest.py`.

        Raises:
            RequestError: What is wrong with the request.
            BusyError: There is no room for it now.
        """
        served, batcher = self.served, self._batcher
        run = asyncio.get_running_loop().run_in_executor
        try:
            message = await run(self._readers, orjson.loads, body)
        except orjson.JSONDecodeError as error:
            raise rest.RequestError(f"the request is not JSON: {error}") from None
        count = rest.count(message)
        if count > self.limits.waiting:
            raise rest.RequestError(f"{count} samples in one request; allowed: {self.limits.waiting}")
        # The request itself is counted already.
        with self.admitted(count - 1):
            samples, told = await run(self._readers, rest.METHODS[method], message, served)
            scores = await batcher.predict(samples)
            return orjson.dumps(told(scores), option=orjson.OPT_SERIALIZE_NUMPY)
