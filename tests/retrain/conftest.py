"""One untrained bundle and one night for all tests: exporting a model takes longer than most of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from retrain_world import MemorySource, Night, registry_with_untrained, retrain

from scorer.registry.registry import Registry

# As in the tests of training: barriers between tiny operations cost more than the operations.
torch.set_num_threads(1)


def first_day() -> MemorySource:
    """The traffic that the night was trained on."""
    source = MemorySource()
    source.grow()
    return source


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with an untrained model in service; copy it, do not change it."""
    root = tmp_path_factory.mktemp("untrained")
    registry_with_untrained(root / "first", root / "cache")
    return root / "cache"


@pytest.fixture(scope="session")
def the_night(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Night:
    """The first night; look at it, do not change it."""
    root = tmp_path_factory.mktemp("night")
    source = first_day()
    report = retrain(source, registry_with_untrained(root / "registry", untrained), root / "work").run(
        now_ms=source.now_ms
    )
    return Night(root, report)


@pytest.fixture
def night(the_night: Night, tmp_path: Path) -> Night:
    """A copy of the first night of the test's own."""
    shutil.copytree(the_night.root, tmp_path / "night", symlinks=True)
    return Night(tmp_path / "night", the_night.report)


@pytest.fixture
def source() -> MemorySource:
    """The traffic that the night was trained on; may grow."""
    return first_day()


@pytest.fixture
def registry(untrained: Path, tmp_path: Path) -> Registry:
    """A registry of the test's own with an untrained model in service."""
    return registry_with_untrained(tmp_path / "registry", untrained)
