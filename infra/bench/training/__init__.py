"""Training at the device's speed; needs torch and numpy only, by `python -m infra.bench.training`."""
