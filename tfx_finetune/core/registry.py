"""Registries: a folder of components, looked up by name, each component's signature being its schema."""

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tfx_finetune.core.errors import UserError, did_you_mean
from tfx_finetune.core.spec import Spec

Factory = Callable[..., Any]


class Registry(Mapping[str, Factory]):
    """Component factories by name.

    A factory's positional-only parameters are its context: what the caller hands it (labels, a weight card).
    All its other parameters are what a user may write in a spec; their annotations are checked.

    Args:
        kind: What an entry is called in messages, such as `backbone`.
        packages: Packages whose import registers the entries; imported at the first look-up.
    """

    def __init__(self, kind: str, *packages: str) -> None:
        self.kind = kind
        self.packages = packages
        self._factories: dict[str, Factory] = {}
        self._aliases: dict[str, str] = {}
        self._modalities: dict[str, str] = {}

    def register(self, factory: Factory, name: str = "", modality: str = "image") -> Factory:
        """Adds `factory` under its own name or `name`; usable as a decorator.

        Args:
            factory: The component.
            name: Its name; by default the factory's.
            modality: Of what it takes, for backbones and augments.
        """
        name = name or factory.__name__
        if name in self._factories:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._factories[name] = factory
        self._modalities[name] = modality
        return factory

    def register_for(self, modality: str) -> Callable[[Factory], Factory]:
        """Decorator that registers a factory for a modality."""
        return lambda factory: self.register(factory, modality=modality)

    def get_modality(self, name: str) -> str:
        """The modality that an entry was registered for.

        Raises:
            UserError: There is no such entry.
        """
        self[name]  # raises for an unknown name
        return self._modalities[self._aliases.get(name, name)]

    def add_alias(self, spelling: str, name: str) -> None:
        """Accepts another spelling of an entry; it is not listed."""
        self._aliases[spelling] = name

    def __getitem__(self, name: str) -> Factory:
        self._load()
        name = self._aliases.get(name, name)
        if name not in self._factories:
            todo = did_you_mean(name, self._factories)
            raise UserError(f"unknown {self.kind}", got=name, expected=sorted(self._factories), hint=todo)
        return self._factories[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._factories or name in self._aliases

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._factories))

    def __len__(self) -> int:
        self._load()
        return len(self._factories)

    def get_signature(self, name: str) -> inspect.Signature:
        """What a user may write: the factory's signature without its context."""
        signature = inspect.signature(self[name])
        kept = [p for p in signature.parameters.values() if p.kind is not p.POSITIONAL_ONLY]
        return signature.replace(parameters=kept)

    def format_usage(self, name: str) -> str:
        """An entry as a user may write it, with types and defaults: `flip(probability: float = 0.5)`."""
        signature = self.get_signature(name).replace(return_annotation=inspect.Signature.empty)
        return f"{name}{signature}".replace(f"{Spec.__module__}.", "")

    def resolve_options(self, spec: Spec) -> dict[str, Any]:
        """Returns all options of `spec`, defaults included.

        Raises:
            UserError: The name is unknown, or an option is unknown, missing or of a wrong type.
        """
        signature = self.get_signature(spec.name)
        usage = self.format_usage(spec.name)
        for key in spec.kwargs:
            if key not in signature.parameters:
                todo = did_you_mean(key, signature.parameters)
                raise UserError(f"unknown option of {self.kind} {spec.name}", got=key, expected=usage, hint=todo)
        try:
            bound = signature.bind(*spec.args, **spec.kwargs)
        except TypeError as error:
            raise UserError(f"{self.kind} {spec.name}: {error}", got=spec, expected=usage) from None
        hints = typing.get_type_hints(self[spec.name])
        for key, value in bound.arguments.items():
            if key in hints and not _matches_type(value, hints[key]):
                shown = inspect.formatannotation(signature.parameters[key].annotation)
                raise UserError(f"wrong value for {key} of {self.kind} {spec.name}", got=repr(value), expected=shown)
        bound.apply_defaults()
        return dict(bound.arguments)

    def build(self, spec: Spec, *context: Any) -> Any:
        """Calls the factory that `spec` names with `context` and the spec's options."""
        return self[spec.name](*context, **self.resolve_options(spec))

    def _load(self) -> None:
        for package in self.packages:
            importlib.import_module(package)


def _matches_type(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is typing.Literal:
        return value in args
    if origin in (typing.Union, types.UnionType):
        return any(_matches_type(value, arg) for arg in args)
    if origin in (tuple, list):
        return isinstance(value, (tuple, list)) and all(_matches_type(v, args[0]) for v in value) if args else True
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True
