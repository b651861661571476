"""What the join makes of any records, in any order that the watermark allows, is what the contract's text says."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.verify.examples import ExampleCheck
from infra.verify.findings import BEHIND_WATERMARK, Findings
from infra.verify.histories import Histories
from infra.verify.late import check_late_feedback
from infra.verify.records import Light
from infra.verify.responses import Served
from infra.verify.rules import rules_of
from infra.verify.selection import Selection
from schemas.partitioner import user_key
from schemas.v1.behaviour_pb2 import BehaviourEvent, Interaction, RequestRef
from schemas.v1.ranking_pb2 import RESPONSE_STATUS_OK, Candidates, FeatureColumn, Impression, RankingResponse, Stamp
from schemas.v1.training_pb2 import TrainingExample
from streaming.config import ExampleJobConfig
from streaming.examples.build import Record
from streaming.examples.join import ExampleJoin
from streaming.examples.turn import JoinOutcome
from streaming.sequence.accept import accepted

USER = 9
PARTITION = 3
START_MS = 1_750_000_000_000
LABEL_MS = 1_000
END_MS = START_MS + 1_000 * LABEL_MS
ITEMS = (11, 12, 13, 14)
#: From when something was so to when it is published: at once, in time, and after the label time.
LAGS_MS = (0, 0, 0, 150, 1_200)
CONFIG = {
    "label_window_ms": LABEL_MS,
    "revision_window_ms": 3_000,
    "attribution_window_ms": 700,
    "labels": [
        {"task": "touch"},
        {"task": "share", "when": {"actions": [3, 4]}, "window_ms": 400, "weight": 0.3},
        {
            "task": "bored",
            "when": {"all": [{"watch_ms": {"below": 500}}, {"not": {"actions": [3]}}]},
        },
        {"task": "finish", "when": {"any": [{"watch_fraction": {"at_least": 0.9}}, {"actions": [4]}]}},
    ],
}


class DictState:
    def __init__(self) -> None:
        self.entries: dict[int, bytes] = {}

    def get(self, slot: int) -> bytes | None:
        return self.entries.get(slot)

    def put(self, slot: int, packed: bytes) -> None:
        self.entries[slot] = packed

    def remove(self, slot: int) -> None:
        del self.entries[slot]


class Job:
    """One user's join, and the topics it reads and writes."""

    def __init__(self, config: ExampleJobConfig) -> None:
        self.join, self.state = ExampleJoin(config.settings()), DictState()
        self.timers: set[int] = set()
        self.watermark_ms = -(1 << 62)
        self.events: list[Light] = []
        self.served = Served()
        self.impressions: list[Light] = []
        self.examples: list[Light] = []
        self.late: list[Light] = []
        self.letters: dict[int, str] = {}

    def take(self, kind: str, published_ms: int, message) -> None:
        """A record, put into its topic and handed to the join; it is never later than the watermark."""
        outcome, value = JoinOutcome(), message.SerializeToString(deterministic=True)
        if kind == "response":
            self.served.add(user_key(USER), message.request_id, message.response_id, published_ms, value)
            self.join.on_response(self.state, message, published_ms, self.watermark_ms, outcome)
        elif kind == "impression":
            offset = len(self.impressions)
            self.impressions.append((offset, published_ms, user_key(USER), value))
            record = Record(PARTITION, offset, published_ms, value)
            self.join.on_impression(self.state, message, record, self.watermark_ms, outcome)
        else:
            offset = len(self.events)
            self.events.append((offset, published_ms, user_key(USER), value))
            event = accepted(message)
            self.join.on_feedback(self.state, event, PARTITION, offset, published_ms, self.watermark_ms, outcome)
        self._book(outcome)

    def advance(self, watermark_ms: int) -> None:
        self.watermark_ms = max(watermark_ms, self.watermark_ms)
        while due := [timer for timer in self.timers if timer <= self.watermark_ms]:
            self.timers.discard(min(due))
            outcome = JoinOutcome()
            self.join.on_timer(self.state, USER, min(due), outcome)
            self._book(outcome)

    def _book(self, outcome: JoinOutcome) -> None:
        for _, example in outcome.examples:
            self.examples.append((len(self.examples), 0, user_key(USER), example))
        for late in outcome.late:
            self.late.append((len(self.late), 0, user_key(USER), late.SerializeToString()))
        self.letters |= {each.record.offset: str(each.refused.reason) for _, each in outcome.unusable}
        self.timers |= {time_ms for _, time_ms in outcome.timers}

    def findings(self, config: ExampleJobConfig) -> Findings:
        """The examples against everything that came in."""
        findings, rules = Findings(), rules_of(config)
        histories = Histories(1, 256, keep_named=True)
        histories.add(PARTITION, [self.events], (), findings)
        passed = check_late_feedback(histories, PARTITION, [self.late], findings, rules, Selection())
        # Stamps are others' business: all of them are of no history.
        check = ExampleCheck(rules=rules)
        check.run(
            histories, PARTITION, self.served, [self.impressions], [self.examples], findings, self.letters, passed
        )
        findings.settle(END_MS)
        return findings

    def kinds(self, config: ExampleJobConfig) -> set[str]:
        return set(self.findings(config).kinds)


