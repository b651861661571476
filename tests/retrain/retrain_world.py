"""A topic of examples in memory, with a rule to learn: of a request's candidates, the user takes those he has touched
before. And a registry with an untrained model in service, made once per process."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from infra.retrain.outcome import RetrainReport
from infra.retrain.pipeline import Retrain
from infra.retrain.settings import RetrainSettings
from schemas import SCHEMA_VERSION
from schemas.history import EVENT_BYTES, HAS_GROUP, HISTORY_DTYPE
from schemas.partitioner import partition_of, user_key
from schemas.topics import EXAMPLES, PARTITIONS
from schemas.v1.ranking_pb2 import Candidates, Stamp
from schemas.v1.training_pb2 import TaskLabels, TrainingExample
from scorer.export import export_bundle
from scorer.features import FeatureSettings
from scorer.landing.bounded import Landed, TopicBounds
from scorer.landing.resolve import Resolver
from scorer.model import PRESETS, ModelSettings, model_settings
from scorer.registry.registry import Registry
from scorer.training.settings import TrainingSettings
from scorer.training.train import new_model

DAY_MS = 86_400_000
#: Midnight.
START_MS = 19_676 * DAY_MS
FEATURES = FeatureSettings(item_buckets=64, group_buckets=16, code_bits=64)
#: A model whose export takes half as long as that of the smallest real one: a layer less.
PRESET = "planted"
PRESETS[PRESET] = ModelSettings(d=32, layers=1, heads=2, head_dim=48, table_dim=4)
_EPOCH = 1 << 32


def settings(**changes: Any) -> RetrainSettings:
    """Bounds that the planted rule meets after a second of training."""
    fields: dict[str, Any] = {
        "preset": PRESET,
        "features": FEATURES,
        "training": TrainingSettings(epochs=1, min_history=8, max_history=64, learning_rate=4e-3),
        "settle_ms": 0,
        "max_history": 50,
        "min_requests": 100,
        "gate": {"min_gauc": 0.5, "max_calibration_error": 3.0, "label_window_requests": 50},
        "parity": {"requests": 4, "bf16_requests": 16},
        "shadow": {"requests": 30},
    }
    return RetrainSettings.model_validate(fields | changes)


class MemorySource:
    """What a run reads, in lists; `grow` is a day's traffic."""

    def __init__(self, users: int = 25, seed: int = 0) -> None:
        self.topic_id = "t1"
        self.records: dict[int, list[Landed]] = {partition: [] for partition in range(PARTITIONS)}
        self.rows: dict[int, Any] = {}
        self.now_ms = START_MS
        self._rng = np.random.default_rng(seed)
        self._users = users

    def grow(self, requests_per_user: int = 12, positive: float = 0.4, tasks: tuple[str, ...] = ("touch",)) -> None:
        """One day in which every user acts three times before each of his requests."""
        rng, end_ms = self._rng, self.now_ms + DAY_MS
        for user in range(1, self._users + 1):
            for time_ms in np.sort(rng.integers(self.now_ms, end_ms, requests_per_user)).tolist():
                fresh = np.zeros(3, dtype=HISTORY_DTYPE)
                fresh["item_id"] = rng.integers(1, 1_000, 3)
                fresh["group_id"] = fresh["item_id"] % 10 + 1
                fresh["action"], fresh["fields"], fresh["event_time_ms"] = 1, HAS_GROUP, time_ms - 1
                known = np.concatenate([self.rows.get(user, fresh[:0]), fresh])
                self.rows[user] = known
                labels = (rng.random(6) < positive).astype(np.uint8)
                items = np.where(labels, rng.choice(known["item_id"], 6), rng.integers(1_000, 2_000, 6))
                self.add(user, time_ms, len(known), items.astype("<u8"), labels, tasks)
        for partition, records in self.records.items():
            # As the job writes them: by time, more or less.
            records.sort(key=lambda record: TrainingExample.FromString(record.value).request_time_ms)
            self.records[partition] = [record._replace(offset=at) for at, record in enumerate(records)]
        self.now_ms = end_ms

    def add(self, user: int, time_ms: int, seq_no: int, items: Any, labels: Any, tasks: tuple[str, ...]) -> None:
        key = user_key(user)
        partition = partition_of(key, PARTITIONS)
        example = TrainingExample(
            schema_version=SCHEMA_VERSION,
            request_id=f"{user}-{time_ms}-{seq_no}",
            user_id=user,
            request_time_ms=time_ms,
            label_version=1,
            targets=Candidates(item_id=items.tobytes()),
            labels=[TaskLabels(task=task, labels=labels.tobytes(), weight=1.0) for task in tasks],
            stamp=Stamp(epoch=_EPOCH, first_seq_no=1, seq_no=seq_no, length=seq_no),
        )
        offset = len(self.records[partition])
        self.records[partition].append(Landed(EXAMPLES.name, partition, offset, 0, key, example.SerializeToString()))

    def bounds(self) -> TopicBounds:
        return TopicBounds(self.topic_id, {p: (0, len(records)) for p, records in self.records.items()})

    def examples(self, offsets: Mapping[int, tuple[int, int]]) -> Iterator[Landed]:
        for partition, (first, end) in offsets.items():
            yield from self.records[partition][first:end]

    @contextmanager
    def histories(self) -> Iterator[Resolver]:
        def resolve(user_id: int, stamp: Stamp) -> bytes:
            found: bytes = self.rows[user_id].tobytes()
            return found[: stamp.seq_no * EVENT_BYTES]

        yield resolve


def registry_with_untrained(root: Path, cache: Path) -> Registry:
    """A registry with an untrained model in service; exported once into `cache`."""
    if not cache.exists():
        registry = Registry(cache)
        model = new_model(model_settings(PRESET), FEATURES, ("touch",), seed=0)
        with registry.staging() as staged:
            export_bundle(
                model, staged, version="untrained", preset=PRESET, created_ms=1, code_version="test", max_history=50
            )
            registry.publish(staged)
        registry.promote("untrained")
    shutil.copytree(cache, root, symlinks=True)
    return Registry(root)


def retrain(
    source: MemorySource, registry: Registry, work: Path, of: RetrainSettings | None = None, **more: Any
) -> Retrain:
    """On this source, quiet."""
    return Retrain(source, registry, work, of or settings(), Console(file=io.StringIO()), **more)


@dataclass(frozen=True)
class Night:
    """A retrain that went well, and where it left everything."""

    root: Path
    report: RetrainReport

    @property
    def registry(self) -> Registry:
        return Registry(self.root / "registry")

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def run(self) -> Path:
        return self.work / "runs" / self.report.version
