"""Boosted trees on the hand-made features: what a careful person builds without any sequence model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from scorer.experiment.arrays import LogArrays
from scorer.experiment.features import HistoryFeatures
from scorer.experiment.plan import BoostingPlan

#: Requests whose features are in memory at once while scoring.
_CHUNK: Final = 20_000
#: From here on a history is long, where a share of long ones is asked for.
_LONG: Final = 1_000


def train_sample(log: LogArrays, train: NDArray[np.int64], plan: BoostingPlan, seed: int) -> NDArray[np.int64]:
    """The training requests, rising: all of `train`, or a sample with the wanted share of long histories."""
    rng = np.random.default_rng(seed)
    wanted = min(plan.train_requests or len(train), len(train))
    if plan.long_share is None:
        return np.sort(rng.choice(train, wanted, replace=False))
    is_long = log.history_length[train] >= _LONG
    long_ones, short_ones = train[is_long], train[~is_long]
    long_count = min(round(wanted * plan.long_share), len(long_ones))
    short_count = min(wanted - long_count, len(short_ones))
    parts = rng.choice(long_ones, long_count, replace=False), rng.choice(short_ones, short_count, replace=False)
    return np.sort(np.concatenate(parts))


def fit(
    features: HistoryFeatures, log: LogArrays, train: NDArray[np.int64], plan: BoostingPlan, length: int, seed: int
) -> HistGradientBoostingClassifier:
    """Trees on windows of `length` events; binary cross-entropy over all candidates.

    Raises:
        ValueError: no requests to train on, or candidates of one label only.
    """
    sample = train_sample(log, train, plan, seed)
    labels = log.label[log.targets_of(sample)]
    if len(np.unique(labels)) < 2:
        raise ValueError(f"log {log.name}: boosting needs training requests with both labels; there are {len(sample)}")
    model = HistGradientBoostingClassifier(
        max_iter=plan.trees,
        learning_rate=plan.learning_rate,
        max_leaf_nodes=plan.leaves,
        min_samples_leaf=plan.min_leaf,
        l2_regularization=plan.l2,
        # Stopping early would look at a random part of the candidates, not at other users or later times.
        early_stopping=False,
        random_state=seed,
    )
    return model.fit(features.build(plan.features, sample, length), labels)


def predict(
    model: HistGradientBoostingClassifier,
    features: HistoryFeatures,
    requests: Sequence[int] | NDArray[np.int64],
    plan: BoostingPlan,
    length: int,
    on_requests: Callable[[int], object] = lambda _: None,
) -> NDArray[np.float32]:
    """Log odds of all candidates of `requests` in their order, float32 [t]; tells after each chunk how many it had."""
    scores = [np.zeros(0, dtype=np.float32)]
    for at in range(0, len(requests), _CHUNK):
        chunk = np.asarray(requests[at : at + _CHUNK], dtype=np.int64)
        built = features.build(plan.features, chunk, length)
        scores.append(model.decision_function(built).astype(np.float32))
        on_requests(len(chunk))
    return np.concatenate(scores)
