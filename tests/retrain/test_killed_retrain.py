"""A retrain that is killed again and again makes, in the end, the bundle that it would have made; and nobody ever sees
half of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from killed_runs import KILLS


def test_killed_at_every_turn_it_makes_the_same_bundle(untrained: Path, tmp_path: Path) -> None:
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
    assert result["last"]["report"]["outcome"] == result["calm"] == "promoted"
    # Without the first, which died before its plan was there.
    assert result["last"]["report"]["attempts"] == len(KILLS)
    killed, calm = result["bundles"]
    assert killed == calm
    assert len(killed) == 4
    assert result["promotions"] == [["untrained", version]] * 2
    run = f"work/runs/{version}"
    wanted = ["plan.json", "report.html", "report.json", "curve.csv"]
    assert {f"{run}/{name}" for name in wanted} <= set(result["left"])
    for path in result["left"]:
        assert path.startswith((run, "work/lock", "registry/promotions.json", "done.json")), path
        assert not path.endswith((".part", "dataset", "weights.pt", "examples.bin"))
