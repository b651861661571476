"""The whole loop once, small: real Kafka, real Flink, real ONNX Runtime, by the command that people run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from infra.cluster.processes import marked


@pytest.mark.cluster
def test_the_demo_proves_itself_and_leaves_no_process(tmp_path: Path) -> None:
    home = tmp_path / "home"
    longrank = Path(sys.executable).with_name("longrank")
    argv = [str(longrank), "demo", "--fraction", "0.04", "--home", str(home)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert marked(home) == []
    report = json.loads((home / "report.json").read_text())
    assert report["verify"]["mismatches"] == 0
    assert report["verify"]["checked"]["examples"] == report["log_requests"] > 800
    assert all(account["sent"] == account["found"] for account in report["accounts"])
    gauc = {(line["scorer"], line["history"]): line["gauc"] for line in report["quality"]}
    assert gauc["retrained", "all"] > gauc["untrained", "all"]
    assert "0 mismatches" in done.stdout
    assert (home / "report.html").read_text().count("<svg") == 4
