"""`python -m infra.bench.training`, on a machine with torch and numpy only; `longrank bench training` calls it too."""

from __future__ import annotations

import argparse
import json
import sys

import torch

from infra.bench.training.measure import Work, measure, tiny
from scorer.features import FeatureSettings
from scorer.model import ModelSettings


def main(argv: list[str]) -> int:
    """Measures and prints one JSON object on the last line."""
    parser = argparse.ArgumentParser(prog="longrank bench training", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--d", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--mean", type=int, default=2_000, help="tokens of a request on average")
    parser.add_argument("--longest", type=int, default=10_000)
    parser.add_argument("--targets", type=int, default=40, help="of a request")
    parser.add_argument("--few-targets", type=int, default=8)
    parser.add_argument("--step-tokens", type=int, default=131_072)
    parser.add_argument("--steps", type=int, default=20, help="timed at a time")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="a few small steps, to see that it works")
    given = parser.parse_args(argv)
    device = torch.device(given.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    work = Work(
        model=ModelSettings(
            d=given.d, layers=given.layers, heads=given.heads, head_dim=64, table_dim=16 if given.tiny else 64
        ),
        features=FeatureSettings(),
        device=device,
        mean=given.mean,
        longest=given.longest,
        step_tokens=given.step_tokens,
        targets=given.targets,
        few_targets=given.few_targets,
        events=2_000_000,
        steps=given.steps,
        repeats=given.repeats,
        compiled=device.type == "cuda",
        seed=given.seed,
    )
    found = measure(tiny(work) if given.tiny else work, lambda line: print(line, file=sys.stderr, flush=True))
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    figures = {"device": name, **{key: value for key, value in vars(given).items() if key != "device"}}
    found["figures"] = figures | found["figures"]
    print(json.dumps({"bench": "training", **found}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
