"""`longrank bench training` says what it measured, on any machine."""

from __future__ import annotations

import json
import subprocess
import sys


def test_the_bench_prints_its_figures_as_the_last_line() -> None:
    argv = [sys.executable, "-m", "infra.bench.training", "--tiny", "--device", "cpu"]
    small = ["--d", "32", "--layers", "2", "--heads", "2"]
    done = subprocess.run([*argv, *small], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["bench"] == "training"
    assert found["limits"]["gemm_flops_per_second"] > 0
    assert set(found["ratios"]) == {
        "share_of_gemm",
        "equal_share_of_gemm",
        "ragged_to_equal",
        "targets_to_pointwise",
        "few_targets_to_pointwise",
        "loader_to_training",
    }
    assert all(value > 0 for value in found["ratios"].values())


def test_it_needs_torch_and_numpy_only() -> None:
    """What a machine without the rest would miss: every module that is loaded comes from these, or from us."""
    code = (
        "import sys; sys.argv = ['x', '--help']\n"
        "import infra.bench.training.__main__\n"
        "import scorer.training.distill\n"
        "bad = {'pydantic', 'pyarrow', 'kafka', 'pyflink', 'google.protobuf', 'rocksdict', 'click', 'rich'}\n"
        "print(sorted(bad & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
