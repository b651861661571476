"""The application against a toy of the system: order per user, the window, and an account of every disturbance."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.logs.behaviour_log import BehaviourLog
from infra.logs.gitlog import read_gitlog
from infra.replay.application import Application, ReplayError, ReplaySettings
from infra.replay.disturbance import (
    REASON,
    DisturbancePlan,
    DisturbanceSettings,
    Malformation,
    malformed_record,
)
from infra.replay.messages import Outgoing
from schemas.limits import Limits
from schemas.partitioner import partition_of
from schemas.topics import EVENTS, HEARTBEAT_KEY, IMPRESSIONS, PARTITIONS, REQUESTS
from schemas.v1.behaviour_pb2 import BehaviourEvent, Interaction
from schemas.v1.ranking_pb2 import (
    RESPONSE_STATUS_INVALID,
    RESPONSE_STATUS_OK,
    Impression,
    RankingRequest,
    RankingResponse,
    Stamp,
    TaskScores,
)

DAY_MS = 86_400_000
PERMISSIVE = Limits(max_lateness_ms=6 * 365 * DAY_MS, max_earliness_ms=200 * DAY_MS)


@pytest.fixture(scope="module")
def log() -> BehaviourLog:
    return read_gitlog(Path(__file__).parents[1] / "data/gitlog_small").head(0.004)


class ToySystem:
    """Numbers distinct events per user and answers requests, in a random order across users."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.sent: list[Outgoing] = []
        self.rejected: list[Outgoing] = []
        self.accepted: dict[int, list[bytes]] = defaultdict(list)
        self.inbox: list[tuple[str, int, object]] = []

    def take(self, records: list[Outgoing]) -> None:
        for record in records:
            self.sent.append(record)
            if record.topic == EVENTS.name and record.key != HEARTBEAT_KEY:
                self._event(record)
            elif record.topic == REQUESTS.name and record.key != HEARTBEAT_KEY:
                request = RankingRequest.FromString(record.value)
                assert len(self.accepted[request.user_id]) == request.min_seq_no
                self.inbox.append(("response", request.user_id, request))

    def _event(self, record: Outgoing) -> None:
        try:
            event = BehaviourEvent.FromString(record.value)
        except DecodeError:
            self.rejected.append(record)
            return
        well_formed = (
            record.key == b"%d" % event.user_id
            and record.partition == partition_of(record.key, PARTITIONS)
            and len(event.event_id) == 16
            and event.interaction.item_id > 0
            and event.schema_version == 1
            and event.event_time_ms <= record.timestamp_ms + PERMISSIVE.max_earliness_ms
        )
        if not well_formed:
            self.rejected.append(record)
        elif event.event_id not in self.accepted[event.user_id]:
            self.accepted[event.user_id].append(event.event_id)
            self.inbox.append(("delta", event.user_id, (event.event_id, len(self.accepted[event.user_id]))))

    def step(self, application: Application) -> bool:
        """Hand back one thing, of a random user, in that user's order."""
        if not self.inbox:
            return False
        user = self.rng.choice(self.inbox)[1]
        at = next(index for index, item in enumerate(self.inbox) if item[1] == user)
        kind, _, payload = self.inbox.pop(at)
        if kind == "delta":
            event_id, seq_no = payload  # type: ignore[misc]
            self.take(list(application.on_delta(user, event_id, seq_no)))
        else:
            assert isinstance(payload, RankingRequest)
            self.take(list(application.on_response(answer(payload))))
        return True


def answer(request: RankingRequest) -> RankingResponse:
    scores = np.linspace(0, 1, len(request.candidates.item_id) // 8, dtype="<f4")
    return RankingResponse(
        request_id=request.request_id,
        response_id=f"response-to-{request.request_id}",
        user_id=request.user_id,
        status=RESPONSE_STATUS_OK,
        candidates=request.candidates,
        scores=[TaskScores(task="touch", scores=scores.tobytes())],
        stamp=Stamp(seq_no=request.min_seq_no),
    )


def play(log: BehaviourLog, plan: DisturbancePlan, replay: ReplaySettings, seed: int) -> tuple[Application, ToySystem]:
    application = Application(log, plan, replay, PERMISSIVE, run_id=f"run-{seed}")
    system = ToySystem(seed)
    while not (application.idle and application.exhausted()):
        system.take(list(application.admit()))
        moved = system.step(application)
        assert moved or application.idle, "neither the application nor the system has anything to do"
    return application, system


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    window_days=st.sampled_from([0, 3, 60]),
    in_flight=st.sampled_from([1, 7, 500]),
    share=st.sampled_from([0.0, 0.05, 0.4]),
)
def test_every_entry_and_every_disturbance_is_accounted_for(
    log: BehaviourLog, seed: int, window_days: int, in_flight: int, share: float
) -> None:
    disturbances = DisturbanceSettings(duplicate_share=share, late_share=share, malformed_share=share, max_delay=20)
    plan = DisturbancePlan.draw(len(log.arrival_ms), disturbances, np.random.default_rng(seed))
    replay = ReplaySettings(window_ms=window_days * DAY_MS, max_in_flight=in_flight)
    application, system = play(log, plan, replay, seed)

    counts = application.counts
    assert counts.events == counts.deltas == len(log.arrival_ms)
    assert counts.requests == counts.responses == counts.impressions == len(log.request_time_ms)
    assert counts.feedback == (log.event_request >= 0).sum()
    assert counts.duplicates == (plan.duplicate_after > 0).sum()
    assert counts.late == (plan.held_for > 0).sum()
    assert counts.malformed == len(system.rejected) == sum(plan.expected_reasons().values())
    newest: dict[str, int] = Counter()
    first_sends = dict.fromkeys((record.topic, record.value, record.timestamp_ms) for record in system.sent)
    for topic, _, timestamp_ms in first_sends:
        assert timestamp_ms >= newest[topic] - replay.window_ms, "out of order beyond the window"
        newest[topic] = max(newest[topic], timestamp_ms)


