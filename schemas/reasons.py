"""Why a record became a dead letter: the closed list of `DeadLetter.reason`."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """What was wrong, in the order in which it is checked."""

    OVERSIZED = "oversized"
    MALFORMED_KEY = "malformed_key"
    WRONG_PARTITION = "wrong_partition"
    MALFORMED_VALUE = "malformed_value"
    UNKNOWN_SCHEMA_VERSION = "unknown_schema_version"
    KEY_MISMATCH = "key_mismatch"
    MALFORMED_EVENT_ID = "malformed_event_id"
    MALFORMED_REQUEST_ID = "malformed_request_id"
    UNKNOWN_KIND = "unknown_kind"
    MALFORMED_SEED = "malformed_seed"
    ID_OUT_OF_RANGE = "id_out_of_range"
    TIME_OUT_OF_RANGE = "time_out_of_range"
    SKEW = "skew"
    SEED_OUT_OF_ORDER = "seed_out_of_order"
    SEED_SUPERSEDED = "seed_superseded"
    NO_CANDIDATES = "no_candidates"
    TOO_MANY_CANDIDATES = "too_many_candidates"
    MALFORMED_COLUMNS = "malformed_columns"
    UNKNOWN_CANDIDATE = "unknown_candidate"
    RESPONSE_MISSING = "response_missing"
    UNKNOWN_TASK = "unknown_task"
    DIGEST_MISMATCH = "digest_mismatch"
    CONFLICTING_IMPRESSION = "conflicting_impression"
    OVER_LIMIT = "over_limit"


class Rejected(Exception):  # noqa: N818 - a verdict on a record, not a failure of ours
    """A record cannot be accepted; the shell adds its coordinates and writes the dead letter."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
