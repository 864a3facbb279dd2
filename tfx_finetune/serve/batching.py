"""Samples of concurrent requests, predicted together."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor

from tfx_finetune.ops.arrays import concatenate
from tfx_finetune.types.aliases import Batch, PredictFn


class Batcher:
    """Makes one batch of all that waits when the batch before is done.

    A request that comes alone is predicted at once; nobody waits for a batch to fill (as Orca does it for language
    models: Yu et al., OSDI 2022).

    Args:
        predict: Prepared inputs by name, (n, ...) -> outputs by name, (n, ...).
        executor: A thread that predictions run in, one at a time.
        most: Samples a batch.
        observe: Called with the size of every batch.
    """

    def __init__(
        self,
        predict: PredictFn,
        executor: Executor,
        max_batch_size: int,
        on_batch: Callable[[int], object] = lambda size: None,
    ) -> None:
        self._predict, self._executor, self._max_batch_size, self._on_batch = (
            predict,
            executor,
            max_batch_size,
            on_batch,
        )
        self._queue: deque[tuple[Batch, asyncio.Future[Batch]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def predict(self, samples: Batch) -> Batch:
        """Outputs of one request's samples; raises whatever the prediction raised."""
        starts = range(0, count_rows(samples), self._max_batch_size)
        parts = [{name: rows[at : at + self._max_batch_size] for name, rows in samples.items()} for at in starts]
        futures = [asyncio.get_running_loop().create_future() for _ in parts]
        self._queue += zip(parts, futures, strict=True)
        if self._worker is None:
            self._worker = asyncio.create_task(self._run())
        found = await asyncio.gather(*futures)
        return concatenate(found)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            batch = self._pop_batch()
            samples = concatenate([part for part, _ in batch])
            self._on_batch(count_rows(samples))
            outputs: Batch | Exception
            try:
                outputs = await loop.run_in_executor(self._executor, self._predict, samples)
            except Exception as error:  # Whatever it is, it is the answer to these requests, and others go on.
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
        """What waits longest, as much as makes a batch."""
        batch = [self._queue.popleft()]
        count = count_rows(batch[0][0])
        while self._queue and count + count_rows(self._queue[0][0]) <= self._max_batch_size:
            batch.append(self._queue.popleft())
            count += count_rows(batch[-1][0])
        return batch


def count_rows(batch: Batch) -> int:
    """Samples of a batch."""
    return len(next(iter(batch.values())))
