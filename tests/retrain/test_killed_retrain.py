"""A retrain that is killed again and again makes, in the end, the bundle that it would have made; and nobody ever sees
half of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from killed_runs import KILLS
from retrain_world import Night


def files(bundle: Path) -> dict[str, str]:
    """Name -> sha256."""
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in bundle.iterdir()}


def test_killed_at_every_turn_it_makes_the_same_bundle(untrained: Path, the_night: Night, tmp_path: Path) -> None:
    here, repository = Path(__file__).parent, Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(here / "killed_runs.py"), str(untrained), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{repository}:{here}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout.splitlines()[-1])

    assert len(KILLS) >= 10
    version = result["last"]["report"]["version"]
    for number, attempt in enumerate(result["attempts"]):
        assert attempt["signal"] == signal.SIGKILL, (attempt, done.stderr)
        assert attempt["versions"] in (["untrained"], ["untrained", version])
        assert attempt["current"] in attempt["versions"]
        # Once there, it stays.
        if number and version in result["attempts"][number - 1]["versions"]:
            assert version in attempt["versions"]
    assert result["last"]["status"] == 0, done.stderr
    assert result["last"]["report"]["outcome"] == "promoted"
    # Without the first, which died before its plan was there.
    assert result["last"]["report"]["attempts"] == len(KILLS)
    # That of the night that nobody disturbed, in another process.
    assert version == the_night.report.version
    assert files(tmp_path / "registry" / "bundles" / version) == files(the_night.registry.root / "bundles" / version)
    assert result["promotions"] == ["untrained", version]
    run = f"work/runs/{version}"
    wanted = ["plan.json", "report.html", "report.json", "curve.csv"]
    assert {f"{run}/{name}" for name in wanted} <= set(result["left"])
    for path in result["left"]:
        assert path.startswith((run, "work/lock", "registry/promotions.json", "done.json")), path
        assert not path.endswith((".part", "dataset", "weights.pt", "examples.bin"))
