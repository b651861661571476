"""From a finished loop to its report: everything is read back or measured, nothing assumed."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from infra.demo.kills import Victim
from infra.demo.loop import Loop
from infra.demo.quality import HISTORY_CUTS, Score, bundle_scores, quality, sample, served_scores, touch_counts
from infra.report.findings import Account, Quality, RunReport
from infra.verify.findings import BEHIND_WATERMARK
from schemas.history import History
from schemas.topics import EXAMPLES, HEARTBEAT_KEY, PARTITIONS, RESPONSES, SNAPSHOTS, UPDATES
from schemas.v1.ranking_pb2 import RankingResponse
from schemas.v1.sequence_pb2 import SequenceUpdate
from scorer.landing.bounded import read_bounded
from scorer.landing.examples import take_examples
from scorer.landing.resolve import build_dataset, store_resolver
from scorer.registry.registry import Registry
from scorer.sequences.follower import follow_to_end
from scorer.sequences.store import SequenceStore
from scorer.serving.engine import Engine
from scorer.training.dataset import RankingDataset

#: Later requests that are scored again with less history, by either model; the seed of the demo draws them.
_RESCORED: Final = 500
#: Points of a curve in the page.
_SAMPLES: Final = 2_000


def summarise(loop: Loop, seconds: dict[str, float]) -> RunReport:
    """The report of a loop that has ended with `verify`."""
    timings, log = loop.driver.timings, loop.log
    loss = _loss(loop.settings.home / "retrain" / "runs" / loop.retrained / "curve.csv")
    return RunReport(
        log=log.name,
        log_events=len(log.arrival_ms),
        log_requests=len(log.request_time_ms),
        users=log.users,
        seed=loop.settings.seed,
        model_versions=(loop.untrained, loop.retrained),
        seconds_by_step=seconds,
        events_per_second=loop.application.counts.deltas / timings.seconds,
        latency_ms=timings.summary(),
        quality=tuple(_quality(loop)),
        bytes_per_user=_bytes_per_user(loop),
        accounts=tuple(_accounts(loop)),
        kills=tuple(f"{kill.victim} after {kill.at_event:,} events" for kill in loop.kills),
        verify=loop.verify,
        retrain={
            "requests": loop.retrain["requests"],
            "train_seconds": loop.retrain["seconds"].get("train"),
            "holdout_gauc": round(loop.retrain["metrics"][f"{log.task}.gauc"], 4),
            "parity": f"{loop.retrain['parity']:.1e}",
        },
        samples={
            "progress_seconds": _thin([at for at, _ in timings.progress]),
            "progress_deltas": _thin([float(seen) for _, seen in timings.progress]),
            "event_to_visible_ms": _thin(sorted(timings.event_to_visible_ms)),
            "request_to_response_ms": _thin(sorted(timings.request_to_response_ms)),
            "loss_step": [float(step) for step in range(len(loss))],
            "loss": loss,
        },
    )


def _accounts(loop: Loop) -> Iterator[Account]:
    sent, found = loop.application.counts, loop.verify["events"]
    seen = {SequenceUpdate.FromString(r.value).event_id for r in read_bounded(loop.bootstrap, UPDATES.name)}
    held = np.flatnonzero(loop.plan.held_for > 0).tolist()
    arrived_late = sum(loop.application.event_id(event) in seen for event in held)
    yield Account(what="events of the log", sent=sent.events, found=found["accepted"], counted_in="accepted")
    yield Account(what="distinct deltas", sent=sent.events, found=len(seen), counted_in=UPDATES.name)
    yield Account(
        what="duplicates",
        sent=sent.duplicates,
        found=found["duplicates"],
        counted_in="not numbered again",
        at_least=any(kill.victim is Victim.BROKER for kill in loop.kills),
    )
    yield Account(what="events held back", sent=sent.late, found=arrived_late, counted_in=UPDATES.name)
    expected: Counter[str] = loop.plan.expected_reasons()
    letters: dict[str, int] = loop.verify["dead_letters"]
    for reason in sorted(expected.keys() | letters.keys()):
        what = f"malformed: {reason}"
        yield Account(what=what, sent=expected[reason], found=letters.get(reason, 0), counted_in="dead letters")
    checked = loop.verify["checked"]
    yield Account(what="requests", sent=sent.requests, found=sent.responses, counted_in="answered")
    yield Account(what="requests shown", sent=sent.impressions, found=checked["examples"], counted_in=EXAMPLES.name)
    yield behind_watermark(loop.verify)


def behind_watermark(verify: dict[str, Any]) -> Account:
    """Feedback whose record came later than the watermark allows: of a loop that keeps up, none.

    Args:
        verify: the verdict's JSON.
    """
    behind = sum(verify["repeated"][name] for name in BEHIND_WATERMARK)
    return Account(what="feedback behind the watermark", sent=0, found=behind, counted_in="verify")


def _bytes_per_user(loop: Loop) -> dict[str, float]:
    users = loop.log.users
    sizes: dict[str, float] = {}
    state = loop.rest.checkpoints(loop.jobs["sequence"].job_id).latest_size_bytes
    if state is not None:
        sizes["state (checkpoint)"] = state / users
    newest = {record.key: len(record.value) for record in read_bounded(loop.bootstrap, SNAPSHOTS.name)}
    if newest:
        sizes[f"snapshot ({len(newest):,} users have one)"] = float(np.mean(list(newest.values())))
    sizes["store"] = sum(path.stat().st_size for path in loop.trainer_store.rglob("*.sst")) / users
    return sizes


def _quality(loop: Loop) -> Iterator[Quality]:
    later = _later_requests(loop)
    registry = Registry(loop.registry)
    engines = [
        ("untrained", Engine(registry.load(loop.untrained), "cpu", threads=2)),
        ("retrained", Engine(registry.load(loop.retrained), "cpu", threads=2)),
    ]
    yield quality("log1p(count), all later requests", None, later, touch_counts(later, None))
    yield quality("retrained, as served", None, later, served_scores(later, _shown_responses(loop)))
    some = sample(later, _RESCORED, np.random.default_rng(loop.settings.seed))
    for cut in HISTORY_CUTS:
        yield quality("log1p(count)", cut, some, touch_counts(some, cut))
        for name, engine in engines:
            yield quality(name, cut, some, bundle_scores(some, cut, _scoring(engine)))


def _scoring(engine: Engine) -> Score:
    def score(
        history: History,
        first_seq_no: int,
        item_ids: NDArray[np.uint64],
        group_ids: NDArray[np.uint64],
        request_time_ms: int,
    ) -> NDArray[np.float32]:
        return engine.score(engine.encode(history, first_seq_no), item_ids, group_ids, request_time_ms)[:, 0]

    return score


def _later_requests(loop: Loop) -> RankingDataset:
    """The requests after the pause for the retrain, each with the history that its stamp names."""
    cut = take_examples(read_bounded(loop.bootstrap, EXAMPLES.name), {}, loop.pause_ms, 1 << 62)
    with SequenceStore(loop.trainer_store) as store:
        follow_to_end(loop.bootstrap, store, range(PARTITIONS))

        dataset, _ = build_dataset(cut.examples, store_resolver(store), (loop.log.task,), max_unresolved=0.0)
    return dataset


def _shown_responses(loop: Loop) -> dict[bytes, RankingResponse]:
    number = {name: index for index, name in enumerate(loop.log.request_id.tolist())}
    shown: dict[bytes, RankingResponse] = {}
    for record in read_bounded(loop.bootstrap, RESPONSES.name):
        if record.key != HEARTBEAT_KEY:
            response = RankingResponse.FromString(record.value)
            name = response.request_id.encode()
            if loop.application.response_id(number[name]) == response.response_id:
                shown[name] = response
    return shown


def _loss(path: Path) -> list[float]:
    with path.open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def _thin(values: list[float]) -> list[float]:
    """About `_SAMPLES` of the values, the first and the last among them."""
    if len(values) <= _SAMPLES:
        return values
    return [values[at] for at in np.linspace(0, len(values) - 1, _SAMPLES).astype(int).tolist()]
