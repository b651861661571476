"""Checkpoints on demand, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from infra.flink_rest import FlinkRest, FlinkRestError


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One checkpoint: bytes that are new in it, bytes of the whole state, seconds from trigger to end."""

    new_bytes: int
    state_bytes: int
    seconds: float


class BenchRest(FlinkRest):
    """The JobManager, asked for checkpoints."""

    def checkpoint(self, job_id: str, *, timeout_s: float = 120.0) -> Checkpoint:
        """Takes a checkpoint of a running job.

        Raises:
            FlinkRestError: it failed, or did not end in time.
        """
        body = {"checkpointType": "CONFIGURED"}
        trigger = str(self._object("POST", f"/jobs/{job_id}/checkpoints", body)["request-id"])

        def done() -> int | None:
            answer = self._object("GET", f"/jobs/{job_id}/checkpoints/{trigger}")
            if answer["status"]["id"] != "COMPLETED":
                return None
            operation = answer["operation"]
            if operation.get("failureCause") is not None:
                raise FlinkRestError(f"checkpoint of job {job_id} failed: {str(operation['failureCause'])[:500]}")
            return int(operation["checkpointId"])

        number = self._wait(done, f"a checkpoint of job {job_id}", timeout_s)
        details = self._wait(lambda: self._details(job_id, number), f"the figures of checkpoint {number}", timeout_s)
        return Checkpoint(
            new_bytes=int(details["checkpointed_size"]),
            state_bytes=int(details["state_size"]),
            seconds=int(details["end_to_end_duration"]) / 1_000,
        )

    def state_bytes(self, job_id: str) -> list[int]:
        """The whole state's bytes at the newest checkpoints that the JobManager remembers, oldest first."""
        history = self._object("GET", f"/jobs/{job_id}/checkpoints")["history"]
        completed = [one for one in history if one["status"] == "COMPLETED"]
        return [int(one["state_size"]) for one in sorted(completed, key=lambda one: int(one["id"]))]

    def _details(self, job_id: str, number: int) -> dict[str, Any] | None:
        # The statistics are looked at every few seconds only: a checkpoint of just now may not be there yet.
        newest = self._object("GET", f"/jobs/{job_id}/checkpoints")["latest"]["completed"]
        if newest is None or int(newest["id"]) < number:
            return None
        return self._object("GET", f"/jobs/{job_id}/checkpoints/details/{number}")