def test_without_disturbances_every_user_sees_the_log_in_order(log: BehaviourLog) -> None:
    plan = DisturbancePlan.draw(
        len(log.arrival_ms),
        DisturbanceSettings(duplicate_share=0, late_share=0, malformed_share=0),
        np.random.default_rng(0),
    )
    application, system = play(log, plan, ReplaySettings(), 0)
    for user in np.unique(log.event_user).tolist():
        expected = [application.event_id(event) for event in np.flatnonzero(log.event_user == user).tolist()]
        assert system.accepted[user] == expected


def test_feedback_names_the_response_that_was_shown(log: BehaviourLog) -> None:
    plan = DisturbancePlan.draw(len(log.arrival_ms), DisturbanceSettings(), np.random.default_rng(1))
    application, system = play(log, plan, ReplaySettings(), 1)
    for record in system.sent:
        if record.topic == EVENTS.name and record not in system.rejected:
            event = BehaviourEvent.FromString(record.value)
            if event.HasField("request"):
                assert event.request.response_id == f"response-to-{event.request.request_id}"
        elif record.topic == IMPRESSIONS.name:
            shown = Impression.FromString(record.value)
            number = log.request_id.tolist().index(shown.request_id.encode())
            span = slice(log.candidate_offsets[number], log.candidate_offsets[number + 1])
            # The toy scores the last candidate best.
            assert np.frombuffer(shown.item_id, "<u8").tolist() == log.candidate_item[span][::-1].tolist()
            assert application.response_id(number) == shown.response_id


def test_a_pause_in_log_time_leaves_nothing_open(log: BehaviourLog) -> None:
    plan = DisturbancePlan.draw(len(log.arrival_ms), DisturbanceSettings(late_share=0.3), np.random.default_rng(2))
    application = Application(log, plan, ReplaySettings(), PERMISSIVE, run_id="pause")
    system = ToySystem(2)
    pause = int(log.request_time_ms[len(log.request_time_ms) // 2])
    while not (application.idle and application.exhausted(pause)):
        system.take(list(application.admit(pause)))
        system.step(application)
    assert {record.timestamp_ms for record in system.sent if record.timestamp_ms > pause} == set()
    assert application.counts.events == np.searchsorted(log.arrival_ms, pause, side="right")


def test_refused_request_is_an_error(log: BehaviourLog) -> None:
    plan = DisturbancePlan.draw(len(log.arrival_ms), DisturbanceSettings(), np.random.default_rng(3))
    application = Application(log, plan, ReplaySettings(), PERMISSIVE, run_id="refused")
    system = ToySystem(3)
    while not any(kind == "response" for kind, _, _ in system.inbox):
        system.take(list(application.admit()))
        system.step(application)
    request = next(payload for kind, _, payload in system.inbox if kind == "response")
    assert isinstance(request, RankingRequest)
    refusal = answer(request)
    refusal.status, refusal.error = RESPONSE_STATUS_INVALID, "no candidates"
    with pytest.raises(ReplayError, match=rf"{request.request_id}.*no candidates"):
        list(application.on_response(refusal))


def test_response_nobody_waits_for_is_counted(log: BehaviourLog) -> None:
    plan = DisturbancePlan.draw(len(log.arrival_ms), DisturbanceSettings(), np.random.default_rng(4))
    application = Application(log, plan, ReplaySettings(), PERMISSIVE, run_id="again")
    assert list(application.on_response(RankingResponse(request_id="unknown", user_id=1))) == []
    assert application.counts.superseded_responses == 1


def test_heartbeats_reach_every_partition(log: BehaviourLog) -> None:
    plan = DisturbancePlan.draw(len(log.arrival_ms), DisturbanceSettings(), np.random.default_rng(5))
    application = Application(log, plan, ReplaySettings(), PERMISSIVE, run_id="beat")
    beats = list(application.heartbeats(1_000, 50))
    assert {beat.timestamp_ms for beat in beats} == {1_050}
    assert Counter(beat.topic for beat in beats) == dict.fromkeys((EVENTS.name, REQUESTS.name, IMPRESSIONS.name), 8)


@pytest.mark.parametrize("kind", Malformation)
def test_every_malformation_differs_from_the_event(kind: Malformation) -> None:
    event = BehaviourEvent(
        schema_version=1,
        user_id=77,
        event_id=bytes(range(16)),
        event_time_ms=1_700_000_000_000,
        interaction=Interaction(item_id=5, action=1),
    )
    key, value, partition = malformed_record(kind, event, event.event_time_ms, PARTITIONS, Limits())
    assert kind in REASON
    assert (key, value, partition) != (b"77", event.SerializeToString(), partition_of(b"77", PARTITIONS))


@pytest.mark.parametrize("bad", [{"duplicate_share": 1.5}, {"late_share": -0.1}, {"max_delay": 0}])
def test_disturbances_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        DisturbanceSettings(**bad)  # type: ignore[arg-type]
