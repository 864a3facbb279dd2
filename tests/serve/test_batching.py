"""Dynamic batching: concurrent requests are predicted in one batch, and each receives its own outputs."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tfx_finetune.serve.batching import Batcher


def run_with_batcher(work, max_batch_size=8):
    """Run `work(batcher)` with a model that doubles numbers; return its result and the size of every batch."""
    batch_sizes = []

    def double(samples):
        if (samples["number"] < 0).any():
            raise ValueError("a negative number")
        return {"twice": 2 * samples["number"], "index": np.arange(len(samples["number"]))}

    async def main():
        with ThreadPoolExecutor(1) as executor:
            return await work(Batcher(double, executor, max_batch_size, batch_sizes.append))

    return asyncio.run(main()), batch_sizes


def test_queued_requests_form_batches():
    """Each request receives the outputs of its own samples in order."""
    requests = [np.arange(n, dtype=np.float32) + 10 * n for n in (1, 3, 2, 1, 5, 8, 1)]
    responses, batch_sizes = run_with_batcher(
        lambda batcher: asyncio.gather(*(batcher.predict({"number": numbers}) for numbers in requests))
    )
    for numbers, outputs in zip(requests, responses, strict=True):
        assert outputs["twice"].tolist() == (2 * numbers).tolist()
    # Requests that fit into a batch are not split, and their order is kept.
    assert batch_sizes == [7, 5, 8, 1]


def test_single_request_is_predicted_immediately():
    """The batcher has no timer: sequential requests are batches of one."""

    async def work(batcher):
        return [await batcher.predict({"number": np.array([n])}) for n in range(3)]

    responses, batch_sizes = run_with_batcher(work)
    assert [outputs["twice"].tolist() for outputs in responses] == [[0], [2], [4]]
    assert batch_sizes == [1, 1, 1]


def test_large_request_is_split_into_batches():
    """The outputs are concatenated."""
    outputs, batch_sizes = run_with_batcher(lambda batcher: batcher.predict({"number": np.arange(20)}))
    assert outputs["twice"].tolist() == list(range(0, 40, 2))
    assert batch_sizes == [8, 8, 4]


def test_failed_prediction_fails_only_its_batch():
    """Every request of the batch receives the exception; the next batch succeeds."""

    async def work(batcher):
        with pytest.raises(ValueError, match="negative"):
            await batcher.predict({"number": np.array([-1])})
        return await batcher.predict({"number": np.array([1])})

    outputs, _ = run_with_batcher(work)
    assert outputs["twice"].tolist() == [2]


def test_canceled_request_does_not_affect_others():
    """The outputs of a canceled request are discarded."""

    async def work(batcher):
        canceled = asyncio.create_task(batcher.predict({"number": np.array([1])}))
        other = asyncio.create_task(batcher.predict({"number": np.array([2])}))
        await asyncio.sleep(0)
        canceled.cancel()
        return (await other)["twice"].tolist()

    assert run_with_batcher(work)[0] == [4]
