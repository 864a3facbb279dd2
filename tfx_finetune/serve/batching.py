"""Dynamic batching: predict the samples of concurrent requests together."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor

from tfx_finetune.ops.arrays import concatenate
from tfx_finetune.types.aliases import Batch, PredictFn


class Batcher:
    """Batches all queued samples as soon as the previous batch is finished.

    A request never waits for a batch to fill: a single request is predicted immediately (continuous batching as in
    Orca, Yu et al., OSDI 2022).

    Args:
        predict: Function from preprocessed inputs by name, (n, ...), to outputs by name, (n, ...).
        executor: Executor with one thread, which runs one prediction at a time.
        max_batch_size: int > 0. Maximum number of samples per batch.
        on_batch: Called with the size of every batch.
    """

    def __init__(
        self,
        predict: PredictFn,
        executor: Executor,
        max_batch_size: int,
        on_batch: Callable[[int], object] = lambda size: None,
    ) -> None:
        self._predict, self._executor = predict, executor
        self._max_batch_size, self._on_batch = max_batch_size, on_batch
        self._queue: deque[tuple[Batch, asyncio.Future[Batch]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def predict(self, samples: Batch) -> Batch:
        """Return the outputs of the samples of one request; raise the exception of a failed prediction.

        Args:
            samples: Preprocessed inputs by name, (n, ...).
        """
        starts = range(0, count_rows(samples), self._max_batch_size)
        parts = [
            {name: rows[start : start + self._max_batch_size] for name, rows in samples.items()} for start in starts
        ]
        futures = [asyncio.get_running_loop().create_future() for _ in parts]
        self._queue += zip(parts, futures, strict=True)
        if self._worker is None:
            self._worker = asyncio.create_task(self._run())
        return concatenate(await asyncio.gather(*futures))

    async def _run(self) -> None:
        """Predict batches until the queue is empty."""
        loop = asyncio.get_running_loop()
        while self._queue:
            batch = self._pop_batch()
            samples = concatenate([part for part, _ in batch])
            self._on_batch(count_rows(samples))
            outputs: Batch | Exception
            try:
                outputs = await loop.run_in_executor(self._executor, self._predict, samples)
            except Exception as error:  # fails the requests of this batch only
                outputs = error
            start = 0
            for part, future in batch:
                rows, start = slice(start, start + count_rows(part)), start + count_rows(part)
                if future.cancelled():
                    continue
                if isinstance(outputs, Exception):
                    future.set_exception(outputs)
                else:
                    future.set_result({name: values[rows] for name, values in outputs.items()})
        self._worker = None

    def _pop_batch(self) -> list[tuple[Batch, asyncio.Future[Batch]]]:
        """Remove the oldest parts from the queue, as many as fit into a batch."""
        batch = [self._queue.popleft()]
        count = count_rows(batch[0][0])
        while self._queue and count + count_rows(self._queue[0][0]) <= self._max_batch_size:
            batch.append(self._queue.popleft())
            count += count_rows(batch[-1][0])
        return batch


def count_rows(batch: Batch) -> int:
    """Return the number of samples of a batch.

    Args:
        batch: Arrays by name, (n, ...).

    Examples:
        >>> count_rows({"image": [[0.0], [1.0], [2.0]]})
        3
    """
    return len(next(iter(batch.values())))
