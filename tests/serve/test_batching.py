"""Requests that come together are predicted together, and each gets its own answer."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tfx_finetune.serve.batching import Batcher


def together(work, most=8):
    """Runs `work(batcher)` with a model that doubles, and returns its result and the size of every batch."""
    sizes = []

    def double(samples):
        if (samples["number"] < 0).any():
            raise ValueError("a negative number")
        return {"twice": 2 * samples["number"], "index": np.arange(len(samples["number"]))}

    async def main():
        with ThreadPoolExecutor(1) as executor:
            return await work(Batcher(double, executor, most, sizes.append))

    return asyncio.run(main()), sizes


def test_what_waits_makes_one_batch():
    """Each gets its own rows, in its own order, whatever the others asked for."""
    asked = [np.arange(n, dtype=np.float32) + 10 * n for n in (1, 3, 2, 1, 5, 8, 1)]
    found, sizes = together(lambda batcher: asyncio.gather(*(batcher.predict({"number": each}) for each in asked)))
    for samples, outputs in zip(asked, found, strict=True):
        assert outputs["twice"].tolist() == (2 * samples).tolist()
    # None is taken apart that fits, and none comes before one that was there earlier.
    assert sizes == [7, 5, 8, 1]


def test_one_alone_does_not_wait():
    """There is no timer: a batch of one is run at once, and the next one after it."""

    async def work(batcher):
        return [await batcher.predict({"number": np.array([n])}) for n in range(3)]

    found, sizes = together(work)
    assert [outputs["twice"].tolist() for outputs in found] == [[0], [2], [4]]
    assert sizes == [1, 1, 1]


def test_more_than_a_batch_is_answered_as_a_whole():
    """In parts of the largest batch."""
    found, sizes = together(lambda batcher: batcher.predict({"number": np.arange(20)}))
    assert found["twice"].tolist() == list(range(0, 40, 2))
    assert sizes == [8, 8, 4]


def test_a_failure_is_the_answer_and_the_next_batch_goes_on():
    """Whoever was in the batch hears of it; who comes later does not."""

    async def work(batcher):
        with pytest.raises(ValueError, match="negative"):
            await batcher.predict({"number": np.array([-1])})
        return await batcher.predict({"number": np.array([1])})

    found, _ = together(work)
    assert found["twice"].tolist() == [2]


def test_nobody_waits_for_one_who_left():
    """A request that was given up is left out of what is told, not of what others get."""

    async def work(batcher):
        left = asyncio.create_task(batcher.predict({"number": np.array([1])}))
        stayed = asyncio.create_task(batcher.predict({"number": np.array([2])}))
        await asyncio.sleep(0)
        left.cancel()
        return (await stayed)["twice"].tolist()

    assert together(work)[0] == [4]
