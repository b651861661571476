from schemas.v1 import behaviour_pb2 as _behaviour_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SequenceUpdate(_message.Message):
    __slots__ = ("schema_version", "user_id", "epoch", "seq_no", "digest_version", "prev_digest", "digest", "event_id", "event_time_ms", "interaction", "source_partition", "source_offset")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_NO_FIELD_NUMBER: _ClassVar[int]
    DIGEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    PREV_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    INTERACTION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PARTITION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_OFFSET_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    user_id: int
    epoch: int
    seq_no: int
    digest_version: int
    prev_digest: int
    digest: int
    event_id: bytes
    event_time_ms: int
    interaction: _behaviour_pb2.Interaction
    source_partition: int
    source_offset: int
    def __init__(self, schema_version: _Optional[int] = ..., user_id: _Optional[int] = ..., epoch: _Optional[int] = ..., seq_no: _Optional[int] = ..., digest_version: _Optional[int] = ..., prev_digest: _Optional[int] = ..., digest: _Optional[int] = ..., event_id: _Optional[bytes] = ..., event_time_ms: _Optional[int] = ..., interaction: _Optional[_Union[_behaviour_pb2.Interaction, _Mapping]] = ..., source_partition: _Optional[int] = ..., source_offset: _Optional[int] = ...) -> None: ...

class SequenceSnapshot(_message.Message):
    __slots__ = ("schema_version", "user_id", "epoch", "first_seq_no", "seq_no", "digest_version", "base_digest", "digest", "packed", "erased", "erased_below")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQ_NO_FIELD_NUMBER: _ClassVar[int]
    SEQ_NO_FIELD_NUMBER: _ClassVar[int]
    DIGEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    ERASED_FIELD_NUMBER: _ClassVar[int]
    ERASED_BELOW_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    user_id: int
    epoch: int
    first_seq_no: int
    seq_no: int
    digest_version: int
    base_digest: int
    digest: int
    packed: bytes
    erased: bool
    erased_below: int
    def __init__(self, schema_version: _Optional[int] = ..., user_id: _Optional[int] = ..., epoch: _Optional[int] = ..., first_seq_no: _Optional[int] = ..., seq_no: _Optional[int] = ..., digest_version: _Optional[int] = ..., base_digest: _Optional[int] = ..., digest: _Optional[int] = ..., packed: _Optional[bytes] = ..., erased: bool = ..., erased_below: _Optional[int] = ...) -> None: ...
