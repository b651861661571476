"""The published bundle answers requests of the holdout on the serving path, beside the one in service.

Each request goes the whole way that it would go in a scorer: its bytes are parsed and checked, its history is encoded
by ONNX Runtime or extended from what was kept of the user, the response is built and read back. No torch, no Kafka.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from infra.retrain.runs import Run
from infra.retrain.settings import ShadowSettings
from schemas import SCHEMA_VERSION
from schemas.digest import extend_digest_over, origin_digest
from schemas.partitioner import partition_of, user_key
from schemas.topics import PARTITIONS
from schemas.v1.ranking_pb2 import Candidates, RankingRequest, RankingResponse
from scorer.registry.registry import Bundle
from scorer.sequences.reads import ServedHistory
from scorer.serving.batch import ReadHistory, score_batch
from scorer.serving.desk import Ledger, Waiting
from scorer.serving.engine import Engine
from scorer.serving.kept import KeptEncodings
from scorer.serving.models import Model
from scorer.serving.requests import Arrival, parse_request
from scorer.serving.settings import ServingSettings
from scorer.training.dataset import RankingDataset

_SHADOW: Final = "shadow.json"


class Shadowed(BaseModel):
    """What came of it; the figures of each task under the task's name."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    requests: int
    targets: int
    #: Requests whose user was extended, not encoded anew.
    warm: int
    #: Largest difference of a score from what torch computes.
    difference: float
    #: Mean score over that of the model in service, and the largest gap between their distributions.
    mean_change: dict[str, float]
    distance: dict[str, float]
    #: Of a request on the serving path, of the new bundle and of the one in service; one request at a time.
    p50_ms: float
    p99_ms: float
    p50_ms_in_service: float
    p99_ms_in_service: float
    #: Why the bundle is not promoted; none: it may be.
    reasons: tuple[str, ...]

    def figures(self) -> dict[str, float]:
        """For the report."""
        flat: dict[str, float] = {"requests": self.requests, "warm": self.warm, "difference": self.difference}
        flat |= {f"{task}.mean_change": value for task, value in self.mean_change.items()}
        flat |= {f"{task}.distance": value for task, value in self.distance.items()}
        return flat | {
            name: getattr(self, name) for name in ("p50_ms", "p99_ms", "p50_ms_in_service", "p99_ms_in_service")
        }


class Answers(NamedTuple):
    """Scores [T, tasks], milliseconds [R], and how many requests found their user encoded."""

    scores: NDArray[np.float32]
    ms: NDArray[np.float64]
    warm: int


def sample(holdout: RankingDataset, most: int) -> RankingDataset:
    """The newest requests of the users who came last, at most `most`, in order of time: users whole as far as it goes,
    so that histories are extended as in service."""
    last = np.lexsort((np.arange(len(holdout)), holdout.request_time_ms))[::-1]
    _, first_seen = np.unique(holdout.user_id[last], return_index=True)
    order_of_user = {int(holdout.user_id[last[at]]): rank for rank, at in enumerate(np.sort(first_seen).tolist())}
    rank = np.array([order_of_user[int(user)] for user in holdout.user_id])
    chosen = np.lexsort((-holdout.request_time_ms, rank))[:most]
    return holdout.select(chosen[np.lexsort((chosen, holdout.request_time_ms[chosen]))])


