"""The updates' bytes, written by hand, are those of Protobuf."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.digest import DIGEST_VERSION
from schemas.v1.behaviour_pb2 import Interaction
from schemas.v1.sequence_pb2 import SequenceUpdate
from streaming.sequence.update import encode_update, update_head

UINT64 = st.integers(0, (1 << 64) - 1) | st.sampled_from([0, 1, 127, 128, (1 << 14) - 1, 1 << 14, 1 << 28, 1 << 63])
UINT32 = st.integers(0, (1 << 32) - 1)
INT64 = st.integers(-(1 << 63), (1 << 63) - 1) | st.sampled_from([0, 1, -1])
INTERACTIONS = st.builds(
    Interaction,
    item_id=UINT64,
    action=UINT32,
    watch_ms=st.none() | UINT32,
    duration_ms=st.none() | UINT32,
    surface=st.none() | UINT32,
    group_id=st.none() | UINT64,
)


@given(
    user_id=st.integers(1, (1 << 64) - 1),
    epoch=st.integers(1, (1 << 63) - 1),
    seq_no=st.integers(1, (1 << 63) - 1),
    prev_digest=UINT64,
    digest=UINT64,
    event_id=st.binary(min_size=16, max_size=16),
    event_time_ms=INT64,
    interaction=INTERACTIONS,
    source_partition=st.integers(0, 1 << 20),
    source_offset=st.integers(0, (1 << 63) - 1),
)
def test_bytes_are_protobufs(
    user_id: int,
    epoch: int,
    seq_no: int,
    prev_digest: int,
    digest: int,
    event_id: bytes,
    event_time_ms: int,
    interaction: Interaction,
    source_partition: int,
    source_offset: int,
) -> None:
    wanted = SequenceUpdate(
        schema_version=1,
        user_id=user_id,
        epoch=epoch,
        seq_no=seq_no,
        digest_version=DIGEST_VERSION,
        prev_digest=prev_digest,
        digest=digest,
        event_id=event_id,
        event_time_ms=event_time_ms,
        interaction=interaction,
        source_partition=source_partition,
        source_offset=source_offset,
    )
    written = encode_update(
        update_head(user_id, epoch),
        seq_no,
        prev_digest,
        digest,
        event_id,
        event_time_ms,
        interaction.SerializeToString(),
        source_partition,
        source_offset,
    )
    assert written == wanted.SerializeToString(deterministic=True)
