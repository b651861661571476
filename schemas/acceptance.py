"""What every record of a user-keyed topic must satisfy, whichever message it carries. Pure functions of the record.

The order of the checks is the order of `schemas.reasons.Reason`: a record is refused for the first thing wrong with it.
"""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from schemas import SCHEMA_VERSION
from schemas.limits import Limits
from schemas.partitioner import partition_of
from schemas.reasons import Reason, Rejected
from schemas.topics import PARTITIONS

#: "1 to 64 ASCII characters" (ranking.proto).
MAX_REQUEST_ID: Final = 64
#: Keys whose user and partition are remembered: hashing a key in Python costs as much as parsing its event.
_REMEMBERED_KEYS: Final = 1 << 16

M = TypeVar("M", bound=Message)


_known_keys: dict[bytes, tuple[int, int]] = {}


def _user_of_key(key: bytes) -> tuple[int, int]:
    """(user_id, partition); (0, 0) when the key is no number. Remembered."""
    # isdigit() on bytes knows ASCII digits only, so int() below cannot be handed signs, blanks or underscores.
    if not key.isdigit() or key[0] == 0x30 or len(key) > 20:
        return 0, 0
    if len(_known_keys) >= _REMEMBERED_KEYS:
        # All at once: to know which came longest ago would cost as much as the hashing.
        _known_keys.clear()
    user = _known_keys[key] = int(key), partition_of(key, PARTITIONS)
    return user


def accept_key(key: bytes | None, value: bytes | None, partition: int, limits: Limits, max_bytes: int) -> int:
    """The user_id that the record's key names.

    Args:
        max_bytes: of key and value together.

    Raises:
        Rejected: oversized, malformed_key, wrong_partition.
    """
    size = len(key or b"") + len(value or b"")
    if size > max_bytes:
        raise Rejected(Reason.OVERSIZED, f"key and value have {size} bytes, the limit is {max_bytes}")
    user_id, home = _known_keys.get(key) or _user_of_key(key) if key else (0, 0)
    if not 1 <= user_id <= limits.max_id:
        shown = "null" if key is None else repr(key[:64])
        raise Rejected(Reason.MALFORMED_KEY, f"key {shown} is not a user id in ASCII decimal, 1 .. {limits.max_id}")
    if home != partition:
        raise Rejected(Reason.WRONG_PARTITION, f"user {user_id} belongs to partition {home}, not {partition}")
    return user_id


def parse(message_type: type[M], value: bytes | None) -> M:
    """The message in `value`.

    Raises:
        Rejected: malformed_value.
    """
    if value is None:
        raise Rejected(Reason.MALFORMED_VALUE, f"null instead of a {message_type.DESCRIPTOR.name}")
    try:
        return message_type.FromString(value)
    except DecodeError as error:
        raise Rejected(Reason.MALFORMED_VALUE, f"not a {message_type.DESCRIPTOR.name}: {error}") from error


def check_version(version: int) -> None:
    """Raises Rejected: unknown_schema_version."""
    if not 1 <= version <= SCHEMA_VERSION:
        raise Rejected(Reason.UNKNOWN_SCHEMA_VERSION, f"schema_version {version}, known are 1 .. {SCHEMA_VERSION}")


def check_user(user_id: int, key_user_id: int) -> None:
    """Raises Rejected: key_mismatch."""
    if user_id != key_user_id:
        raise Rejected(Reason.KEY_MISMATCH, f"user_id {user_id} under the key of user {key_user_id}")


def check_request_id(field: str, request_id: str) -> None:
    """Raises Rejected: malformed_request_id."""
    if not 1 <= len(request_id) <= MAX_REQUEST_ID or not request_id.isascii():
        raise Rejected(
            Reason.MALFORMED_REQUEST_ID, f"{field} {request_id[:80]!r} is not 1 to {MAX_REQUEST_ID} ASCII characters"
        )


def check_time(field: str, time_ms: int, limits: Limits) -> None:
    """Raises Rejected: time_out_of_range."""
    if not limits.min_time_ms <= time_ms <= limits.max_time_ms:
        raise Rejected(
            Reason.TIME_OUT_OF_RANGE, f"{field} {time_ms} is outside {limits.min_time_ms} .. {limits.max_time_ms}"
        )


def check_skew(field: str, time_ms: int, record_timestamp_ms: int, limits: Limits) -> None:
    """The message's own time against the time at which its record was published.

    Raises:
        Rejected: skew.
    """
    earliness_ms = time_ms - record_timestamp_ms
    if not -limits.max_lateness_ms <= earliness_ms <= limits.max_earliness_ms:
        raise Rejected(
            Reason.SKEW,
            f"{field} {time_ms} is {earliness_ms:+d} ms from its record's timestamp {record_timestamp_ms}, allowed are"
            f" -{limits.max_lateness_ms} .. +{limits.max_earliness_ms}",
        )
