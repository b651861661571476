"""Scores that were computed once are kept: the report is made again without any training."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from scorer.experiment.arrays import LogArrays
from scorer.experiment.plan import ExperimentPlan, mapping_of

#: Raised when the same settings mean other scores than before.
_VERSION: Final = 1
PARTS: Final = ("valid", "test")


@dataclass(frozen=True)
class Run:
    """One scorer with one seed."""

    name: str
    seed: int


class ScoreStore:
    """`ROOT/scores/NAME-KEY/PART-LENGTH.npy`: log odds of all candidates of a part's requests, float32 [t].

    The key says which settings, seed, split and data the scores come from; a scorer with other settings has another.

    Args:
        arrays: the directory of the log's arrays: part of the key by its contents.
    """

    def __init__(self, root: Path, plan: ExperimentPlan, log: LogArrays, arrays: Path) -> None:
        self._root, self._plan, self._log = root / "scores", plan, log
        digest = hashlib.sha256()
        for file in sorted(arrays.glob("*.npz")):
            digest.update(file.read_bytes())
        self._data = digest.hexdigest()
        split = plan.split
        if split.valid_from_ms is not None and split.test_from_ms is not None:
            self._split = log.time_split(split.valid_from_ms, split.test_from_ms)
            if split.logs_test_only:
                self._split = np.where((self._split == 2) & (log.split != 2), np.int8(-1), self._split)
        else:
            self._split = log.split

    def requests(self, part: str) -> NDArray[np.int64]:
        """The requests of `train`, `valid` or `test`, by time; int64 [n]."""
        return np.flatnonzero(self._split == ("train", *PARTS).index(part))

    def runs(self, name: str) -> list[Run]:
        """All seeds of a scorer."""
        return [Run(name, seed) for seed in self._plan.seeds_of(name)]

    def missing(self, run: Run) -> list[tuple[str, int]]:
        """(part, length) of the scores that are not there yet."""
        wanted = [(part, length) for length in self._plan.lengths for part in PARTS]
        return [(part, length) for part, length in wanted if not self._path(run, part, length).exists()]

    def save(self, run: Run, part: str, length: int, scores: NDArray[Any]) -> None:
        """Keeps scores [t], whole or not at all.

        Raises:
            ValueError: there is not one finite score for each candidate.
        """
        expected = int(np.diff(self._log.candidate_offsets)[self.requests(part)].sum())
        if scores.shape != (expected,) or not np.isfinite(scores).all():
            raise ValueError(f"{run.name}, seed {run.seed}: {part} at {length}: not {expected} finite scores")
        path = self._path(run, part, length)
        path.parent.mkdir(parents=True, exist_ok=True)
        # np.save would append .npy to any other name.
        draft = path.with_suffix(".new.npy")
        np.save(draft, scores.astype(np.float32))
        draft.replace(path)

    def load(self, run: Run, part: str, length: int) -> NDArray[np.float32]:
        """What `save` kept.

        Raises:
            FileNotFoundError: these scores are not there.
        """
        scores: NDArray[np.float32] = np.load(self._path(run, part, length), allow_pickle=False)
        return scores

    def keep_beside(self, run: Run, name: str, content: dict[str, Any]) -> None:
        """A small JSON file beside the scores of a run: its settings, its speed."""
        path = self._path(run, "any", 0).with_name(f"{name}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")

    def _path(self, run: Run, part: str, length: int) -> Path:
        split = mapping_of(self._plan.split)
        if not self._plan.split.logs_test_only:
            # Younger than the first scores that were kept: without it, their keys hold.
            del split["logs_test_only"]
        key = {
            "version": _VERSION,
            "data": self._data,
            "settings": mapping_of(self._plan.settings_of(run.name)),
            "split": split,
            "event_time": self._plan.event_time,
            "seed": run.seed,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
        name = re.sub(r"[^A-Za-z0-9_-]", "_", run.name)
        return self._root / f"{name}-{run.seed}-{digest}" / f"{part}-{length}.npy"
