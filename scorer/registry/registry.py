"""Model bundles on disk: published whole or not at all, one of them current.

<root>/bundles/<version>/     a bundle; never changes once it is there
<root>/current                a symbolic link to the bundle in service
<root>/promotions.json        versions in the order in which they were promoted, for rollback
<root>/staging/               what is being made, and what is made and not yet published
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from scorer.registry.manifest import INPUT_SCHEMA_VERSION, MANIFEST_NAME, Manifest

_BUNDLES: Final = "bundles"
_CURRENT: Final = "current"
_PROMOTIONS: Final = "promotions.json"
_STAGING: Final = "staging"
_PRUNED: Final = ".pruned-"
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class BundleError(Exception):
    """A bundle that cannot be served or published; the message names it and what is wrong with it."""


@dataclass(frozen=True)
class Bundle:
    """A checked bundle."""

    path: Path
    manifest: Manifest


def check_bundle(path: Path) -> Bundle:
    """The bundle in `path`, every checksum compared.

    Raises:
        BundleError: no manifest, another input schema, a file too many, missing or with another checksum.
    """
    manifest = _read_manifest(path)
    if manifest.input_schema_version != INPUT_SCHEMA_VERSION:
        raise BundleError(
            f"{path}: input schema {manifest.input_schema_version}, this code serves {INPUT_SCHEMA_VERSION}"
        )
    there = {file.name for file in path.iterdir()} - {MANIFEST_NAME}
    if differing := there ^ manifest.files.keys():
        raise BundleError(f"{path}: not the manifest's files: {', '.join(sorted(differing))}")
    for name, wanted in manifest.files.items():
        found = sha256((path / name).read_bytes()).hexdigest()
        if found != wanted:
            raise BundleError(f"{path / name}: sha256 is {found}, the manifest says {wanted}")
    return Bundle(path, manifest)


def _read_manifest(path: Path) -> Manifest:
    try:
        return Manifest.model_validate_json((path / MANIFEST_NAME).read_bytes())
    except FileNotFoundError as error:
        raise BundleError(f"{path}: no {MANIFEST_NAME}") from error
    except ValidationError as error:
        raise BundleError(f"{path}: {MANIFEST_NAME} is not readable: {error}") from error


class Registry:
    """The bundles below one root. Publishing and promoting are atomic; readers need no lock."""

    def __init__(self, root: Path) -> None:
        """Nothing need be there yet."""
        self.root = root

    def versions(self) -> list[str]:
        """Published versions, oldest first by their time of creation.

        Raises:
            BundleError: a bundle's manifest cannot be read.
        """
        manifests = [self.manifest(name) for name in self.names()]
        return [manifest.version for manifest in sorted(manifests, key=lambda m: (m.created_ms, m.version))]

    def names(self) -> list[str]:
        """What is in `bundles/`, in order of name; damaged ones among them. Reads no manifest."""
        bundles = self.root / _BUNDLES
        return sorted(path.name for path in bundles.iterdir()) if bundles.is_dir() else []

    def manifest(self, version: str) -> Manifest:
        """A published bundle's manifest, its files not compared: cheap, for lists.

        Raises:
            BundleError: there is none of that version, or it is not readable.
        """
        return _read_manifest(self._path(version))

    def current(self) -> str | None:
        """The version in service, None before the first promotion. Cheap: one readlink."""
        try:
            return Path(os.readlink(self.root / _CURRENT)).name
        except FileNotFoundError:
            return None

    def load(self, version: str) -> Bundle:
        """A published bundle, checked.

        Raises:
            BundleError: there is none of that version, or it is damaged.
        """
        path = self._path(version)
        if not path.is_dir():
            raise BundleError(f"{self.root}: no bundle {version}; there are {', '.join(self.names()) or 'none'}")
        bundle = check_bundle(path)
        if bundle.manifest.version != version:
            raise BundleError(f"{path}: its manifest says version {bundle.manifest.version}")
        return bundle

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A directory to make a bundle in, on the registry's own file system; what is not published is deleted."""
        base = self.root / _STAGING
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=base, ignore_cleanup_errors=True) as directory:
            yield Path(directory) / "bundle"

    def staged(self, version: str) -> Path:
        """Where `stage` leaves a version: there whole, or not at all.

        Raises:
            BundleError: this is no version.
        """
        self._path(version)
        return self.root / _STAGING / version

    @contextmanager
    def stage(self, version: str) -> Iterator[Path]:
        """A directory to make `version` in. What was made is then in `staged(version)`, also after a crash, for whoever
        publishes it; what a crash left half made is cleared by the next who makes that version."""
        target = self.staged(version)
        partial = target.with_name(f".{version}.partial")
        for old in (partial, target):
            if old.exists():
                shutil.rmtree(old)
        partial.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.rename(target)

    def unstage(self, version: str) -> None:
        """Delete what `stage` made or half made of a version that will not be published."""
        target = self.staged(version)
        for left in (target, target.with_name(f".{version}.partial")):
            if left.exists():
                shutil.rmtree(left)

    def publish(self, staged: Path) -> Bundle:
        """Move a staged bundle in under its manifest's version: whole or not at all, also at a crash.

        Raises:
            BundleError: it does not check, or its version is already there.
        """
        bundle = check_bundle(staged)
        target = self._path(bundle.manifest.version)
        if target.exists():
            raise BundleError(f"{self.root}: version {bundle.manifest.version} is already published")
        for file in staged.iterdir():
            _sync(file)
        _sync(staged)
        target.parent.mkdir(parents=True, exist_ok=True)
        staged.rename(target)
        _sync(target.parent)
        return Bundle(target, bundle.manifest)

    def promote(self, version: str, *, instead_of: str | None = None) -> None:
        """Put a published version in service, in one step.

        Args:
            instead_of: only if this one still is in service; None: whichever is.

        Raises:
            BundleError: there is none of that version, it is damaged, or another one is in service than `instead_of`.
        """
        current, history = self.current(), self.promotions()
        if instead_of is not None and current != instead_of:
            raise BundleError(
                f"{self.root}: {current} is in service, not {instead_of} any more; {version} is not promoted"
            )
        # Killed in between, it was already noted.
        self._serve(version, history if history[-1:] == [version] else [*history, version])

    def rollback(self) -> str:
        """Put the version in service that was before the current one; returns it. Again: the one before that.

        Raises:
            BundleError: nothing was in service before, or it is damaged.
        """
        history = self._served_before()
        if not history:
            raise BundleError(f"{self.root}: no version was in service before {self.current()}")
        self._serve(history[-1], history)
        return history[-1]

    def before(self) -> str | None:
        """Where `rollback` goes; None: nowhere."""
        history = self._served_before()
        return history[-1] if history else None

    def _served_before(self) -> list[str]:
        """The promotions before the current one, up to the newest that is not it and still there."""
        history, current = self.promotions(), self.current()
        while history and history[-1] != current:
            history.pop()
        while history and (history[-1] == current or not self._path(history[-1]).is_dir()):
            history.pop()
        return history

    def prune(self, keep: int, keep_served: int) -> list[str]:
        """Delete old bundles; returns the deleted versions.

        Never the one in service, nor the `keep_served` that were in service before it: a rollback goes there. Nor one
        that is damaged: somebody should see it.

        Args:
            keep: so many of the newest stay, whatever became of them.
        """
        versions = self._readable()
        served = [version for version in dict.fromkeys(reversed(self.promotions())) if version != self.current()]
        wanted = {*versions[-keep:], *served[:keep_served], self.current()}
        dropped = [version for version in versions if version not in wanted]
        base = self.root / _STAGING
        base.mkdir(parents=True, exist_ok=True)
        for version in dropped:
            # Out of sight in one step, then at leisure; a crash leaves it to the next `prune`.
            self._path(version).rename(base / f"{_PRUNED}{version}")
        for left in base.glob(f"{_PRUNED}*"):
            shutil.rmtree(left)
        return dropped

    def _readable(self) -> list[str]:
        manifests = []
        for name in self.names():
            with suppress(BundleError):
                manifests.append(self.manifest(name))
        return [manifest.version for manifest in sorted(manifests, key=lambda m: (m.created_ms, m.version))]

    def _serve(self, version: str, promotions: list[str]) -> None:
        self.load(version)
        # The history first: what a crash in between leaves above the current version, rollback passes over.
        self._replace(_PROMOTIONS, lambda path: path.write_text(json.dumps(promotions) + "\n"))
        self._replace(_CURRENT, lambda path: path.symlink_to(Path(_BUNDLES) / version))

    def promotions(self) -> list[str]:
        """Versions in the order in which they were promoted, without those that were rolled back."""
        try:
            promotions: list[str] = json.loads((self.root / _PROMOTIONS).read_text())
        except FileNotFoundError:
            return []
        return promotions

    def _path(self, version: str) -> Path:
        if not _VERSION.fullmatch(version):
            raise BundleError(f"{version!r} is no version: letters, digits, '.', '_' and '-', at most 100")
        return self.root / _BUNDLES / version

    def _replace(self, name: str, make: Callable[[Path], object]) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        part = self.root / f".{name}.part"
        # A crash may have left one.
        part.unlink(missing_ok=True)
        make(part)
        part.replace(self.root / name)
        _sync(self.root)


def _sync(path: Path) -> None:
    """Make a file, or a directory's names, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
