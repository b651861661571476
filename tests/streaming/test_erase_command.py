"""`longrank erase` against the running job: the order, its confirmation, the receipt, the proof, and who stays."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner
from job_runner import JobRunner

from infra.cli import main
from infra.seed.publish import EventPublisher, wait_applied
from schemas.digest import make_epoch
from schemas.topics import EVENTS, SNAPSHOTS, UPDATES
from schemas.v1.behaviour_pb2 import BehaviourEvent, Interaction
from scorer.serving.metrics import Metrics, MetricsServer

START_MS = 1_700_000_000_000


def event(user_id: int, number: int) -> BehaviourEvent:
    return BehaviourEvent(
        schema_version=1,
        user_id=user_id,
        event_id=(user_id << 32 | number + 1).to_bytes(16, "big"),
        event_time_ms=START_MS + number,
        interaction=Interaction(item_id=number + 1),
    )


def run(*arguments: str) -> tuple[int, str, dict]:
    done = CliRunner().invoke(main, ["erase", *arguments, "--json"], catch_exceptions=False)
    lines = [line for line in done.output.splitlines() if line.startswith("{")]
    return done.exit_code, done.output, json.loads(lines[-1]) if lines else {}


def test_a_user_is_forgotten_and_the_others_are_not(jobs: JobRunner, tmp_path: Path) -> None:
    bootstrap, heads = jobs.bootstrap, {4: {"epoch": 0, "seq_no": 0, "stale": 0}}
    jobs.submit("sequence_job", ["job.checkpoint_interval_ms=1000", "snapshot.every_events=10"])
    with EventPublisher(bootstrap) as publisher:
        events = [event(user, number) for number in range(25) for user in (3, 4)]
        sent = publisher.publish([(one.user_id, one.SerializeToString()) for one in events], START_MS)
    wait_applied(bootstrap, sent, lambda _: None)

    code, output, found = run("3", "--check", "--bootstrap", bootstrap)
    assert (code, found["erased"]) == (1, False), output
    assert found["events_since"] == 21  # of the newest snapshot

    epoch = make_epoch(1, 1)
    held, gone = ({3: {"epoch": epoch, "seq_no": 0, "stale": 0}}, {})
    with (
        MetricsServer(Metrics(), lambda: True, held.get, "127.0.0.1", 0) as holds,
        MetricsServer(Metrics(), lambda: True, gone.get, "127.0.0.1", 0) as other,
        MetricsServer(Metrics(), lambda: True, {3: heads[4]}.get, "127.0.0.1", 0) as slow,
    ):
        addresses = [f"http://127.0.0.1:{server.port}" for server in (holds, other, slow)]
        receipt = tmp_path / "receipt.json"
        arguments = ["--bootstrap", bootstrap, "--timestamp-ms", str(START_MS), "--receipt", str(receipt)]
        scorers = [word for address in addresses[:2] for word in ("--scorer", address)]
        code, output, _ = run("3", *arguments, *scorers)
        assert code == 0, output
        written = json.loads(receipt.read_text())
        assert (written["user_id"], written["epoch"], written["erased"]) == (3, epoch, True)
        assert written["scorers"] == {addresses[0]: "erased", addresses[1]: "not held"}
        remains = {entry["topic"]: entry for entry in written["remains"]}
        assert remains[UPDATES.name]["older_epochs"] == 25
        assert remains[EVENTS.name]["gone_by_ms"] == START_MS + EVENTS.retention_ms
        assert remains[SNAPSHOTS.name]["gone_by_ms"] is None

        code, output, _ = run("3", *arguments, "--scorer", addresses[2], "--timeout", "1")
        assert code == 1
        assert "still has epoch 0 of user 3" in output

    assert run("3", "--check", "--bootstrap", bootstrap)[0] == 0
    assert run("4", "--check", "--bootstrap", bootstrap)[0] == 1


def test_without_a_job_the_order_stands_and_that_is_said(bootstrap: str) -> None:
    code, output, _ = run("3", "--bootstrap", bootstrap, "--timeout", "1")
    assert code == 1
    assert "has not carried out" in output
    assert "The order stands" in output