def column(items) -> bytes:
    return b"".join(item.to_bytes(8, "little") for item in items)


def program(rng: random.Random) -> list[tuple[str, int, object]]:
    """Requests that overlap, with several responses, pages and feedback of all kinds; (kind, published, message)."""
    records: list[tuple[str, int, object]] = []
    for number in range(rng.randint(1, 4)):
        time_ms, name = START_MS + number // 2 * 300, f"q{number}"
        common = {"schema_version": 1, "user_id": USER, "request_id": name, "request_time_ms": time_ms}
        answered: dict[int, list[int]] = {}
        for response in range(rng.randint(0, 2)):
            items = answered[response] = rng.sample(ITEMS, rng.randint(2, 4))
            message = RankingResponse(
                **common,
                response_id=f"s{response}",
                status=RESPONSE_STATUS_OK,
                candidates=Candidates(
                    item_id=column(items),
                    group_id=column(item * 10 for item in items) if rng.random() < 0.7 else b"",
                    features=[FeatureColumn(name="shows", int64=column(items))],
                ),
                stamp=Stamp(first_seq_no=1, digest_version=1),
                context=[FeatureColumn(name="place", int64=column([response]))],
            )
            publish(records, rng, "response", time_ms, message)
        for _ in range(rng.randint(0, 3)):
            shown_ms, response = time_ms + rng.randrange(400), rng.randrange(2)
            items = rng.sample(answered.get(response, ITEMS), rng.randint(1, 2))
            message = Impression(
                **common,
                response_id=f"s{response}",
                impression_time_ms=shown_ms,
                # With an item that no response has, it is not usable.
                item_id=column(items if rng.random() < 0.8 else [*items, 99]),
                first_position=rng.randrange(3),
            )
            publish(records, rng, "impression", shown_ms, message)
    for _ in range(rng.randint(0, 12)):
        request, published_ms = rng.randrange(4), START_MS + rng.randrange(4_500)
        message = BehaviourEvent(
            schema_version=1,
            user_id=USER,
            event_id=rng.randbytes(16),
            event_time_ms=published_ms - rng.randrange(300) * (rng.random() < 0.5),
            interaction=Interaction(
                item_id=rng.choice(ITEMS),
                action=rng.randrange(1, 5),
                watch_ms=rng.choice((None, 0, 300, 900)),
                duration_ms=rng.choice((None, 1_000)),
            ),
        )
        if rng.random() < 0.6:
            time_ms = START_MS + request // 2 * 300
            message.request.CopyFrom(
                RequestRef(request_id=f"q{request}", response_id=f"s{rng.randrange(2)}", request_time_ms=time_ms)
            )
        records.append(("feedback", published_ms, message))
        if rng.random() < 0.1:
            # The application publishes it again.
            records.append(("feedback", published_ms + rng.randrange(1_000), message))
            rng.shuffle(records)
    return records


def publish(records: list[tuple[str, int, object]], rng: random.Random, kind: str, time_ms: int, message) -> None:
    """Once, or now and then once more."""
    for _ in range(1 + (rng.random() < 0.15)):
        records.append((kind, time_ms + rng.choice(LAGS_MS), message))


