"""Registry of component factories: their signatures are the schema of spec strings."""

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
    """Mapping from names to component factories.

    The positional-only parameters of a factory are its context, which the caller passes (labels, weight configuration).
    All other parameters are the options of a spec; their annotations are checked.

    Args:
        kind: Kind of the components, such as `backbone`, for error messages.
        packages: Packages or modules whose import registers the components; imported at the first look-up.

    Examples:
        >>> from tfx_finetune.core.spec import parse_spec
        >>> registry = Registry("augment")
        >>> @registry.register
        ... def flip(*, probability: float = 0.5) -> float:
        ...     return probability
        >>> registry.build(parse_spec("flip(probability=0.1)"))
        0.1
    """

    def __init__(self, kind: str, *packages: str) -> None:
        self.kind = kind
        self.packages = packages
        self._factories: dict[str, Factory] = {}
        self._aliases: dict[str, str] = {}
        self._modalities: dict[str, str] = {}

    def register(self, factory: Factory, name: str = "", modality: str = "image") -> Factory:
        """Register a factory and return it; usable as a decorator.

        Args:
            factory: Factory of the component.
            name: Name of the component; default: the name of the factory.
            modality: Modality of the input, for backbones and augments.
        """
        name = name or factory.__name__
        if name in self._factories:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._factories[name] = factory
        self._modalities[name] = modality
        return factory

    def register_for(self, modality: str) -> Callable[[Factory], Factory]:
        """Return a decorator that registers a factory for a modality."""
        return lambda factory: self.register(factory, modality=modality)

    def get_modality(self, name: str) -> str:
        """Return the modality that a component was registered for.

        Raises:
            UserError: If there is no such component.
        """
        self[name]  # raises for an unknown name
        return self._modalities[self._aliases.get(name, name)]

    def add_alias(self, spelling: str, name: str) -> None:
        """Accept another spelling of a component, which is not listed."""
        self._aliases[spelling] = name

    def __getitem__(self, name: str) -> Factory:
        self._load()
        name = self._aliases.get(name, name)
        if name not in self._factories:
            hint = did_you_mean(name, self._factories)
            raise UserError(f"Unknown {self.kind}", got=name, expected=sorted(self._factories), hint=hint)
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
        """Return the signature of a factory without its context: the options of a spec."""
        signature = inspect.signature(self[name])
        options = [p for p in signature.parameters.values() if p.kind is not p.POSITIONAL_ONLY]
        return signature.replace(parameters=options)

    def format_usage(self, name: str) -> str:
        """Return a component with the types and defaults of its options: `flip(probability: float = 0.5)`."""
        signature = self.get_signature(name).replace(return_annotation=inspect.Signature.empty)
        return f"{name}{signature}".replace(f"{Spec.__module__}.", "")

    def resolve_options(self, spec: Spec) -> dict[str, Any]:
        """Return all options of a spec, with defaults.

        Raises:
            UserError: If the name is unknown, or an option is unknown, missing or of the wrong type.
        """
        signature = self.get_signature(spec.name)
        usage = self.format_usage(spec.name)
        for key in spec.kwargs:
            if key not in signature.parameters:
                hint = did_you_mean(key, signature.parameters)
                raise UserError(f"Unknown option of {self.kind} {spec.name}", got=key, expected=usage, hint=hint)
        try:
            bound = signature.bind(*spec.args, **spec.kwargs)
        except TypeError as error:
            message = f"Invalid options of {self.kind} {spec.name} ({error})"
            raise UserError(message, got=spec, expected=usage) from None
        hints = typing.get_type_hints(self[spec.name])
        for key, value in bound.arguments.items():
            if key in hints and not _matches_type(value, hints[key]):
                expected = inspect.formatannotation(signature.parameters[key].annotation)
                raise UserError(f"Wrong value for {key} of {self.kind} {spec.name}", got=repr(value), expected=expected)
        bound.apply_defaults()
        return dict(bound.arguments)

    def build(self, spec: Spec, *context: Any) -> Any:
        """Call the factory that a spec names with the context and the options of the spec."""
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
