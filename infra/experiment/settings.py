"""An experiment's YAML file: a plan, and which log it is about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from infra.errors import InfraError
from scorer.experiment.plan import ExperimentPlan, plan_of


@dataclass(frozen=True)
class ExperimentSettings:
    """What `longrank experiment` runs."""

    #: A directory with `events.parquet` and `requests.parquet`; None: the command line names it.
    log: Path | None
    plan: ExperimentPlan


def load_experiment(path: Path) -> ExperimentSettings:
    """The settings in a YAML file; a relative `log` is relative to the file.

    Raises:
        InfraError: the file cannot be read, or a key is unknown or its value wrong, with the place of each mistake.
    """
    try:
        content: Any = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise InfraError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise InfraError(f"{path}: must be a mapping")
    log = content.pop("log", None)
    if not isinstance(log, str | None):
        raise InfraError(f"{path}: log: must be a path")
    try:
        # Each looks where the other does not: pydantic at types, with every mistake at once; the plan at every level's
        # unknown keys.
        plan = TypeAdapter(ExperimentPlan).validate_python(content)
        plan_of(content)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg']}" for e in error.errors())
        raise InfraError(f"{path}: {problems}") from error
    except ValueError as error:
        raise InfraError(f"{path}: {error}") from error
    return ExperimentSettings(log=None if log is None else path.parent / log, plan=plan)