def job_over(records: list[tuple[str, int, object]], rng: random.Random, config: ExampleJobConfig) -> Job:
    """The records in an order in which none is behind the watermark, which moves as they come."""
    places = [(published_ms + rng.randrange(500), number) for number, (_, published_ms, _) in enumerate(records)]
    job, waiting = Job(config), [records[number] for _, number in sorted(places)]
    while waiting:
        one = waiting.pop(0)
        job.take(*one)
        if rng.random() < 0.5:
            job.advance(min((each[1] for each in waiting), default=START_MS) - 1)
    job.advance(END_MS)
    return job


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"attribution_window_ms": 0},
        {"revision_window_ms": 0},
        {"emit_unshown": True, "attribution_window_ms": 0, "revision_window_ms": 0},
    ],
    ids=["full", "no attribution", "no revisions", "unshown"],
)
@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_join_and_the_contract_agree(changed: dict[str, object], seed: int) -> None:
    rng = random.Random(seed)
    config = ExampleJobConfig.model_validate(CONFIG | changed)
    job = job_over(program(rng), rng, config)
    findings = job.findings(config)
    mismatches = [one for one in findings.mismatches if not one.kind.startswith("stamp")]
    assert mismatches == []
    # No record was behind the watermark.
    assert not any(findings.repeated[name] for name in BEHIND_WATERMARK)


def test_attributed_feedback_that_the_join_forgot_is_missed() -> None:
    config = ExampleJobConfig.model_validate(CONFIG)
    job = Job(config)
    for kind, published_ms, message in _one_request():
        job.take(kind, published_ms, message)
    job.advance(END_MS)
    assert not {kind for kind in job.kinds(config) if not kind.startswith("stamp")}
    without = ExampleJobConfig.model_validate(CONFIG | {"attribution_window_ms": 0})
    assert "example_labels" in job.kinds(without)
    value = TrainingExample.FromString(job.examples[0][3])
    value.labels[0].labels = b"\0"
    job.examples[0] = (*job.examples[0][:3], value.SerializeToString())
    assert "example_labels" in job.kinds(config)


@pytest.mark.parametrize(
    "copies_ms",
    [
        (100, 200),
        (200, 100),
    ],
)
def test_feedback_between_two_copies_of_an_impression_belongs_to_it(copies_ms: tuple[int, ...]) -> None:
    config = ExampleJobConfig.model_validate(CONFIG)
    job, (response, impression, touch) = Job(config), _one_request()
    job.take(*response)
    for published_ms in copies_ms:
        job.take("impression", START_MS + published_ms, impression[2])
    job.take("feedback", START_MS + 150, touch[2])
    job.advance(END_MS)
    assert TrainingExample.FromString(job.examples[0][3]).labels[0].labels == b"\1"
    assert not {kind for kind in job.kinds(config) if not kind.startswith("stamp")}


def test_feedback_after_a_late_impression_belongs_to_the_one_before() -> None:
    config = ExampleJobConfig.model_validate(CONFIG)
    job = Job(config)
    for name, shown_ms, published_ms in (("q", 800, 800), ("later", 900, LABEL_MS + 1)):
        response, impression, touch = _one_request()
        for (kind, _, message), at_ms in ((response, 0), (impression, published_ms)):
            message.request_id = name
            if kind == "impression":
                message.impression_time_ms = START_MS + shown_ms
            job.take(kind, START_MS + at_ms, message)
    touch[2].event_time_ms = START_MS + 950
    job.take("feedback", START_MS + 1_300, touch[2])
    job.advance(END_MS)
    examples = [TrainingExample.FromString(each[3]) for each in job.examples]
    assert [(each.request_id, each.label_version) for each in examples] == [("q", 1), ("q", 2)]
    assert not {kind for kind in job.kinds(config) if not kind.startswith("stamp")}


def _one_request() -> list[tuple[str, int, object]]:
    common = {"schema_version": 1, "user_id": USER, "request_id": "q", "request_time_ms": START_MS}
    response = RankingResponse(
        **common,
        response_id="s",
        status=RESPONSE_STATUS_OK,
        candidates=Candidates(item_id=column(ITEMS)),
        stamp=Stamp(first_seq_no=1, digest_version=1),
    )
    page = Impression(**common, response_id="s", impression_time_ms=START_MS + 10, item_id=column([12]))
    touch = BehaviourEvent(
        schema_version=1,
        user_id=USER,
        event_id=b"t" * 16,
        event_time_ms=START_MS + 20,
        interaction=Interaction(item_id=12, action=1),
    )
    return [
        ("response", START_MS, response),
        ("impression", START_MS + 10, page),
        ("feedback", START_MS + 20, touch),
    ]
