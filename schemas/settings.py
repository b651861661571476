"""Settings as plain frozen dataclasses: from a parsed JSON or YAML mapping and back, without any library.

Machines that only train have torch and numpy and nothing else. Where pydantic is at hand, its models take these
dataclasses as fields and check them with the place of a mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")


def from_mapping(cls: type[S], mapping: Mapping[str, Any]) -> S:
    """An instance of `cls`; lists become tuples, missing keys take their defaults.

    Raises:
        ValueError: an unknown key, a value of another type than the default's, or what the class itself refuses.
    """
    known = {field.name for field in fields(cls)}
    if unknown := sorted(set(mapping) - known):
        raise ValueError(f"{cls.__name__}: unknown {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in mapping.items()}
    for field in fields(cls):
        if field.name in values and field.default is not MISSING:
            _require_like(f"{cls.__name__}: {field.name}", values[field.name], field.default)
    return cls(**values)


def to_mapping(settings: DataclassInstance) -> dict[str, Any]:
    """What `from_mapping` takes, as JSON types."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}


def _require_like(name: str, value: Any, default: Any) -> None:
    """A whole number may stand for a fraction, nothing else for anything else."""
    if isinstance(default, tuple) and isinstance(value, tuple):
        for i, one in enumerate(value):
            _require_like(f"{name}[{i}]", one, default[0] if default else one)
        return
    right = type(value) is type(default) or (type(default) is float and type(value) is int)
    require(right, f"{name} is {value!r}, must be a {type(default).__name__}")


def require(holds: bool, message: str) -> None:
    """Raises ValueError(message) unless `holds`."""
    if not holds:
        raise ValueError(message)
