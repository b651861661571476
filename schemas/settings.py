"""Settings as plain frozen dataclasses: from a parsed JSON or YAML mapping and back, without any library.

Machines that only train have torch and numpy and nothing else. Where pydantic is at hand, its models take these
dataclasses as fields and check them with the place of a mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")


def from_mapping(cls: type[S], mapping: Mapping[str, Any]) -> S:
    """An instance of `cls`; lists become tuples, missing keys take their defaults.

    Raises:
        ValueError: an unknown key, or what the class itself refuses.
    """
    known = {field.name for field in fields(cls)}
    if unknown := sorted(set(mapping) - known):
        raise ValueError(f"{cls.__name__}: unknown {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in mapping.items()})


def to_mapping(settings: DataclassInstance) -> dict[str, Any]:
    """What `from_mapping` takes, as JSON types."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}


def require(holds: bool, message: str) -> None:
    """Raises ValueError(message) unless `holds`."""
    if not holds:
        raise ValueError(message)
