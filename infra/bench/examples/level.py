"""The state of the example job over a long replay: it grows until the windows are full, and stays there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Final

from infra.bench.sequence.session import Session, Watch
from schemas.topics import EXAMPLES, Topic

_BARS: Final = " ▁▂▃▄▅▆▇█"


def measure(
    running: Session, job: Path, settings: Sequence[str], inputs: Sequence[Topic], examples: int
) -> dict[str, Any]:
    """Bytes of the whole state at every checkpoint until `examples` are written, and where they stay.

    Raises:
        InfraError: the job failed, or wrote nothing for a minute.
    """
    with Watch(running, EXAMPLES) as watch:
        job_id = running.start(job, [*settings, "job.checkpoint_interval_ms=1000"], topics=inputs)
        try:
            watch.until(examples, lambda: running.flink.why(job_id))
            sizes = running.flink.state_bytes(job_id)
        finally:
            running.flink.cancel(job_id)
    quarter = max(1, len(sizes) // 4)
    return {
        "state_bytes": sizes,
        "curve": curve(sizes),
        # The last quarter against the one before it: 1 where it is level.
        "last_to_third_quarter": mean(sizes[-quarter:]) / mean(sizes[-2 * quarter : -quarter] or sizes[-quarter:]),
    }


def curve(values: Sequence[float]) -> str:
    """The values as a line of bars, from 0 to the largest."""
    most = max(values, default=0) or 1
    return "".join(_BARS[round(value / most * (len(_BARS) - 1))] for value in values)
