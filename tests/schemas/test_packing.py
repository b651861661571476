"""Packing: any rows come back, in every layout; noise and lies are refused; repeats are said once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from schemas.history import EVENT_BYTES, HAS_DURATION, HAS_GROUP, HISTORY_DTYPE, decode_events
from schemas.packing import (
    MAX_PACKED_EVENTS,
    PACKING_VERSIONS,
    dictionary,
    few,
    pack_history,
    planes,
    unpack_histories,
    unpack_history,
)

VECTORS = json.loads((Path(str(resources.files("schemas"))) / "golden" / "v1" / "vectors.json").read_text())["packing"]
versions = pytest.mark.parametrize("version", PACKING_VERSIONS)


@st.composite
def rows(draw: st.DrawFn) -> np.ndarray:
    """Any bytes as rows, some of them repeated, some with columns that are functions of the item."""
    encoded = draw(st.binary(max_size=30 * EVENT_BYTES).map(lambda raw: raw[: len(raw) // EVENT_BYTES * EVENT_BYTES]))
    history = np.tile(decode_events(encoded), draw(st.integers(1, 4))).copy()
    if draw(st.booleans()):
        history["group_id"] = history["item_id"] // np.uint64(3)
    if draw(st.booleans()):
        history["event_time_ms"] = history["event_time_ms"] // 1_000 * 1_000
    return history


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['version']}-{len(vector['rows'])}")
def test_packing_vectors(vector) -> None:
    packed = bytes.fromhex(vector["packed"])
    assert unpack_history(packed).tobytes().hex() == vector["rows"]
    assert pack_history(decode_events(bytes.fromhex(vector["rows"])), vector["version"]) == packed


def test_every_layout_has_vectors() -> None:
    assert {vector["version"] for vector in VECTORS} == set(PACKING_VERSIONS)


@versions
@given(history=rows())
def test_any_rows_come_back(version: int, history: np.ndarray) -> None:
    packed = pack_history(history, version)
    assert pack_history(history, version) == packed
    assert unpack_history(packed).tobytes() == history.tobytes()


@given(
    histories=st.lists(st.tuples(rows(), st.sampled_from(PACKING_VERSIONS)), max_size=5),
    equal=st.booleans(),
    version=st.sampled_from(PACKING_VERSIONS),
)
def test_several_are_the_same_as_one_by_one(histories: list[tuple[np.ndarray, int]], equal: bool, version: int) -> None:
    if equal:  # as chunks are: one length, one layout
        shortest = min((len(history) for history, _ in histories), default=0)
        histories = [(history[:shortest], version) for history, _ in histories]
    packed = [pack_history(history, layout) for history, layout in histories]
    assert unpack_histories(packed).tobytes() == b"".join(history.tobytes() for history, _ in histories)


def test_several_with_a_damaged_one_are_refused() -> None:
    good = pack_history(np.ones(4, dtype=HISTORY_DTYPE), 1)
    for bad in (good[:-1], good + b"x", bytes([good[0], 0, 4, 0, 0, 0, 255]) + good[7:], b"", b"\x09" + good[1:]):
        with pytest.raises(ValueError, match="packed history"):
            unpack_histories([good, bad, good])


@given(st.binary(max_size=200), st.sampled_from(PACKING_VERSIONS), st.integers(0, 20))
def test_noise_raises_value_error_or_gives_rows(noise: bytes, version: int, n: int) -> None:
    for packed in (noise, bytes([version, 0]) + n.to_bytes(4, "little") + noise):
        with contextlib.suppress(ValueError):
            assert unpack_history(packed).dtype == HISTORY_DTYPE


@versions
@given(history=rows(), data=st.data())
def test_a_changed_byte_raises_value_error_or_gives_rows(version: int, history: np.ndarray, data) -> None:
    packed = bytearray(pack_history(history, version))
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        assert unpack_history(bytes(packed)).dtype == HISTORY_DTYPE


@versions
def test_every_truncation_is_refused(version: int) -> None:
    random = decode_events(np.random.default_rng(0).bytes(30 * EVENT_BYTES))
    for history in (random, np.repeat(random, 3)):
        packed = pack_history(history, version)
        for length in range(len(packed)):
            with pytest.raises(ValueError, match="packed history"):
                unpack_history(packed[:length])


@versions
def test_a_frame_that_claims_gigabytes_is_refused_before_they_are_allocated(version: int) -> None:
    frame = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    head = b"\xff" * len(pack_history(decode_events(b""), 1)[6:]) if version == 1 else b""
    with pytest.raises(ValueError, match=r"claims 67108864 bytes"):
        unpack_history(bytes([version, 1]) + (9).to_bytes(4, "little") + head + frame)


@versions
def test_more_events_than_the_limit_are_refused(version: int) -> None:
    with pytest.raises(ValueError, match="packing limit"):
        pack_history(np.zeros(MAX_PACKED_EVENTS + 1, dtype=HISTORY_DTYPE), version)
    with pytest.raises(ValueError, match="not readable here"):
        unpack_history(bytes([version, 0]) + (MAX_PACKED_EVENTS + 1).to_bytes(4, "little"))


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="no packing layout 9"):
        pack_history(decode_events(b""), 9)
    with pytest.raises(ValueError, match="layout 9"):
        unpack_history(b"\x09" + bytes(20))


def test_what_repeats_is_said_once() -> None:
    rng = np.random.default_rng(5)
    videos, durations = rng.integers(1, 1 << 63, 300), rng.integers(3_000, 60_000, 300)
    history = np.zeros(10_000, dtype=HISTORY_DTYPE)
    which = rng.integers(0, 300, 10_000)
    history["item_id"], history["duration_ms"], history["group_id"] = videos[which], durations[which], which // 7 + 1
    history["event_time_ms"] = 1_700_000_000_000 + np.cumsum(rng.integers(1, 300, 10_000)) * 1_000
    history["fields"] = HAS_DURATION | HAS_GROUP
    bytes_per_event = {version: len(pack_history(history, version)) / 10_000 for version in PACKING_VERSIONS}
    # 300 videos are named in 9 bits; a time in seconds takes 8.
    assert bytes_per_event[2] < 3 < 8 < bytes_per_event[1]


@pytest.mark.parametrize("n", [0, 1, 2, 64, 256])
def test_few_rows_have_the_bytes_that_many_rows_ways_give(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(n)
    history = np.frombuffer(rng.bytes(n * HISTORY_DTYPE.itemsize), dtype=HISTORY_DTYPE).copy()
    history["group_id"] = 0
    history["watch_ms"] &= 0xFFFF
    few = planes.pack(history)
    monkeypatch.setattr(planes, "_FEW", -1)
    assert planes.pack(history) == few


@contextlib.contextmanager
def without_few() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(few, "FEW", 0)
        yield


@given(history=rows())
def test_few_rows_of_layout_2_are_the_bytes_and_the_rows_of_arrays(history: np.ndarray) -> None:
    history = history[: few.FEW]
    packed = pack_history(history, 2)
    with without_few():
        assert pack_history(history, 2) == packed
        assert unpack_history(packed).tobytes() == history.tobytes()
    assert unpack_history(packed).tobytes() == history.tobytes()


@given(history=rows(), data=st.data())
def test_few_rows_are_refused_where_arrays_refuse(history: np.ndarray, data) -> None:
    body = bytearray(dictionary.pack(history[:20])[1])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    packed = bytes([2, 0]) + len(history[:20]).to_bytes(4, "little") + body[: data.draw(st.integers(0, len(body)))]

    def rows_or_refusal() -> bytes | None:
        try:
            return unpack_history(packed).tobytes()
        except ValueError:
            return None

    of_few = rows_or_refusal()
    with without_few():
        assert rows_or_refusal() == of_few