def shadow(
    run: Run,
    bundle: Bundle,
    in_service: Bundle,
    requests: RankingDataset,
    expected: NDArray[np.float32],
    settings: ShadowSettings,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Let both answer, and judge.

    Args:
        requests: see `sample`.
        expected: what torch computes for them, [T, tasks].
    """
    new, old = (answer(serving(which, settings), requests, clock) for which in (bundle, in_service))
    tasks, tasks_there = bundle.manifest.tasks, in_service.manifest.tasks
    both = [task for task in tasks if task in tasks_there]
    pairs = {task: (new.scores[:, tasks.index(task)], old.scores[:, tasks_there.index(task)]) for task in both}
    means = {task: float(now.mean(dtype=np.float64) / was.mean(dtype=np.float64)) for task, (now, was) in pairs.items()}
    distances = {task: distance(now, was) for task, (now, was) in pairs.items()}
    difference = float(np.abs(new.scores - expected).max())
    # A model that was never trained, or is broken, answers anything: to be unlike it is no fault.
    comparable = bool(in_service.manifest.training.requests) and bool(np.isfinite(old.scores).all())
    shadowed = Shadowed(
        requests=len(requests),
        targets=len(requests.target_item_id),
        warm=new.warm,
        difference=difference,
        mean_change=means,
        distance=distances,
        p50_ms=float(np.quantile(new.ms, 0.5)),
        p99_ms=float(np.quantile(new.ms, 0.99)),
        p50_ms_in_service=float(np.quantile(old.ms, 0.5)),
        p99_ms_in_service=float(np.quantile(old.ms, 0.99)),
        reasons=tuple(judge_answers(tasks, new.scores, difference, means, distances, settings, comparable=comparable)),
    )
    run.write(_SHADOW, shadowed.model_dump_json())


def shadowed(run: Run) -> Shadowed:
    """What `shadow` found."""
    return Shadowed.model_validate_json((run.path / _SHADOW).read_bytes())


def judge_answers(
    tasks: tuple[str, ...],
    scores: NDArray[np.float32],
    difference: float,
    means: dict[str, float],
    distances: dict[str, float],
    settings: ShadowSettings,
    *,
    comparable: bool,
) -> Iterator[str]:
    """Why the bundle is not to be promoted.

    Args:
        scores: [T, tasks].
        difference: largest, from what the evaluation computed.
        means, distances: see `Shadowed`.
        comparable: to what is in service.
    """
    if not np.isfinite(scores).all():
        yield f"shadow: {np.count_nonzero(~np.isfinite(scores))} of {scores.size} scores are not finite"
        return
    if not difference <= settings.max_difference:
        yield (
            f"shadow: a score is {difference:.2e} away from what the evaluation computed, "
            f"allowed are {settings.max_difference:.2e}"
        )
    for at, task in enumerate(tasks):
        if len(scores) > 1 and scores[:, at].min() == scores[:, at].max():
            yield f"shadow: {task}: all {len(scores)} scores are {scores[0, at]:.4g}"
    if not comparable:
        return
    bound = settings.max_mean_change
    for task, change in means.items():
        if not 1 / bound <= change <= bound:
            yield f"shadow: {task}: the mean score is {change:.2f} times that in service, allowed is {bound} either way"
        if not distances[task] <= settings.max_distance:
            yield (
                f"shadow: {task}: the scores' distribution is {distances[task]:.2f} away from that in service, "
                f"allowed are {settings.max_distance}"
            )


def serving(bundle: Bundle, settings: ShadowSettings) -> Engine:
    """A bundle as a scorer runs it, warmed up.

    Raises:
        DeviceError: the device cannot be used.
    """
    engine = Engine(bundle, settings.device)
    engine.warm_up()
    return engine


def distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Kolmogorov and Smirnov's: the largest gap between the two cumulative distributions, 0 to 1."""
    at = np.sort(np.concatenate([one, other]))
    shares = [np.searchsorted(np.sort(scores), at, side="right") / len(scores) for scores in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def answer(model: Model, requests: RankingDataset, clock: Callable[[], float] = time.perf_counter) -> Answers:
    """Every request alone, in order of time, as a scorer that is not busy takes them."""
    settings = ServingSettings()
    kept = KeptEncodings(settings.kept_bytes)
    scores = np.empty((len(requests.target_item_id), len(model.tasks)), dtype=np.float32)
    ms = np.empty(len(requests))
    warm = 0
    for row, served in enumerate(_served(requests)):
        span = slice(requests.target_offsets[row], requests.target_offsets[row + 1])
        arrival = _arrival(requests, row, span)
        started = clock()
        request = parse_request(arrival, settings.limits)
        waiting = Waiting(request, Ledger(arrival.partition), 0.0)
        (scored,) = score_batch([waiting], model, _reader(served), kept, clock)
        assert isinstance(scored.outcome, RankingResponse), "the request names no task"
        response = RankingResponse.FromString(scored.outcome.SerializeToString())
        ms[row] = (clock() - started) * 1_000
        warm += scored.encoding == "warm"
        for at, of_task in enumerate(response.scores):
            scores[span, at] = np.frombuffer(of_task.scores, "<f4")
    return Answers(scores, ms, warm)


def _arrival(requests: RankingDataset, row: int, span: slice) -> Arrival:
    user, time_ms = int(requests.user_id[row]), int(requests.request_time_ms[row])
    key = user_key(user)
    message = RankingRequest(
        schema_version=SCHEMA_VERSION,
        request_id=requests.request_id[row].decode(),
        user_id=user,
        request_time_ms=time_ms,
        candidates=Candidates(
            item_id=requests.target_item_id[span].astype("<u8").tobytes(),
            group_id=requests.target_group_id[span].astype("<u8").tobytes(),
        ),
    )
    return Arrival(partition_of(key, PARTITIONS), row, time_ms, key, message.SerializeToString(), 0.0)


def _served(requests: RankingDataset) -> Iterator[ServedHistory]:
    """Each request's history. A dataset has no digests: here they are counted from the user's first request in it, and
    anew where its events are not in one piece."""
    last: dict[int, tuple[int, int, int, int]] = {}
    for row in range(len(requests)):
        user = int(requests.user_id[row])
        begin, end = int(requests.history_begin[row]), int(requests.history_end[row])
        epoch, before_begin, before_end, digest = last.get(user, (0, 0, -1, 0))
        if before_begin <= begin <= before_end <= end:
            digest = extend_digest_over(digest, requests.events[before_end:end].tobytes())
        else:
            epoch, digest = epoch + 1, origin_digest(user, epoch + 1)
        last[user] = epoch, begin, end, digest
        seq_no = int(requests.seq_no[row])
        yield ServedHistory(
            np.asarray(requests.events[begin:end]), epoch, seq_no - (end - begin) + 1, seq_no, digest, stale=False
        )


def _reader(served: ServedHistory) -> ReadHistory:
    """A store that holds this user's history and no other."""

    def read(_: int, most: int) -> ServedHistory:
        if len(served.rows) <= most:
            return served
        first = served.seq_no - most + 1
        return replace(served, rows=served.rows[-most:], first_seq_no=first)

    return read
