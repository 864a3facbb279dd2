"""Served model: request limits, batching, metrics and updates to new versions."""

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
from tfx_finetune.serve.batching import Batcher
from tfx_finetune.serve.model_version import VersionPath, find_latest_version, load_version
from tfx_finetune.serve.requests import REQUEST_PARSERS, RequestError, count_samples

_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class RequestLimits(NamedTuple):
    """Limits of requests.

    max_request_bytes: int > 0. Maximum size of a request in bytes.
    max_pixels: int > 0. Maximum number of pixels of an image.
    max_queue_size: int > 0. Maximum number of samples in progress; further requests are rejected.
    max_batch_size: int > 0. Maximum number of samples per batch.
    """

    max_request_bytes: int
    max_pixels: int
    max_queue_size: int
    max_batch_size: int


class BusyError(Exception):
    """Error of a request that exceeds the number of samples in progress."""


class Service:
    """Model that answers requests with its latest version.

    Args:
        name: Name of the model in URLs.
        path: Bundle, or a folder of bundles named 1, 2, ...
        format: Format of the file to serve. Empty: the fastest verified file.
        limits: Limits of requests.

    Raises:
        UserError: If there is no bundle, or the bundle cannot be served.
    """

    def __init__(self, name: str, path: Path, format: str, limits: RequestLimits) -> None:
        self.name, self.path, self.format, self.limits = name, path, format, limits
        self.is_draining = False
        self._num_in_flight = 0
        self._model_executor = ThreadPoolExecutor(1, "model")
        self._reader_executor = ThreadPoolExecutor(hardware.detect().threads, "reader")

        disable_created_metrics()
        self.registry = CollectorRegistry()
        options: dict[str, Any] = {"namespace": "tfx_finetune", "registry": self.registry}
        self.answer_counter = Counter("answers", "Responses by method and HTTP status", ("method", "status"), **options)
        self.answer_seconds = Histogram("answer_seconds", "Time from request to response", ("method",), **options)
        self._batch_sizes = Histogram("batch_samples", "Samples per batch", buckets=_BATCH_BUCKETS, **options)
        self._load_counter = Counter("loads", "Loaded versions by result", ("result",), **options)
        self._version_gauge = Gauge("version", "Served version", **options)
        Gauge("waiting_samples", "Samples in progress", **options).set_function(lambda: self._num_in_flight)

        version_path = find_latest_version(path)
        if not version_path:
            hint = "Name the folder bundle/ of a finished run, or a folder of bundles named 1, 2, ..."
            raise UserError("The folder contains no bundle", got=path, hint=hint)
        self._load(version_path, 1)

    def _load(self, version_path: VersionPath, number: int) -> None:
        """Load a version and serve it; `number` is the version number of a bundle that is not numbered."""
        self._version_path = version_path  # set first, so that a version that fails is not loaded again
        loaded = load_version(version_path, self.format, self.limits.max_pixels, self.limits.max_batch_size)
        self.model_version = dataclasses.replace(loaded, version=version_path.version or number)
        self._batcher = Batcher(
            loaded.predict, self._model_executor, self.limits.max_batch_size, self._batch_sizes.observe
        )
        self._load_counter.labels("loaded").inc()
        self._version_gauge.set(self.model_version.version)

    async def watch_versions(self, seconds: float) -> None:
        """Check for a new version periodically; earlier requests are answered by the earlier version.

        Args:
            seconds: float > 0. Interval between checks.
        """
        while True:
            await asyncio.sleep(seconds)
            version_path = find_latest_version(self.path)
            if version_path is None or version_path == self._version_path:
                continue
            try:
                await asyncio.to_thread(self._load, version_path, self.model_version.version + 1)
                progress.log(f"serves version {self.model_version.version}")
            except Exception as error:  # the served version continues, whatever the error is
                self._load_counter.labels("refused").inc()
                version = self.model_version.version
                progress.log(f"cannot serve {version_path.folder}, continues with version {version}: {error}")

    @contextlib.contextmanager
    def admit(self, samples: int = 1) -> Iterator[None]:
        """Count samples as in progress inside the `with` block.

        Args:
            samples: int >= 0. Number of samples.

        Raises:
            BusyError: If more than `max_queue_size` samples would be in progress.
        """
        if self._num_in_flight + samples > self.limits.max_queue_size:
            raise BusyError(
                f"Server is busy: {self._num_in_flight} samples in progress, at most {self.limits.max_queue_size}."
            )
        self._num_in_flight += samples
        try:
            yield
        finally:
            self._num_in_flight -= samples

    async def answer(self, method: str, body: bytes) -> bytes:
        """Return the response to a request as JSON text.

        Args:
            method: Key of `requests.REQUEST_PARSERS`.
            body: JSON text of the request, see `requests.py`.

        Raises:
            RequestError: If the request is invalid.
            BusyError: If there are too many samples in progress.
        """
        model_version, batcher = self.model_version, self._batcher
        run = asyncio.get_running_loop().run_in_executor
        try:
            message = await run(self._reader_executor, orjson.loads, body)
        except orjson.JSONDecodeError as error:
            raise RequestError("The request is not JSON", got=error) from None
        count = count_samples(message)
        if count > self.limits.max_queue_size:
            raise RequestError(
                "Too many samples in one request", got=count, expected=f"at most {self.limits.max_queue_size}"
            )
        # The request itself is already counted as one sample.
        with self.admit(count - 1):
            inputs, make_response = await run(self._reader_executor, REQUEST_PARSERS[method], message, model_version)
            outputs = await batcher.predict(inputs)
            return orjson.dumps(make_response(outputs), option=orjson.OPT_SERIALIZE_NUMPY)
