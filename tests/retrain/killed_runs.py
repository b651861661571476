"""Runs one retrain again and again, each time killed at the next of some points, until none is left. A program of its
own: each attempt is a fork of it, and dies by SIGKILL.

    killed_runs.py UNTRAINED WORK    prints one JSON object
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from retrain_world import MemorySource, registry_with_untrained, retrain, settings

from schemas.v1.ranking_pb2 import Stamp
from scorer.landing.bounded import Landed
from scorer.landing.resolve import Resolver
from scorer.registry.registry import Registry, check_bundle
from scorer.training.train import OnStep


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Kill:
    """At the `count`-th time that something happens: an operation on a file whose path has `part` in it (before it is
    done), or one of the run's own turns: a record, a history, a step."""

    event: str
    part: str = ""
    count: int = 1

    def __str__(self) -> str:
        return f"{self.event} {self.part} {self.count}".strip()

    def countdown(self) -> Callable[[], None]:
        """To be called whenever it happens."""
        left = [self.count]

        def happened() -> None:
            left[0] -= 1
            if not left[0]:
                die()

        return happened

    def watch_files(self) -> None:
        """From now on every operation on files that Python does passes here first."""
        happened = self.countdown()

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event == self.event and any(self.part in str(value) for value in arguments[:2]):
                happened()

        sys.addaudithook(hook)


#: In the order in which a run comes to them. Beyond a point that leaves its output, the next attempt finds it there.
KILLS = (
    Kill("os.rename", "/runs/."),  # the plan, not yet in its place
    Kill("record", count=150),
    Kill("os.rename", "examples.bin"),
    Kill("history", count=100),
    Kill("os.rename", "/dataset"),
    Kill("os.rename", "stages.json", 2),  # resolved and not noted
    Kill("step", count=4),
    Kill("os.rename", "weights.pt"),
    Kill("os.rename", "evaluation.json"),
    Kill("open", ".partial/score.onnx"),
    Kill("os.rename", "stages.json", 2),  # staged and not noted
    Kill("os.rename", "/bundles/"),
    Kill("os.rename", "stages.json", 2),  # published and not noted
    Kill("os.rename", "shadow.json"),
    Kill("os.rename", "promotions.json"),
    Kill("os.symlink", "current"),
    Kill("os.rename", "stages.json", 2),  # promoted and not noted
    Kill("os.rename", "report.html"),
    Kill("os.rename", "report.json"),
)


class FragileSource(MemorySource):
    """Dies at a record or at a history."""

    def __init__(self, kill: Kill | None) -> None:
        super().__init__()
        self.grow()
        self._kill = kill

    def _turn(self, event: str) -> Callable[[], None]:
        return self._kill.countdown() if self._kill is not None and self._kill.event == event else lambda: None

    def examples(self, offsets: Mapping[int, tuple[int, int]]) -> Iterator[Landed]:
        turn = self._turn("record")
        for record in super().examples(offsets):
            turn()
            yield record

    @contextmanager
    def histories(self) -> Iterator[Resolver]:
        turn = self._turn("history")
        with super().histories() as resolver:

            def resolve(user_id: int, stamp: Stamp) -> bytes | str:
                turn()
                return resolver(user_id, stamp)

            yield resolve


def on_step(kill: Kill | None) -> OnStep | None:
    """What the training is to call."""
    if kill is None or kill.event != "step":
        return None
    happened = kill.countdown()
    return lambda *_: happened()


def attempt(root: Path, now_ms: int, kill: Kill | None) -> int:
    """Run in a fork; the wait status."""
    if child := os.fork():
        return os.waitpid(child, 0)[1]
    try:
        source = FragileSource(kill)
        run = retrain(source, Registry(root / "registry"), root / "work", settings(), on_step=on_step(kill))
        if kill is not None:
            kill.watch_files()
        report = run.run(now_ms=now_ms)
        (root / "done.json").write_text(report.as_json())
    except BaseException as error:
        sys.stderr.write(f"{kill}: {type(error).__name__}: {error}\n")
        os._exit(1)
    os._exit(0)


def seen(root: Path) -> dict[str, Any]:
    """What anybody else sees of the registry; raises if something in it is not whole."""
    registry = Registry(root / "registry")
    for name in registry.names():
        check_bundle(root / "registry" / "bundles" / name)
    return {"versions": registry.versions(), "current": registry.current()}


def main(untrained: Path, work: Path) -> None:
    """See the module."""
    torch.set_num_threads(1)
    registry_with_untrained(work / "registry", untrained)
    # The first dies before its plan is there, so the second's time is that of the plan. Every attempt is begun later:
    # what it makes must not depend on that.
    begin_ms = FragileSource(None).now_ms - 1_000
    attempts = []
    for number, kill in enumerate(KILLS):
        status = attempt(work, begin_ms + 1_000 * number, kill)
        signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        attempts.append({"kill": str(kill), "signal": signalled, **seen(work)})
    last = attempt(work, begin_ms + 1_000 * len(KILLS), None)
    report = json.loads((work / "done.json").read_text())
    result = {
        "attempts": attempts,
        "last": {"status": last, "report": report, **seen(work)},
        "promotions": Registry(work / "registry").promotions(),
        "left": [
            str(path.relative_to(work))
            for path in sorted(work.rglob("*"))
            if path.is_file() and "bundles" not in path.parts
        ],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
