"""One untrained bundle for all tests: exporting it takes longer than most of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from retrain_world import registry_with_untrained

from scorer.registry.registry import Registry

# As in the tests of training: barriers between tiny operations cost more than the operations.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with an untrained model in service; copy it, do not change it."""
    root = tmp_path_factory.mktemp("untrained")
    registry_with_untrained(root / "first", root / "cache")
    return root / "cache"


@pytest.fixture
def registry(untrained: Path, tmp_path: Path) -> Registry:
    """A registry of the test's own with an untrained model in service."""
    return registry_with_untrained(tmp_path / "registry", untrained)
