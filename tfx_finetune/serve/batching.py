"""Samples of concurrent requests, predicted together."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor

from tfx_finetune.ops.arrays import joined
from tfx_finetune.types.aliases import Batch, Predict


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
        predict: Predict,
        executor: Executor,
        most: int,
        observe: Callable[[int], object] = lambda size: None,
    ) -> None:
        self._predict, self._executor, self._most, self._observe = predict, executor, most, observe
        self._waiting: deque[tuple[Batch, asyncio.Future[Batch]]] = deque()
        self._work: asyncio.Task[None] | None = None

    async def predict(self, samples: Batch) -> Batch:
        """Outputs of one request's samples; raises whatever the prediction raised."""
        starts = range(0, size(samples), self._most)
        parts = [{name: rows[at : at + self._most] for name, rows in samples.items()} for at in starts]
        futures = [asyncio.get_running_loop().create_future() for _ in parts]
        self._waiting += zip(parts, futures, strict=True)
        if self._work is None:
            self._work = asyncio.create_task(self._run())
        found = await asyncio.gather(*futures)
        return joined(found)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._take()
            samples = joined([part for part, _ in batch])
            self._observe(size(samples))
            outputs: Batch | Exception
            try:
                outputs = await loop.run_in_executor(self._executor, self._predict, samples)
            except Exception as error:  # Whatever it is, it is the answer to these requests, and others go on.
                outputs = error
            start = 0
            for part, future in batch:
                rows, start = slice(start, start + size(part)), start + size(part)
                if future.cancelled():
                    continue
                if isinstance(outputs, Exception):
                    future.set_exception(outputs)
                else:
                    future.set_result({name: values[rows] for name, values in outputs.items()})
        self._work = None

    def _take(self) -> list[tuple[Batch, asyncio.Future[Batch]]]:
        """What waits longest, as much as makes a batch."""
        batch = [self._waiting.popleft()]
        count = size(batch[0][0])
        while self._waiting and count + size(self._waiting[0][0]) <= self._most:
            batch.append(self._waiting.popleft())
            count += size(batch[-1][0])
        return batch


def size(batch: Batch) -> int:
    """Samples of a batch."""
    return len(next(iter(batch.values())))
