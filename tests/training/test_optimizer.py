"""How a phase steps, against Keras's own optimizers and schedules and against arithmetic by hand."""

import keras
import numpy as np
import pytest

from tfx_finetune.core.config import Phase
from tfx_finetune.training.optimizer import Schedule, make_optimizer

X = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(64, 2)).astype(np.float32)
PHASE = {"epochs": 2, "learning_rate": 1e-2, "weight_decay": 0.1, "warmup": 0.0}


def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, name="low"), keras.layers.Dense(2, name="high")])


def trained(make, batch=8):
    network = model()
    network.compile(make(network), "mse", jit_compile=False)
    network.fit(X, Y, batch_size=batch, epochs=2, shuffle=False, verbose=0)
    return network


def ours(batch=8, rates=(1.0,) * 4, **options):
    phase = Phase(**(PHASE | options))

    def make(network):
        start = [weight.numpy() for weight in network.trainable_weights]
        return make_optimizer(phase, 64 // batch, rates, start)

    return trained(make, batch)


def distance(one, other):
    return max(np.abs(a - b).max() for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


KINDS = {
    "adamw": keras.optimizers.AdamW,
    "lion": keras.optimizers.Lion,
    "muon": keras.optimizers.Muon,
    "sgd": lambda *args, **options: keras.optimizers.SGD(*args, momentum=0.9, nesterov=True, **options),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [{"clip_norm": 0.5}, {"clip_norm": 0.0, "clip_value": 0.01}])
def test_steps_are_those_of_keras(kind, clip):
    """With decay, not on biases, clipping, and a cosine that Keras has too."""

    def theirs(network):
        rate = keras.optimizers.schedules.CosineDecay(1e-2, 16)
        options = {"global_clipnorm": clip["clip_norm"]} if clip["clip_norm"] else {"clipvalue": clip["clip_value"]}
        optimizer = KINDS[kind](rate, weight_decay=0.1, **options)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        return optimizer

    found, expected = ours(optimizer=kind, **clip), trained(theirs)
    assert distance(found, expected) < 1e-6
    assert distance(found, model()) > 1e-3


def test_gathered_batches_are_one_large_batch():
    """Two batches of 8 step as one of 16 does."""
    one = ours(16, schedule="constant", optimizer="sgd")
    assert distance(ours(8, schedule="constant", optimizer="sgd", accumulate=2), one) < 1e-6
    assert distance(ours(8, schedule="constant", optimizer="sgd"), one) > 1e-4


def test_each_weight_has_its_rate():
    """A rate of 0 leaves a layer as it was, decay included; the others step as they would."""
    start = model().get_weights()
    found = ours(rates=(0.0, 0.0, 1.0, 1.0)).get_weights()
    assert all(map(np.array_equal, found[:2], start[:2]))
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(found[2:], start[2:], strict=True))
    # SGD without momentum is linear in the rate: half the rate is half the first step.
    steps = {rate: [a - b for a, b in zip(once(rate), start, strict=True)] for rate in (1.0, 0.5)}
    for whole, half in zip(steps[1.0], steps[0.5], strict=True):
        assert np.allclose(half, whole / 2, atol=1e-7)


def once(rate):
    network = model()
    phase = Phase(epochs=1, learning_rate=0.1, optimizer="sgd", schedule="constant", warmup_ratio=0.0, weight_decay=0.3)
    optimizer = make_optimizer(phase, 1, [rate] * 4, [])
    network.compile(optimizer, "mse", jit_compile=False)
    network.train_on_batch(X, Y)
    return network.get_weights()


def test_decay_pulls_towards_zero_or_the_start():
    """Without gradients a weight w steps to w - lr * decay * (w - anchor); biases are left alone."""
    for decay_to, anchor in (("zero", 0.0), ("start", 2.0)):
        weight, bias = (
            keras.Variable(np.full(3, 2.0, np.float32)),
            keras.Variable(np.full(3, 2.0, np.float32), name="bias"),
        )
        phase = Phase(
            epochs=1,
            learning_rate=0.5,
            optimizer="sgd",
            schedule="constant",
            warmup_ratio=0.0,
            weight_decay=0.2,
            l2_sp=decay_to,
        )
        optimizer = make_optimizer(phase, 10, [1.0, 1.0], [np.full(3, 2.0, np.float32)] * 2)
        weight.assign(np.full(3, 3.0, np.float32))
        optimizer.apply([np.zeros(3, np.float32)] * 2, [weight, bias])
        assert np.allclose(weight, 3 - 0.1 * (3 - anchor))
        assert np.allclose(bias, 2)


def test_moving_average_of_the_weights():
    """a <- m a + (1 - m) w, beginning with the first step's weights."""
    weight = keras.Variable(np.zeros(1, np.float32))
    phase = Phase(
        epochs=1,
        learning_rate=1.0,
        optimizer="sgd",
        schedule="constant",
        warmup_ratio=0.0,
        weight_decay=0.0,
        clip_norm=0.0,
        ema_momentum=0.5,
    )
    optimizer = make_optimizer(phase, 10, [1.0], [])
    average, seen = None, []
    for gradient in (1.0, -2.0, 4.0):
        optimizer.apply([np.array([gradient], np.float32)], [weight])
        seen.append(float(weight.numpy()[0]))
        average = seen[-1] if average is None else 0.5 * average + 0.5 * seen[-1]
    optimizer.finalize_variable_values([weight])
    assert np.allclose(weight, average)
    assert average != seen[-1]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # Peak 2 over 10 steps, the first 2 of which rise; one_cycle rises over 3 along a cosine.
        ("constant", {0: 0.0, 1: 1.0, 2: 2.0, 6: 2.0, 10: 2.0}),
        ("linear", {0: 0.0, 1: 1.0, 2: 2.0, 6: 1.0, 10: 0.0}),
        ("cosine", {0: 0.0, 1: 1.0, 2: 2.0, 4: 1.7071, 6: 1.0, 10: 0.0}),
        ("one_cycle", {0: 0.0, 1: 0.5, 2: 1.5, 3: 2.0, 10: 0.0}),
    ],
)
def test_schedules(schedule, expected):
    """By hand."""
    rate = Schedule(Phase(learning_rate=2.0, schedule=schedule, warmup_ratio=0.2), 10)
    for step, value in expected.items():
        assert np.isclose(rate(step), value, atol=1e-4), step
