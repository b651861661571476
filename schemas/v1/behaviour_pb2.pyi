from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BehaviourEvent(_message.Message):
    __slots__ = ("schema_version", "user_id", "event_id", "event_time_ms", "interaction", "erase", "seed", "request")
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    INTERACTION_FIELD_NUMBER: _ClassVar[int]
    ERASE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    schema_version: int
    user_id: int
    event_id: bytes
    event_time_ms: int
    interaction: Interaction
    erase: Erase
    seed: Seed
    request: RequestRef
    def __init__(self, schema_version: _Optional[int] = ..., user_id: _Optional[int] = ..., event_id: _Optional[bytes] = ..., event_time_ms: _Optional[int] = ..., interaction: _Optional[_Union[Interaction, _Mapping]] = ..., erase: _Optional[_Union[Erase, _Mapping]] = ..., seed: _Optional[_Union[Seed, _Mapping]] = ..., request: _Optional[_Union[RequestRef, _Mapping]] = ...) -> None: ...

class Interaction(_message.Message):
    __slots__ = ("item_id", "action", "watch_ms", "duration_ms", "surface", "group_id")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    WATCH_MS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    SURFACE_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    item_id: int
    action: int
    watch_ms: int
    duration_ms: int
    surface: int
    group_id: int
    def __init__(self, item_id: _Optional[int] = ..., action: _Optional[int] = ..., watch_ms: _Optional[int] = ..., duration_ms: _Optional[int] = ..., surface: _Optional[int] = ..., group_id: _Optional[int] = ...) -> None: ...

class Erase(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Seed(_message.Message):
    __slots__ = ("part", "parts", "packed", "event_ids", "rebuild")
    PART_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    EVENT_IDS_FIELD_NUMBER: _ClassVar[int]
    REBUILD_FIELD_NUMBER: _ClassVar[int]
    part: int
    parts: int
    packed: bytes
    event_ids: bytes
    rebuild: bool
    def __init__(self, part: _Optional[int] = ..., parts: _Optional[int] = ..., packed: _Optional[bytes] = ..., event_ids: _Optional[bytes] = ..., rebuild: bool = ...) -> None: ...

class RequestRef(_message.Message):
    __slots__ = ("request_id", "response_id", "request_time_ms")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    response_id: str
    request_time_ms: int
    def __init__(self, request_id: _Optional[str] = ..., response_id: _Optional[str] = ..., request_time_ms: _Optional[int] = ...) -> None: ...
