"""Bundles are whole or not there, one is current, and a damaged one is refused with what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from scorer.registry.manifest import MANIFEST_NAME, Manifest, Tolerance
from scorer.registry.registry import BundleError, Registry


def stage(directory: Path, version: str, created_ms: int = 0) -> Path:
    directory.mkdir(parents=True)
    (directory / "encode.onnx").write_bytes(f"encode {version}".encode())
    (directory / "score.onnx").write_bytes(f"score {version}".encode())
    manifest = Manifest(
        version=version,
        created_ms=created_ms,
        code_version="test",
        preset="tiny",
        tasks=("touch",),
        max_history=100,
        features={},
        tolerance=Tolerance(absolute=1e-4, measured=0),
        files={file.name: sha256(file.read_bytes()).hexdigest() for file in directory.iterdir()},
    )
    (directory / MANIFEST_NAME).write_text(manifest.model_dump_json())
    return directory


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def publish(registry: Registry, version: str, created_ms: int = 0) -> None:
    with registry.staging() as staged:
        registry.publish(stage(staged, version, created_ms))


def test_empty_registry_has_nothing(registry: Registry) -> None:
    assert registry.versions() == []
    assert registry.current() is None
    with pytest.raises(BundleError, match="no bundle v1"):
        registry.load("v1")


def test_published_is_not_yet_current(registry: Registry) -> None:
    publish(registry, "v1")
    assert registry.versions() == ["v1"]
    assert registry.current() is None
    registry.promote("v1")
    assert registry.current() == "v1"
    assert registry.load("v1").manifest.preset == "tiny"


def test_a_failed_staging_leaves_nothing(registry: Registry) -> None:
    with registry.staging() as staged:
        stage(staged, "v1")
    assert registry.versions() == []
    assert list((registry.root / "staging").iterdir()) == []


def test_a_version_is_published_once(registry: Registry) -> None:
    publish(registry, "v1")
    with pytest.raises(BundleError, match="already published"):
        publish(registry, "v1")


def test_rollback_walks_back_through_what_was_in_service(registry: Registry) -> None:
    for created, version in enumerate(("v1", "v2", "v3")):
        publish(registry, version, created)
        registry.promote(version)
    assert registry.rollback() == "v2"
    assert registry.current() == "v2"
    assert registry.rollback() == "v1"
    with pytest.raises(BundleError, match="no version was in service before v1"):
        registry.rollback()


def test_rollback_passes_over_a_promotion_that_a_crash_cut_short(registry: Registry) -> None:
    for version in ("v1", "v2"):
        publish(registry, version)
    registry.promote("v1")
    (registry.root / "promotions.json").write_text('["v1", "v2"]')
    registry.promote("v2")
    assert registry.rollback() == "v1"


def _flip(path: Path) -> None:
    (path / "score.onnx").write_bytes(b"other")


def _remove(path: Path) -> None:
    (path / "score.onnx").unlink()


def _add(path: Path) -> None:
    (path / "notes.txt").write_text("hello")


def _newer_schema(path: Path) -> None:
    text = (path / MANIFEST_NAME).read_text()
    (path / MANIFEST_NAME).write_text(text.replace('"input_schema_version":1', '"input_schema_version":99'))


def _no_manifest(path: Path) -> None:
    (path / MANIFEST_NAME).unlink()


def _broken_manifest(path: Path) -> None:
    (path / MANIFEST_NAME).write_text("{}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip, "score.onnx: sha256"),
        (_remove, "score.onnx"),
        (_add, "notes.txt"),
        (_newer_schema, "input schema 99"),
        (_no_manifest, "no manifest"),
        (_broken_manifest, "not readable"),
    ],
)
def test_a_damaged_bundle_is_refused(registry: Registry, damage: Callable[[Path], None], message: str) -> None:
    publish(registry, "v1")
    registry.promote("v1")
    publish(registry, "v2")
    damage(registry.root / "bundles" / "v2")
    with pytest.raises(BundleError, match=message):
        registry.promote("v2")
    assert registry.current() == "v1"


@pytest.mark.parametrize("version", ["", "../evil", "a/b", ".hidden", "x" * 101])
def test_a_version_is_no_path(registry: Registry, version: str) -> None:
    with pytest.raises(BundleError, match="is no version"):
        registry.load(version)


def test_what_is_staged_waits_to_be_published(registry: Registry) -> None:
    with registry.stage("v1") as directory:
        stage(directory, "v1")
        assert not registry.staged("v1").exists()
    assert registry.names() == []
    registry.publish(registry.staged("v1"))
    assert registry.versions() == ["v1"]
    assert not registry.staged("v1").exists()


def half(registry: Registry, version: str) -> None:
    with registry.stage(version) as directory:
        directory.mkdir()
        (directory / "encode.onnx").write_bytes(b"half")
        raise KeyboardInterrupt


def test_what_is_half_staged_is_cleared(registry: Registry) -> None:
    with pytest.raises(KeyboardInterrupt):
        half(registry, "v1")
    assert not registry.staged("v1").exists()
    with registry.stage("v1") as directory:
        stage(directory, "v1")
    registry.publish(registry.staged("v1"))
    with pytest.raises(KeyboardInterrupt):
        half(registry, "v2")
    registry.unstage("v2")
    assert list((registry.root / "staging").iterdir()) == []


def test_promotion_only_instead_of_what_is_expected(registry: Registry) -> None:
    for version in ("v1", "v2", "v3"):
        publish(registry, version)
    registry.promote("v1")
    registry.promote("v2", instead_of="v1")
    with pytest.raises(BundleError, match="v2 is in service, not v1 any more; v3 is not promoted"):
        registry.promote("v3", instead_of="v1")
    assert registry.current() == "v2"


def test_a_promotion_that_is_repeated_is_noted_once(registry: Registry) -> None:
    for version in ("v1", "v2"):
        publish(registry, version)
        registry.promote(version)
    registry.promote("v2")
    assert registry.promotions() == ["v1", "v2"]
    assert (registry.before(), registry.rollback()) == ("v1", "v1")
    assert registry.before() is None


def served(registry: Registry, count: int) -> None:
    for number in range(1, count + 1):
        publish(registry, f"v{number}", number)
        registry.promote(f"v{number}")


def test_pruning_never_takes_what_is_in_service_or_where_a_rollback_goes(registry: Registry) -> None:
    served(registry, 6)
    assert registry.rollback() == "v5"
    for number in (7, 8):
        publish(registry, f"v{number}", number)
    # v5 is in service, v4 and v3 were before it; v7 and v8 are the newest.
    assert registry.prune(keep=2, keep_served=2) == ["v1", "v2", "v6"]
    assert registry.versions() == ["v3", "v4", "v5", "v7", "v8"]
    assert list((registry.root / "staging").iterdir()) == []
    assert [registry.rollback(), registry.rollback()] == ["v4", "v3"]
    with pytest.raises(BundleError, match="no version was in service before v3"):
        registry.rollback()


def test_pruning_leaves_a_damaged_bundle_to_be_seen(registry: Registry) -> None:
    served(registry, 3)
    _broken_manifest(registry.root / "bundles" / "v1")
    assert registry.prune(keep=1, keep_served=1) == []
    assert registry.names() == ["v1", "v2", "v3"]
    with pytest.raises(BundleError, match=r"v1: manifest\.json is not readable"):
        registry.versions()


def test_a_manifest_of_a_newer_release_is_read(registry: Registry) -> None:
    publish(registry, "v1")
    path = registry.root / "bundles" / "v1" / MANIFEST_NAME
    path.write_text(path.read_text().replace('"preset"', '"what_comes_next":{},"preset"'))
    assert registry.load("v1").manifest.preset == "tiny"
