from schemas.v1 import behaviour_pb2 as _behaviour_pb2
from schemas.v1 import ranking_pb2 as _ranking_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TaskLabels(_message.Message):
    __slots__ = ("task", "labels", "weight", "changed_targets")
    TASK_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    CHANGED_TARGETS_FIELD_NUMBER: _ClassVar[int]
    task: str
    labels: bytes
    weight: float
    changed_targets: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, task: _Optional[str] = ..., labels: _Optional[bytes] = ..., weight: _Optional[float] = ..., changed_targets: _Optional[_Iterable[int]] = ...) -> None: ...

class TrainingExample(_message.Message):
    __slots__ = ("schema_version", "request_id", "response_id", "user_id", "request_time_ms", "label_version", "targets", "position", "labels", "stamp", "superseded_responses", "produced_at_ms", "context", "caused_by")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    LABEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_RESPONSES_FIELD_NUMBER: _ClassVar[int]
    PRODUCED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    CAUSED_BY_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    request_id: str
    response_id: str
    user_id: int
    request_time_ms: int
    label_version: int
    targets: _ranking_pb2.Candidates
    position: bytes
    labels: _containers.RepeatedCompositeFieldContainer[TaskLabels]
    stamp: _ranking_pb2.Stamp
    superseded_responses: int
    produced_at_ms: int
    context: _containers.RepeatedCompositeFieldContainer[_ranking_pb2.FeatureColumn]
    caused_by: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, schema_version: _Optional[int] = ..., request_id: _Optional[str] = ..., response_id: _Optional[str] = ..., user_id: _Optional[int] = ..., request_time_ms: _Optional[int] = ..., label_version: _Optional[int] = ..., targets: _Optional[_Union[_ranking_pb2.Candidates, _Mapping]] = ..., position: _Optional[bytes] = ..., labels: _Optional[_Iterable[_Union[TaskLabels, _Mapping]]] = ..., stamp: _Optional[_Union[_ranking_pb2.Stamp, _Mapping]] = ..., superseded_responses: _Optional[int] = ..., produced_at_ms: _Optional[int] = ..., context: _Optional[_Iterable[_Union[_ranking_pb2.FeatureColumn, _Mapping]]] = ..., caused_by: _Optional[_Iterable[bytes]] = ...) -> None: ...

class LateFeedback(_message.Message):
    __slots__ = ("schema_version", "user_id", "event_id", "event_time_ms", "interaction", "request", "published_ms", "source_partition", "source_offset", "reason")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    INTERACTION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_MS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PARTITION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_OFFSET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    user_id: int
    event_id: bytes
    event_time_ms: int
    interaction: _behaviour_pb2.Interaction
    request: _behaviour_pb2.RequestRef
    published_ms: int
    source_partition: int
    source_offset: int
    reason: str
    def __init__(self, schema_version: _Optional[int] = ..., user_id: _Optional[int] = ..., event_id: _Optional[bytes] = ..., event_time_ms: _Optional[int] = ..., interaction: _Optional[_Union[_behaviour_pb2.Interaction, _Mapping]] = ..., request: _Optional[_Union[_behaviour_pb2.RequestRef, _Mapping]] = ..., published_ms: _Optional[int] = ..., source_partition: _Optional[int] = ..., source_offset: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...
