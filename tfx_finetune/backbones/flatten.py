"""A model that holds models -> the same layers in one flat graph."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras


def flatten(model: keras.Model, x: keras.KerasTensor, prefix: str = "") -> dict[str, keras.KerasTensor]:
    """Copies a functional or sequential model, weights included, so that no layer of it is a model itself.

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
        config = operation.get_config()
        name = next(n for n in _variants(prefix + operation.name) if n not in names)
        names.add(name)
        return type(operation).from_config(config | {"name": name})

    def applied(operation: keras.Operation) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if graph := _graph(operation):
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


def _copy_weights(source: keras.Operation, target: keras.Operation) -> None:
    if getattr(source, "weights", None):
        target.set_weights(source.get_weights())
    if isinstance(target, keras.layers.Normalization):
        target.finalize_state()


def _graph(operation: keras.Operation) -> Any:
    """The graph of a functional or sequential model, None for a layer."""
    graph = getattr(operation, "_functional", None) if isinstance(operation, keras.Sequential) else operation
    return graph if isinstance(graph, keras.Function) else None


def _variants(name: str) -> Iterator[str]:
    """A name, then the same with a number behind it."""
    return itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
