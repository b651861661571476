"""Kept encodings: always those of the served history, never more memory than allowed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.digest import extend_digest_over, make_epoch, origin_digest
from schemas.history import HISTORY_DTYPE
from scorer.sequences.reads import ServedHistory
from scorer.serving.kept import Encoding, KeptEncodings

WINDOW = 12
USER = 7


class User:
    """One user's life, and what a store would serve of it."""

    def __init__(self) -> None:
        self.resets = 0
        self.rows = np.zeros(0, dtype=HISTORY_DTYPE)

    @property
    def epoch(self) -> int:
        return make_epoch(1, self.resets)

    def act(self, items, time_ms: int = 1_000) -> None:
        new = np.zeros(len(items), dtype=HISTORY_DTYPE)
        new["item_id"], new["event_time_ms"] = items, time_ms
        self.rows = np.concatenate([self.rows, new])

    def erase(self) -> None:
        self.resets, self.rows = self.resets + 1, self.rows[:0]

    @property
    def served(self) -> ServedHistory:
        digest = extend_digest_over(origin_digest(USER, self.epoch), self.rows.tobytes())
        seq_no, first = len(self.rows), max(1, len(self.rows) - WINDOW + 1)
        return ServedHistory(self.rows[first - 1 :], self.epoch, first, seq_no, digest, stale=False)


@pytest.fixture
def model(toy_model):
    return toy_model()


def check(kept: KeptEncodings, served: ServedHistory, model) -> Encoding:
    encoded, encoding = kept.encode(USER, served, model)
    wanted = model.encode(served.rows, served.first_seq_no)
    np.testing.assert_array_equal(encoded.keys, wanted.keys)
    assert encoded.head == wanted.head
    return encoding


acts = st.one_of(
    st.tuples(st.just("act"), st.lists(st.integers(1, 9), max_size=WINDOW + 3), st.integers(0, 3)),
    st.tuples(st.just("erase")),
    st.tuples(st.just("fork"), st.integers(1, 9)),
    st.tuples(st.just("model")),
    st.tuples(st.just("ask")),
)


@given(st.lists(acts, max_size=40), st.sampled_from([0, 40, 1_000]))
def test_what_is_kept_is_always_what_is_served(toy_model, program, max_bytes):
    model, user, kept = toy_model(), User(), KeptEncodings(max_bytes)
    for step in program:
        match step:
            case ("act", items, time_ms):
                user.act(items, time_ms)
            case ("erase",):
                user.erase()
            case ("fork", item) if len(user.rows):
                # Not a thing that a store serves; the digests would tell.
                user.rows = user.rows.copy()
                user.rows["item_id"][-1] = item
            case ("model",):
                model = toy_model(version=model.version + "+")
        check(kept, user.served, model)
        assert kept.bytes <= max_bytes


def test_a_user_who_goes_on_is_encoded_once(model):
    user, kept = User(), KeptEncodings(1_000)
    user.act([1, 2, 3])
    assert check(kept, user.served, model) is Encoding.COLD
    for item in range(4, 40):
        user.act([item])
        assert check(kept, user.served, model) is Encoding.WARM
    assert check(kept, user.served, model) is Encoding.WARM


def test_a_burst_longer_than_the_window_is_encoded_whole(model):
    user, kept = User(), KeptEncodings(1_000)
    user.act([1])
    check(kept, user.served, model)
    user.act(range(2, WINDOW + 4))
    assert check(kept, user.served, model) is Encoding.COLD


def test_when_the_newest_event_by_its_own_time_leaves_the_window_the_rest_is_encoded_afresh(model):
    user, kept = User(), KeptEncodings(1_000)
    user.act([1], time_ms=2_000)
    user.act([2] * (WINDOW - 1))
    check(kept, user.served, model)
    user.act([3])
    assert check(kept, user.served, model) is Encoding.COLD


def test_the_least_recently_used_goes_first(model):
    user = User()
    user.act([1, 2, 3, 4])
    kept = KeptEncodings(3 * 4 * 8)
    for who in (1, 2, 3, 1, 4):
        kept.encode(who, user.served, model)
    assert len(kept) == 3
    assert [kept.encode(who, user.served, model)[1] for who in (1, 3, 4)] == [Encoding.WARM] * 3
    assert kept.encode(2, user.served, model)[1] is Encoding.COLD


def test_without_memory_nothing_is_kept(model):
    user, kept = User(), KeptEncodings(0)
    user.act([1])
    assert [check(kept, user.served, model) for _ in range(2)] == [Encoding.COLD] * 2
    assert (len(kept), kept.bytes) == (0, 0)
