"""Batches: what Java writes is read here, and what is written here is what Java reads."""

from __future__ import annotations

import re
from importlib.resources import files

from hypothesis import given
from hypothesis import strategies as st

from streaming.flink.batches import RECORD_HEAD, ROW_HEAD, WATERMARK_BYTES, join_rows, split_records, told_watermark

SOMETHING = st.binary(max_size=40)
INTS = st.integers(-(1 << 31), (1 << 31) - 1)
LONGS = st.integers(-(1 << 63), (1 << 63) - 1)
RECORDS = st.lists(st.tuples(INTS, st.none() | SOMETHING, st.none() | SOMETHING, INTS, LONGS, LONGS))


def batch_of(records: list[tuple[int, bytes | None, bytes | None, int, int, int]]) -> bytes:
    """As Batch.java writes it."""
    parts = []
    for tag, key, value, partition, offset, timestamp_ms in records:
        lengths = [-1 if each is None else len(each) for each in (key, value)]
        parts += [RECORD_HEAD.pack(tag, *lengths, partition, offset, timestamp_ms), key or b"", value or b""]
    return b"".join(parts)


@given(records=RECORDS)
def test_records_come_back_nulls_included(records: list[tuple[int, bytes | None, bytes | None, int, int, int]]) -> None:
    assert list(split_records(batch_of(records))) == records


@given(rows=st.lists(st.tuples(SOMETHING, SOMETHING)))
def test_rows_stand_one_after_the_other(rows: list[tuple[bytes, bytes]]) -> None:
    batch, read = join_rows(rows), []
    while batch:
        key_bytes, value_bytes = ROW_HEAD.unpack_from(batch)
        end = ROW_HEAD.size + key_bytes + value_bytes
        body = batch[ROW_HEAD.size : end]
        read.append((body[:key_bytes], body[key_bytes:]))
        batch = batch[end:]
    assert read == rows


def test_both_sides_say_the_same_of_the_heads() -> None:
    for name, head in (("Batch", RECORD_HEAD), ("Unbatch", ROW_HEAD)):
        source = files("streaming.flink").joinpath("java", f"{name}.java").read_text()
        assert re.search(r"HEAD_BYTES = (\d+);", source)[1] == str(head.size)  # type: ignore[index]


@given(records=RECORDS.filter(bool), watermark_ms=LONGS)
def test_a_watermark_is_no_batch_of_records(
    records: list[tuple[int, bytes | None, bytes | None, int, int, int]], watermark_ms: int
) -> None:
    assert told_watermark(batch_of(records)) is None
    assert told_watermark(watermark_ms.to_bytes(WATERMARK_BYTES, "big", signed=True)) == watermark_ms
