"""A model that holds models -> the same layers in one flat graph."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras


def flatten(model: keras.Model, x: keras.KerasTensor, prefix: str = "") -> dict[str, keras.KerasTensor]:
    """Copies a functional or sequential model, weights included, so that no layer of it is a model itself.

    A convolution with a group for each channel becomes a depthwise one, which is the same and which ONNX knows.
    A group can only end between layers of the graph, and TF-MOT wraps such layers alone.

    Args:
        model: Of one input.
        x: What the copy takes.
        prefix: Put before the names of the layers.

    Returns:
        What each layer gives, by its name in the model; of models inside the model too.
    """
    copies: dict[int, keras.Operation] = {}
    names: set[str] = set()
    outputs: dict[str, keras.KerasTensor] = {}

    def copied(operation: keras.Operation) -> keras.Operation:
        kind, config = _make_copy_config(operation)
        name = next(n for n in _iterate_numbered_names(prefix + operation.name) if n not in names)
        names.add(name)
        return kind.from_config(config | {"name": name})

    def applied(operation: keras.Operation) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if graph := _get_functional_graph(operation):
                output = graph._run_through_graph(args, operation_fn=applied)
            elif id(operation) in copies:
                output = copies[id(operation)](*args, **kwargs)
            else:
                copies[id(operation)] = copied(operation)
                output = copies[id(operation)](*args, **kwargs)
                _copy_weights(operation, copies[id(operation)])
            outputs[operation.name] = output
            return output

        return call

    applied(model)(x)
    return outputs


def _make_copy_config(operation: keras.Operation) -> tuple[type[keras.Operation], dict[str, Any]]:
    """The kind of an operation's copy, and its options."""
    config = operation.get_config()
    if type(operation) is not keras.layers.Conv2D or operation.groups == 1 or operation.kernel.shape[2] > 1:
        return type(operation), config
    for part in ("initializer", "regularizer", "constraint"):
        config[f"depthwise_{part}"] = config.pop(f"kernel_{part}")
    config["depth_multiplier"] = config.pop("filters") // config.pop("groups")
    return keras.layers.DepthwiseConv2D, config


def _copy_weights(source: keras.Operation, target: keras.Operation) -> None:
    if getattr(source, "weights", None):
        # (k, k, 1, channels * multiplier) of a grouped convolution is (k, k, channels, multiplier) of a depthwise one.
        pairs = zip(source.get_weights(), target.weights, strict=True)
        target.set_weights([value.reshape(weight.shape) for value, weight in pairs])
    if isinstance(target, keras.layers.Normalization):
        target.finalize_state()


def _get_functional_graph(operation: keras.Operation) -> Any:
    """The graph of a functional or sequential model, None for a layer."""
    graph = getattr(operation, "_functional", None) if isinstance(operation, keras.Sequential) else operation
    return graph if isinstance(graph, keras.Function) else None


def _iterate_numbered_names(name: str) -> Iterator[str]:
    """A name, then the same with a number behind it."""
    return itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
