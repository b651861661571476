"""A process that has loaded one version of the code unpickles a function with the version it was pickled with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import streaming.flink.fresh_code

PICKLE = """
import sys, cloudpickle
from pathlib import Path
from streaming.probe import Probe
Path(sys.argv[1]).write_bytes(cloudpickle.dumps(Probe("kept")))
"""
UNPICKLE = """
import pickle, sys
from pathlib import Path
import streaming.probe
print(streaming.probe.VERSION)
for path in sys.argv[1:]:
    probe = pickle.loads(Path(path).read_bytes())
    print(probe.version(), probe.attribute, streaming.probe.VERSION)
"""


def code(root: Path, version: str) -> Path:
    """A version of the packages: just what it takes."""
    for package in ("schemas", "streaming", "streaming/flink"):
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").touch()
    shutil.copy(streaming.flink.fresh_code.__file__, root / "streaming" / "flink" / "fresh_code.py")
    (root / "streaming" / "probe.py").write_text(
        f"from streaming.flink.fresh_code import Shipped\nVERSION = {version!r}\n"
        "class Probe(Shipped):\n"
        "    def __init__(self, attribute):\n        self.attribute = attribute\n"
        "    def version(self):\n        return VERSION\n"
    )
    return root


def run(script: str, paths: list[Path], *arguments: Path) -> subprocess.CompletedProcess[str]:
    setup = f"import sys\nsys.path[:0] = {[str(path) for path in paths]!r}\n"
    words = [sys.executable, "-c", setup + script, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=paths[0].parent)


@pytest.fixture
def versions(tmp_path: Path) -> tuple[Path, Path]:
    return code(tmp_path / "one", "1"), code(tmp_path / "two", "2")


def pickled(root: Path) -> Path:
    path = root.parent / f"{root.name}.pickle"
    done = run(PICKLE, [root], path)
    assert done.returncode == 0, done.stderr
    return path


def test_each_function_runs_the_code_it_came_with(versions: tuple[Path, Path]) -> None:
    one, two = versions
    done = run(UNPICKLE, [one, two], pickled(one), pickled(two), pickled(two), pickled(one))
    assert done.returncode == 0, done.stderr
    # The module that this process imported itself stays what it was; every function brings its own.
    assert done.stdout.splitlines() == ["1", "1 kept 1", "2 kept 1", "2 kept 1", "1 kept 1"]


def test_the_old_code_may_be_gone(versions: tuple[Path, Path]) -> None:
    one, two = versions
    vanish = f"import shutil\nshutil.rmtree({str(one)!r})\n"
    script = UNPICKLE.replace("for path", vanish + "for path")
    done = run(script, [one, two], pickled(two))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["1", "2 kept 1"]


def test_the_same_code_may_be_gone_before_all_of_it_was_imported(versions: tuple[Path, Path]) -> None:
    one, _ = versions
    (one / "streaming" / "other.py").touch()
    shutil.copytree(one, one.with_name("copy"))
    path = pickled(one)
    script = f"""
import pickle, shutil, sys
from pathlib import Path
content = Path(sys.argv[1]).read_bytes()
print(pickle.loads(content).version())
shutil.rmtree({str(one)!r})
print(pickle.loads(content).version())
import streaming.other
"""
    done = run(script, [one, one.with_name("copy")], path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["1", "1"]


def test_missing_code_is_refused(versions: tuple[Path, Path]) -> None:
    one, two = versions
    path = pickled(two)
    shutil.rmtree(two)
    done = run(UNPICKLE, [one], path)
    assert done.returncode != 0
    assert "not on this TaskManager's Python path" in done.stderr
