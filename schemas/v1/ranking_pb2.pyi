from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ResponseStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESPONSE_STATUS_UNSPECIFIED: _ClassVar[ResponseStatus]
    RESPONSE_STATUS_OK: _ClassVar[ResponseStatus]
    RESPONSE_STATUS_INVALID: _ClassVar[ResponseStatus]
    RESPONSE_STATUS_BEHIND: _ClassVar[ResponseStatus]
RESPONSE_STATUS_UNSPECIFIED: ResponseStatus
RESPONSE_STATUS_OK: ResponseStatus
RESPONSE_STATUS_INVALID: ResponseStatus
RESPONSE_STATUS_BEHIND: ResponseStatus

class FeatureColumn(_message.Message):
    __slots__ = ("name", "int64", "float32")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INT64_FIELD_NUMBER: _ClassVar[int]
    FLOAT32_FIELD_NUMBER: _ClassVar[int]
    name: str
    int64: bytes
    float32: bytes
    def __init__(self, name: _Optional[str] = ..., int64: _Optional[bytes] = ..., float32: _Optional[bytes] = ...) -> None: ...

class Candidates(_message.Message):
    __slots__ = ("item_id", "group_id", "features")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    item_id: bytes
    group_id: bytes
    features: _containers.RepeatedCompositeFieldContainer[FeatureColumn]
    def __init__(self, item_id: _Optional[bytes] = ..., group_id: _Optional[bytes] = ..., features: _Optional[_Iterable[_Union[FeatureColumn, _Mapping]]] = ...) -> None: ...

class RankingRequest(_message.Message):
    __slots__ = ("schema_version", "request_id", "user_id", "request_time_ms", "candidates", "tasks", "min_seq_no", "max_wait_ms", "context")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    MIN_SEQ_NO_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    request_id: str
    user_id: int
    request_time_ms: int
    candidates: Candidates
    tasks: _containers.RepeatedScalarFieldContainer[str]
    min_seq_no: int
    max_wait_ms: int
    context: _containers.RepeatedCompositeFieldContainer[FeatureColumn]
    def __init__(self, schema_version: _Optional[int] = ..., request_id: _Optional[str] = ..., user_id: _Optional[int] = ..., request_time_ms: _Optional[int] = ..., candidates: _Optional[_Union[Candidates, _Mapping]] = ..., tasks: _Optional[_Iterable[str]] = ..., min_seq_no: _Optional[int] = ..., max_wait_ms: _Optional[int] = ..., context: _Optional[_Iterable[_Union[FeatureColumn, _Mapping]]] = ...) -> None: ...

class Stamp(_message.Message):
    __slots__ = ("epoch", "first_seq_no", "seq_no", "length", "digest_version", "digest", "model_version")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQ_NO_FIELD_NUMBER: _ClassVar[int]
    SEQ_NO_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    first_seq_no: int
    seq_no: int
    length: int
    digest_version: int
    digest: int
    model_version: str
    def __init__(self, epoch: _Optional[int] = ..., first_seq_no: _Optional[int] = ..., seq_no: _Optional[int] = ..., length: _Optional[int] = ..., digest_version: _Optional[int] = ..., digest: _Optional[int] = ..., model_version: _Optional[str] = ...) -> None: ...

class TaskScores(_message.Message):
    __slots__ = ("task", "scores")
    TASK_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    task: str
    scores: bytes
    def __init__(self, task: _Optional[str] = ..., scores: _Optional[bytes] = ...) -> None: ...

class RankingResponse(_message.Message):
    __slots__ = ("schema_version", "request_id", "response_id", "user_id", "request_time_ms", "status", "error", "candidates", "scores", "stamp", "stale", "source_partition", "source_offset", "context")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PARTITION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_OFFSET_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    request_id: str
    response_id: str
    user_id: int
    request_time_ms: int
    status: ResponseStatus
    error: str
    candidates: Candidates
    scores: _containers.RepeatedCompositeFieldContainer[TaskScores]
    stamp: Stamp
    stale: bool
    source_partition: int
    source_offset: int
    context: _containers.RepeatedCompositeFieldContainer[FeatureColumn]
    def __init__(self, schema_version: _Optional[int] = ..., request_id: _Optional[str] = ..., response_id: _Optional[str] = ..., user_id: _Optional[int] = ..., request_time_ms: _Optional[int] = ..., status: _Optional[_Union[ResponseStatus, str]] = ..., error: _Optional[str] = ..., candidates: _Optional[_Union[Candidates, _Mapping]] = ..., scores: _Optional[_Iterable[_Union[TaskScores, _Mapping]]] = ..., stamp: _Optional[_Union[Stamp, _Mapping]] = ..., stale: bool = ..., source_partition: _Optional[int] = ..., source_offset: _Optional[int] = ..., context: _Optional[_Iterable[_Union[FeatureColumn, _Mapping]]] = ...) -> None: ...

class Impression(_message.Message):
    __slots__ = ("schema_version", "user_id", "request_id", "response_id", "request_time_ms", "impression_time_ms", "item_id", "first_position")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    IMPRESSION_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_POSITION_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    user_id: int
    request_id: str
    response_id: str
    request_time_ms: int
    impression_time_ms: int
    item_id: bytes
    first_position: int
    def __init__(self, schema_version: _Optional[int] = ..., user_id: _Optional[int] = ..., request_id: _Optional[str] = ..., response_id: _Optional[str] = ..., request_time_ms: _Optional[int] = ..., impression_time_ms: _Optional[int] = ..., item_id: _Optional[bytes] = ..., first_position: _Optional[int] = ...) -> None: ...
