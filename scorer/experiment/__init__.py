"""The comparison of rankers on a recorded log: arrays, features, metrics, baselines; numpy and torch only."""
