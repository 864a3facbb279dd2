"""Tests of optimizers and schedules against Keras and against arithmetic by hand."""

import keras
import numpy as np
import pytest

from tfx_finetune.core.config import Phase
from tfx_finetune.training.optimizer import Schedule, make_optimizer

FEATURES = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
TARGETS = np.random.default_rng(1).normal(size=(64, 2)).astype(np.float32)
PHASE_OPTIONS = {"epochs": 2, "learning_rate": 1e-2, "weight_decay": 0.1, "warmup_ratio": 0.0}


def make_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, name="low"), keras.layers.Dense(2, name="high")])


def train(make, batch_size=8):
    model = make_model()
    model.compile(make(model), "mse", jit_compile=False)
    model.fit(FEATURES, TARGETS, batch_size=batch_size, epochs=2, shuffle=False, verbose=0)
    return model


def train_phase(batch_size=8, lr_multipliers=(1.0,) * 4, **options):
    phase = Phase(**(PHASE_OPTIONS | options))

    def make(model):
        initial_weights = [weight.numpy() for weight in model.trainable_weights]
        return make_optimizer(phase, 64 // batch_size, lr_multipliers, initial_weights)

    return train(make, batch_size)


def max_difference(model, other):
    return max(np.abs(a - b).max() for a, b in zip(model.get_weights(), other.get_weights(), strict=True))


OPTIMIZERS = {
    "adamw": keras.optimizers.AdamW,
    "lion": keras.optimizers.Lion,
    "muon": keras.optimizers.Muon,
    "sgd": lambda *args, **options: keras.optimizers.SGD(*args, momentum=0.9, nesterov=True, **options),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("clip", [{"clip_norm": 0.5}, {"clip_norm": 0.0, "clip_value": 0.01}])
def test_steps_equal_those_of_keras(name, clip):
    """Weight decay exempts biases; gradients are clipped; the schedule is a cosine."""

    def make_keras_optimizer(model):
        schedule = keras.optimizers.schedules.CosineDecay(1e-2, 16)
        options = {"global_clipnorm": clip["clip_norm"]} if clip["clip_norm"] else {"clipvalue": clip["clip_value"]}
        optimizer = OPTIMIZERS[name](schedule, weight_decay=0.1, **options)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        return optimizer

    model, expected = train_phase(optimizer=name, **clip), train(make_keras_optimizer)
    assert max_difference(model, expected) < 1e-6
    assert max_difference(model, make_model()) > 1e-3


def test_accumulated_gradients_equal_those_of_a_large_batch():
    """Two batches of 8 samples give the step of one batch of 16."""
    expected = train_phase(16, schedule="constant", optimizer="sgd")
    accumulated = train_phase(8, schedule="constant", optimizer="sgd", gradient_accumulation_steps=2)
    assert max_difference(accumulated, expected) < 1e-6
    assert max_difference(train_phase(8, schedule="constant", optimizer="sgd"), expected) > 1e-4


def test_each_weight_has_a_learning_rate_multiplier():
    """With multiplier 0, a layer stays unchanged, decay included; other layers are trained."""
    initial = make_model().get_weights()
    weights = train_phase(lr_multipliers=(0.0, 0.0, 1.0, 1.0)).get_weights()
    assert all(map(np.array_equal, weights[:2], initial[:2]))
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(weights[2:], initial[2:], strict=True))
    # The first step of SGD is proportional to the learning rate.
    steps = {factor: [a - b for a, b in zip(take_step(factor), initial, strict=True)] for factor in (1.0, 0.5)}
    for full, half in zip(steps[1.0], steps[0.5], strict=True):
        assert np.allclose(half, full / 2, atol=1e-7)


def take_step(lr_multiplier):
    model = make_model()
    phase = Phase(epochs=1, learning_rate=0.1, optimizer="sgd", schedule="constant", warmup_ratio=0.0, weight_decay=0.3)
    optimizer = make_optimizer(phase, 1, [lr_multiplier] * 4, [])
    model.compile(optimizer, "mse", jit_compile=False)
    model.train_on_batch(FEATURES, TARGETS)
    return model.get_weights()


def test_weights_decay_towards_zero_or_their_initial_values():
    """Without gradients, a weight w becomes w - lr * decay * (w - target); biases do not decay."""
    for l2_sp, target in ((False, 0.0), (True, 2.0)):
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
            l2_sp=l2_sp,
        )
        optimizer = make_optimizer(phase, 10, [1.0, 1.0], [np.full(3, 2.0, np.float32)] * 2)
        weight.assign(np.full(3, 3.0, np.float32))
        optimizer.apply([np.zeros(3, np.float32)] * 2, [weight, bias])
        assert np.allclose(weight, 3 - 0.1 * (3 - target))
        assert np.allclose(bias, 2)


def test_the_moving_average_starts_at_the_weights_of_the_first_step():
    """The average a becomes m a + (1 - m) w after each step."""
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
    average, values = None, []
    for gradient in (1.0, -2.0, 4.0):
        optimizer.apply([np.array([gradient], np.float32)], [weight])
        values.append(float(weight.numpy()[0]))
        average = values[-1] if average is None else 0.5 * average + 0.5 * values[-1]
    optimizer.finalize_variable_values([weight])
    assert np.allclose(weight, average)
    assert average != values[-1]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # The peak is 2. Of 10 steps, the rate rises in the first 2; with one_cycle, in the first 3 along a cosine.
        ("constant", {0: 0.0, 1: 1.0, 2: 2.0, 6: 2.0, 10: 2.0}),
        ("linear", {0: 0.0, 1: 1.0, 2: 2.0, 6: 1.0, 10: 0.0}),
        ("cosine", {0: 0.0, 1: 1.0, 2: 2.0, 4: 1.7071, 6: 1.0, 10: 0.0}),
        ("one_cycle", {0: 0.0, 1: 0.5, 2: 1.5, 3: 2.0, 10: 0.0}),
    ],
)
def test_schedules_have_the_learning_rates_by_hand(schedule, expected):
    """The learning rate of single steps is computed by hand."""
    learning_rate = Schedule(Phase(learning_rate=2.0, schedule=schedule, warmup_ratio=0.2), 10)
    for step, value in expected.items():
        assert np.isclose(learning_rate(step), value, atol=1e-4), step
