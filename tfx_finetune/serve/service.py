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
from tfx_finetune.serve.model_version import VersionPath, find_latest_version, load_version

_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class RequestLimits(NamedTuple):
    """What may be asked for.

    body: Bytes a request.
    pixels: Pixels a picture.
    waiting: Samples in work; further ones are refused until there is room again.
    batch: Samples that are predicted together.
    """

    max_request_bytes: int
    max_pixels: int
    max_queue_size: int
    max_batch_size: int


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

    def __init__(self, name: str, path: Path, format: str, limits: RequestLimits) -> None:
        self.name, self.path, self.format, self.limits = name, path, format, limits
        self.is_draining = False
        self._num_in_flight = 0
        self._model_executor = ThreadPoolExecutor(1, "model")
        self._reader_executor = ThreadPoolExecutor(hardware.detect().threads, "reader")

        disable_created_metrics()
        self.registry = CollectorRegistry()
        told: dict[str, Any] = {"namespace": "tfx_finetune", "registry": self.registry}
        self.answer_counter = Counter("answers", "Answers by method and HTTP status", ("method", "status"), **told)
        self.answer_seconds = Histogram("answer_seconds", "Time from request to answer", ("method",), **told)
        self._batch_sizes = Histogram("batch_samples", "Samples predicted together", buckets=_BATCH_BUCKETS, **told)
        self._load_counter = Counter("loads", "Versions by what became of them", ("result",), **told)
        self._version_gauge = Gauge("version", "Version that answers", **told)
        Gauge("waiting_samples", "Samples in work", **told).set_function(lambda: self._num_in_flight)

        place = find_latest_version(path)
        if not place:
            todo = "name the folder bundle/ of a finished run, or a folder of bundles named 1, 2, ..."
            raise UserError("nothing to serve", got=path, hint=todo)
        self._load(place, 1)

    def _load(self, version_path: VersionPath, number: int) -> None:
        """Lets a version answer from now on; `number` is that of a bundle that lies in no numbered folder."""
        self._version_path = version_path  # Also where it fails: it is not tried again until it changes.
        served = load_version(version_path, self.format, self.limits.max_pixels, self.limits.max_batch_size)
        self.model_version = dataclasses.replace(served, version=version_path.version or number)
        self._batcher = Batcher(
            served.predict, self._model_executor, self.limits.max_batch_size, self._batch_sizes.observe
        )
        self._load_counter.labels("loaded").inc()
        self._version_gauge.set(self.model_version.version)

    async def watch_versions(self, seconds: float) -> None:
        """Looks for another version ever so many seconds; requests that came before are answered by the one before."""
        while True:
            await asyncio.sleep(seconds)
            place = find_latest_version(self.path)
            if place is None or place == self._version_path:
                continue
            try:
                await asyncio.to_thread(self._load, place, self.model_version.version + 1)
                progress.log(f"version {self.model_version.version} answers from now on")
            except Exception as error:  # Whatever is wrong with it, the version that works goes on.
                self._load_counter.labels("refused").inc()
                progress.log(f"version {self.model_version.version} goes on, {place.folder} cannot be served: {error}")

    @contextlib.contextmanager
    def admit(self, samples: int = 1) -> Iterator[None]:
        """Counts samples as in work meanwhile.

        Raises:
            BusyError: There is no room for them.
        """
        if self._num_in_flight + samples > self.limits.max_queue_size:
            raise BusyError(f"{self._num_in_flight} samples are in work, at most {self.limits.max_queue_size}")
        self._num_in_flight += samples
        try:
            yield
        finally:
            self._num_in_flight -= samples

    async def answer(self, method: str, body: bytes) -> bytes:
        """The answer to a request's body.

        Args:
            method: One of `rest.METHODS`.
            body: JSON text; see `rest.py`.

        Raises:
            RequestError: What is wrong with the request.
            BusyError: There is no room for it now.
        """
        served, batcher = self.model_version, self._batcher
        run = asyncio.get_running_loop().run_in_executor
        try:
            message = await run(self._reader_executor, orjson.loads, body)
        except orjson.JSONDecodeError as error:
            raise rest.RequestError(f"the request is not JSON: {error}") from None
        count = rest.count_samples(message)
        if count > self.limits.max_queue_size:
            raise rest.RequestError(f"{count} samples in one request; allowed: {self.limits.max_queue_size}")
        # The request itself is counted already.
        with self.admit(count - 1):
            samples, told = await run(self._reader_executor, rest.REQUEST_PARSERS[method], message, served)
            scores = await batcher.predict(samples)
            return orjson.dumps(told(scores), option=orjson.OPT_SERIALIZE_NUMPY)
