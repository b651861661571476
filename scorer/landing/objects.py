"""Objects below one URL, whole or not at all: what a lake needs of a disk or an object store, through fsspec."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

#: What a killed process may leave on a local disk: `.<name>.<process id>.part`.
PART_SUFFIX: Final = ".part"


class LakeError(Exception):
    """The lake cannot be used as asked; the message says where and what to do."""


class Objects:
    """Named objects below a root; names are relative, with slashes. An object appears whole."""

    def __init__(self, url: str, **storage_options: Any) -> None:
        """
        Args:
            url: a path, or what fsspec takes: `file:///data/examples`, `s3://bucket/examples`, `memory://examples`.
            storage_options: for fsspec's file system: endpoint, credentials.

        Raises:
            LakeError: fsspec does not know the protocol, or its package is not installed.
        """
        self.url = url
        try:
            self._files, root = url_to_fs(url, **storage_options)
        except (ImportError, ValueError) as error:
            raise LakeError(f"{url}: {error}") from error
        self._root = root.rstrip("/")
        self._local = isinstance(self._files, LocalFileSystem)

    def names(self, folder: str = "") -> list[str]:
        """All below the folder at any depth, sorted; none if it is not there."""
        # Listings are cached, and others write here.
        self._files.invalidate_cache()
        return sorted(name.removeprefix(f"{self._root}/") for name in self._files.find(self._path(folder)))

    def exists(self, name: str) -> bool:
        """Whether the object is there now."""
        self._files.invalidate_cache()
        return bool(self._files.exists(self._path(name)))

    def read(self, name: str) -> bytes:
        """Its bytes. Raises FileNotFoundError."""
        content: bytes = self._files.cat_file(self._path(name))
        return content

    def open(self, name: str) -> Any:
        """A binary file to read and seek in; the caller closes it. Raises FileNotFoundError."""
        return self._files.open(self._path(name), "rb")

    def put(self, name: str, content: bytes) -> None:
        """Write or replace an object."""
        if self._local:
            _put_local(Path(self._path(name)), content, replace=True)
        else:
            self._files.pipe_file(self._path(name), content)

    def put_new(self, name: str, content: bytes) -> None:
        """Write an object that must not be there yet: of several writers one succeeds.

        That holds on local disks, in memory, and where fsspec's file system has a conditional put, as s3fs has. Others
        look first and then write, and need one writer at a time.

        Raises:
            FileExistsError: it is there.
        """
        if self._local:
            _put_local(Path(self._path(name)), content, replace=False)
        else:
            self._files.pipe_file(self._path(name), content, mode="create")

    def delete(self, name: str) -> None:
        """Remove an object; that another process was faster is no error."""
        try:
            self._files.rm_file(self._path(name))
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root


def _put_local(path: Path, content: bytes, *, replace: bool) -> None:
    """A file is visible while it is written: so under another name first, and safe on the disk before it counts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}{PART_SUFFIX}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            part.replace(path)
        else:
            # A link, unlike a rename, refuses a name that is taken.
            path.hardlink_to(part)
    finally:
        part.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
