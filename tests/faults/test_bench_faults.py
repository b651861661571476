"""The bench as people and CI run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LONGRANK = Path(sys.executable).with_name("longrank")


@pytest.mark.cluster
def test_five_seeded_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    argv = [LONGRANK, "bench", "faults", "--kills", "5", "--seed", "1", "--events", "12000", "--rate", "1000", "--json"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["bench"] == "faults"
    figures = report["figures"]
    assert (figures["kills"], figures["events"]) == (5, 12_000)
    assert [figures[name] for name in ("lost", "doubled", "gaps", "forks", "mismatches")] == [0, 0, 0, 0, 0]
    assert figures["accepted"] > 11_000
    recovery = figures["recovery_seconds"]
    # Five kills of four kinds: each kind has been.
    assert sum(victim["kills"] for victim in recovery["by_victim"].values()) == 5
    assert len(recovery["by_victim"]) == 4
    # A faultless run leaves nothing, not even its home.
    assert list(tmp_path.iterdir()) == []
