"""What every compression promises; being registered is enough to be tested."""

import numpy as np
import pytest

from tests.compression.test_tf_keras_bridge import network
from tfx_finetune.compression import tf_keras_bridge
from tfx_finetune.compression.fold_batch_norm import fold_batch_norm
from tfx_finetune.core.errors import UserError
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.deploy.verify import find_compression_violation
from tfx_finetune.types.components import COMPRESSIONS

CHAINS = [
    ["qat()"],
    ["prune(pattern='2:4')", "qat()"],
    ["cluster(num_clusters=6)", "qat()"],
    ["prune(sparsity=0.6)", "cluster(num_clusters=6)", "qat()"],
]


def test_every_compression_is_tested():
    """A new one belongs into a chain."""
    assert {parse_spec(spec).name for chain in CHAINS for spec in chain} == set(COMPRESSIONS)


def kernels(twin):
    """Output channels first, as files have them."""
    wanted = [layer for layer in twin.layers if type(layer).__name__ in ("Conv2D", "Dense")]
    return [np.moveaxis(layer.kernel.numpy(), -1, 0) for layer in wanted]


NETWORKS = ["convnet(size=32)", "mobilenet_v3_small(weights='none', size=32)"]


@pytest.mark.parametrize(
    ("spec", "chain"),
    [pytest.param(NETWORKS[0], chain, marks=pytest.mark.slow if chain[1:] else ()) for chain in CHAINS]
    + [pytest.param(NETWORKS[1], CHAINS[2], marks=pytest.mark.slow)],
)
def test_promises_hold_after_training(spec, chain):
    """Weights move; behind each compression its promise and those before it hold, and each kernel has them."""
    import tf_keras

    model, data, _ = network(spec, half=spec == NETWORKS[1])
    structured = tf_keras_bridge.to_tf_keras(fold_batch_norm(model))
    twin = tf_keras.Model(structured.inputs, structured.outputs)
    built = [COMPRESSIONS.build(parse_spec(spec)) for spec in chain]
    targets = [np.eye(size, dtype=np.float32)[[0, 1, 0, 1]] for size in (3, 2)]
    for position, compression in enumerate(built):
        copy = tf_keras.models.clone_model(twin)
        copy.set_weights(twin.get_weights())
        wrapped = compression.wrap(copy, 12, [data], [done.name for done in built[:position]])
        wrapped.compile(tf_keras.optimizers.Adam(1e-3), loss="mse")
        wrapped.fit(data, targets, epochs=12, batch_size=4, callbacks=compression.callbacks(), verbose=0)
        before = [weight.copy() for weight in twin.get_weights()]
        compression.strip(wrapped, twin)
        assert len(twin.get_weights()) == len(before)
        assert any(np.abs(old - new).max() > 1e-4 for old, new in zip(before, twin.get_weights(), strict=True))
        check_kernels(kernels(twin), built[: position + 1], alike="2:4" in chain[0])


def check_kernels(found, done, alike):
    """Holds that they have what these compressions promise, all `alike` or together, and that none is zero alone."""
    zeros = sum((kernel == 0).sum() for kernel in found) / sum(kernel.size for kernel in found)
    assert find_compression_violation(found, zeros, done) == ""
    assert all(kernel.any() for kernel in found)
    for compression in done if alike else ():
        for kernel in found:
            assert (kernel == 0).mean() >= compression.sparsity - 0.1 or kernel.size < 1000


def test_a_broken_promise_is_seen():
    """The check that every file passes can fail."""
    rng = np.random.default_rng(0)
    whole = [rng.normal(size=(8, 3, 3, 4)).astype(np.float32)]
    prune, cluster, qat = (
        COMPRESSIONS.build(parse_spec(spec)) for spec in ("prune()", "cluster(num_clusters=4)", "qat()")
    )
    assert "zeros" in find_compression_violation(whole, 0.0, [prune])
    assert "288 values" in find_compression_violation(whole, 0.0, [cluster])
    assert not find_compression_violation(whole, 0.0, [qat])
    few = [np.round(np.clip(whole[0], -1.4, 1.4))]
    assert not find_compression_violation(few, 0.0, [cluster])
    channels = [few[0] * np.arange(1, 9)[:, None, None, None].astype(np.float32)]
    assert find_compression_violation(channels, 0.0, [cluster])
    assert not find_compression_violation([channels[0].astype(np.int8)], 0.0, [cluster])


@pytest.mark.parametrize(
    "spec",
    [
        "prune(sparsity=1.0)",
        "prune(epochs=0, schedule='polynomial')",
        "prune(pattern='2:4', sparsity=0.3)",
        "cluster(num_clusters=1)",
    ],
)
def test_options_out_of_range(spec):
    """Each is refused in one line."""
    with pytest.raises(UserError):
        COMPRESSIONS.build(parse_spec(spec))
