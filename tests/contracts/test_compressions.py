"""Contract of all compressions; every registered compression is tested."""

import numpy as np
import pytest

from tests.compression.test_tf_keras_bridge import build_network
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
    """Every registered compression is part of a chain."""
    assert {parse_spec(spec).name for chain in CHAINS for spec in chain} == set(COMPRESSIONS)


def get_kernels(tf_keras_model):
    """Return the kernels with output channels first, as files store them."""
    layers = [layer for layer in tf_keras_model.layers if type(layer).__name__ in ("Conv2D", "Dense")]
    return [np.moveaxis(layer.kernel.numpy(), -1, 0) for layer in layers]


NETWORKS = ["convnet(size=32)", "mobilenet_v3_small(weights='none', size=32)"]


@pytest.mark.parametrize(
    ("spec", "chain"),
    [pytest.param(NETWORKS[0], chain, marks=pytest.mark.slow if chain[1:] else ()) for chain in CHAINS]
    + [pytest.param(NETWORKS[1], CHAINS[2], marks=pytest.mark.slow)],
)
def test_compressed_weights_stay_compressed_in_training(spec, chain):
    """Training changes weights and preserves the zeros and values of this and all earlier compressions."""
    import tf_keras

    model, data, _ = build_network(spec, half=spec == NETWORKS[1])
    with_names = tf_keras_bridge.to_tf_keras(fold_batch_norm(model))
    tf_keras_model = tf_keras.Model(with_names.inputs, with_names.outputs)
    compressions = [COMPRESSIONS.build(parse_spec(spec)) for spec in chain]
    targets = [np.eye(size, dtype=np.float32)[[0, 1, 0, 1]] for size in (3, 2)]
    for position, compression in enumerate(compressions):
        copy = tf_keras.models.clone_model(tf_keras_model)
        copy.set_weights(tf_keras_model.get_weights())
        wrapped = compression.wrap(copy, 12, [data], [previous.name for previous in compressions[:position]])
        wrapped.compile(tf_keras.optimizers.Adam(1e-3), loss="mse")
        wrapped.fit(data, targets, epochs=12, batch_size=4, callbacks=compression.callbacks(), verbose=0)
        before = [weight.copy() for weight in tf_keras_model.get_weights()]
        compression.strip(wrapped, tf_keras_model)
        assert len(tf_keras_model.get_weights()) == len(before)
        assert any(
            np.abs(old - new).max() > 1e-4 for old, new in zip(before, tf_keras_model.get_weights(), strict=True)
        )
        check_kernels(get_kernels(tf_keras_model), compressions[: position + 1], uniform="2:4" in chain[0])


def check_kernels(kernels, compressions, uniform):
    """Check that kernels satisfy all compressions, each kernel alone if `uniform`, and that no kernel is all zeros."""
    sparsity = sum((kernel == 0).sum() for kernel in kernels) / sum(kernel.size for kernel in kernels)
    assert find_compression_violation(kernels, sparsity, compressions) == ""
    assert all(kernel.any() for kernel in kernels)
    for compression in compressions if uniform else ():
        for kernel in kernels:
            assert (kernel == 0).mean() >= compression.sparsity - 0.1 or kernel.size < 1000


def test_violations_are_found():
    """The check that every file passes can fail."""
    rng = np.random.default_rng(0)
    dense = [rng.normal(size=(8, 3, 3, 4)).astype(np.float32)]
    prune, cluster, qat = (
        COMPRESSIONS.build(parse_spec(spec)) for spec in ("prune()", "cluster(num_clusters=4)", "qat()")
    )
    assert "sparsity" in find_compression_violation(dense, 0.0, [prune])
    assert "288 values" in find_compression_violation(dense, 0.0, [cluster])
    assert not find_compression_violation(dense, 0.0, [qat])
    rounded = [np.round(np.clip(dense[0], -1.4, 1.4))]
    assert not find_compression_violation(rounded, 0.0, [cluster])
    channels = [rounded[0] * np.arange(1, 9)[:, None, None, None].astype(np.float32)]
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
def test_options_out_of_range_raise_an_error(spec):
    """Each error is a UserError."""
    with pytest.raises(UserError):
        COMPRESSIONS.build(parse_spec(spec))
