"""What the join writes directly is what Protobuf's own serialisation gives."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas.v1.ranking_pb2 import Candidates, FeatureColumn, RankingResponse, Stamp
from schemas.v1.training_pb2 import TaskLabels, TrainingExample
from streaming.examples.build import Chosen
from streaming.examples.first_version import FirstVersions
from streaming.examples.join import kept_of_response
from streaming.examples.labels import Acted, Task, label_targets
from streaming.examples.pending import Given

U64 = st.integers(0, (1 << 64) - 1)
I64 = st.integers(-(1 << 63), (1 << 63) - 1)
NAME = st.text("abc-9", min_size=1, max_size=64)
TASKS = st.lists(
    st.builds(
        Task,
        name=NAME,
        rule=st.sampled_from([Acted(), Acted(frozenset({3}))]),
        window_ms=st.integers(1, 1 << 40),
        weight=st.sampled_from([1.0, 0.1, 1e-60, 3e5]),
    ),
    max_size=3,
)
STAMP = st.builds(Stamp, epoch=U64, seq_no=U64, digest=U64, model_version=NAME | st.just(""))


def column(values: list[int], dtype: str) -> bytes:
    return np.asarray(values, dtype=dtype).tobytes()


@st.composite
def responses(draw: st.DrawFn) -> RankingResponse:
    count = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))

    def features(values: int) -> list[FeatureColumn]:
        kinds = draw(st.lists(st.booleans(), max_size=3))
        return [
            FeatureColumn(name=f"f{place}", int64=rng.bytes(8 * values))
            if whole
            else FeatureColumn(name=f"f{place}", float32=rng.random(values, "f4").tobytes())
            for place, whole in enumerate(kinds)
        ]

    return RankingResponse(
        schema_version=1,
        request_id="not kept",
        response_id=draw(NAME),
        status=1,
        candidates=Candidates(
            item_id=rng.bytes(8 * count),
            group_id=rng.bytes(8 * count) if draw(st.booleans()) else b"",
            features=features(count),
        ),
        stamp=draw(STAMP),
        context=features(1),
    )


@given(responses())
def test_what_is_kept_of_a_response(response: RankingResponse) -> None:
    kept = RankingResponse(
        response_id=response.response_id,
        candidates=response.candidates,
        stamp=response.stamp,
        context=response.context,
    )
    assert kept_of_response(response, response.response_id) == kept.SerializeToString(deterministic=True)


@given(
    response=responses(),
    seed=st.integers(0, 1 << 20),
    positions=st.none() | st.integers(0, 60_000),
    tasks=TASKS,
    user_id=st.integers(1, (1 << 64) - 1),
    request_id=NAME,
    request_time_ms=I64,
    superseded=st.integers(0, 300),
)
def test_the_first_version(
    response: RankingResponse,
    seed: int,
    positions: int | None,
    tasks: list[Task],
    user_id: int,
    request_id: str,
    request_time_ms: int,
    superseded: int,
) -> None:
    rng = random.Random(seed)
    candidates = np.frombuffer(response.candidates.item_id, "<u8")
    rows = rng.sample(range(len(candidates)), rng.randint(1, len(candidates)))
    items = [int(candidates[row]) for row in rows]
    shown_at = [] if positions is None else [positions + place for place in range(len(rows))]
    feedback = [
        Given(0, b"", 0, 0, request_time_ms + 5, item, rng.randrange(5), -1, -1, -1, -1, "")
        for item in rng.sample(items, rng.randint(0, len(items)))
    ]
    chosen = Chosen(response, rows, items, shown_at)
    written = FirstVersions(tasks).encode(user_id, request_id, request_time_ms, chosen, feedback, superseded)

    def of_rows(values: bytes, dtype: str) -> bytes:
        return np.frombuffer(values, dtype)[rows].tobytes() if values else b""

    labels = label_targets(tasks, items, feedback, request_time_ms)
    example = TrainingExample(
        schema_version=1,
        request_id=request_id,
        response_id=response.response_id,
        user_id=user_id,
        request_time_ms=request_time_ms,
        label_version=1,
        targets=Candidates(
            item_id=column(items, "<u8"),
            group_id=of_rows(response.candidates.group_id, "<u8"),
            features=[
                FeatureColumn(name=one.name, int64=of_rows(one.int64, "<i8"), float32=of_rows(one.float32, "<f4"))
                for one in response.candidates.features
            ],
        ),
        position=column(shown_at, "<u2"),
        labels=[
            TaskLabels(task=task.name, labels=its_labels, weight=task.weight)
            for task, its_labels in zip(tasks, labels, strict=True)
        ],
        stamp=response.stamp,
        superseded_responses=superseded,
        context=response.context,
    )
    assert written == example.SerializeToString(deterministic=True)
