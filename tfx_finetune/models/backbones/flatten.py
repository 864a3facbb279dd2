"""Copy of a model with nested models as one flat graph."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras


def flatten(model: keras.Model, x: keras.KerasTensor, prefix: str = "") -> dict[str, keras.KerasTensor]:
    """Copy a functional or sequential model with its weights, without nested models.

    A layer group can end only between layers of the graph, and TF-MOT wraps only single layers. A convolution with one
    group per channel becomes a depthwise convolution, which is equal and which the ONNX converter supports.

    Args:
        model: Model of one input.
        x: Input of the copy.
        prefix: Prefix of the layer names in the copy. Default: none.

    Returns:
        Output of each layer and nested model, by its name in the original.
    """
    copies: dict[int, keras.Operation] = {}
    names: set[str] = set()
    outputs: dict[str, keras.KerasTensor] = {}

    def copy(operation: keras.Operation) -> keras.Operation:
        cls, config = _make_copy_config(operation)
        name = next(name for name in _iterate_numbered_names(prefix + operation.name) if name not in names)
        names.add(name)
        return cls.from_config(config | {"name": name})

    def apply(operation: keras.Operation) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if graph := _get_functional_graph(operation):
                output = graph._run_through_graph(args, operation_fn=apply)
            elif id(operation) in copies:
                output = copies[id(operation)](*args, **kwargs)
            else:
                copies[id(operation)] = copy(operation)
                output = copies[id(operation)](*args, **kwargs)
                _copy_weights(operation, copies[id(operation)])
            outputs[operation.name] = output
            return output

        return call

    apply(model)(x)
    return outputs


def _make_copy_config(operation: keras.Operation) -> tuple[type[keras.Operation], dict[str, Any]]:
    """Return the class and the configuration of an operation's copy."""
    config = operation.get_config()
    if type(operation) is not keras.layers.Conv2D or operation.groups == 1 or operation.kernel.shape[2] > 1:
        return type(operation), config
    for part in ("initializer", "regularizer", "constraint"):
        config[f"depthwise_{part}"] = config.pop(f"kernel_{part}")
    config["depth_multiplier"] = config.pop("filters") // config.pop("groups")
    return keras.layers.DepthwiseConv2D, config


def _copy_weights(source: keras.Operation, target: keras.Operation) -> None:
    if getattr(source, "weights", None):
        # A grouped kernel (k, k, 1, channels * multiplier) is the depthwise kernel (k, k, channels, multiplier).
        pairs = zip(source.get_weights(), target.weights, strict=True)
        target.set_weights([value.reshape(weight.shape) for value, weight in pairs])
    if isinstance(target, keras.layers.Normalization):
        target.finalize_state()


def _get_functional_graph(operation: keras.Operation) -> Any:
    """Return the graph of a functional or sequential model, or None for a layer."""
    graph = getattr(operation, "_functional", None) if isinstance(operation, keras.Sequential) else operation
    return graph if isinstance(graph, keras.Function) else None


def _iterate_numbered_names(name: str) -> Iterator[str]:
    """Yield `name`, `name_2`, `name_3`, and so on."""
    return itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
