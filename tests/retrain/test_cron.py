"""What starts the retrain at night: three ways, one command, the same hour, options that the command takes."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from infra.commands.retrain import command
from infra.retrain.outcome import EXIT_CODES, Outcome

CRON = Path(__file__).parents[2] / "infra" / "cron"
#: Trying again within the hour changes nothing.
FINAL = [EXIT_CODES[outcome] for outcome in (Outcome.TOO_LITTLE, Outcome.REFUSED, Outcome.LOCKED)]


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    # systemd's keys are case-sensitive.
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(CRON / name)
    return parser


def crontab() -> str:
    (line,) = [line for line in (CRON / "crontab").read_text().splitlines() if line[:1].isdigit()]
    return line


def cron_job() -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load((CRON / "cronjob.yaml").read_text())["spec"]
    return spec


def pod() -> dict[str, Any]:
    template: dict[str, Any] = cron_job()["jobTemplate"]["spec"]["template"]["spec"]
    return template


def commands() -> dict[str, list[str]]:
    of_cron = shlex.split(crontab().split(">>")[0])[6:]
    of_systemd = shlex.split(unit("longrank-retrain.service")["Service"]["ExecStart"])
    return {"cron": of_cron, "systemd": of_systemd, "kubernetes": pod()["containers"][0]["command"]}


@pytest.mark.parametrize("way", ["cron", "systemd", "kubernetes"])
def test_the_command_takes_what_it_is_given(way: str) -> None:
    program, name, *arguments = commands()[way]
    assert Path(program).name == "longrank"
    assert name == command.name
    context = click.Context(command)
    given, left, _ = command.make_parser(context).parse_args(list(arguments))
    assert not left
    assert set(given) == {"bootstrap", "registry", "work", "config"}


def test_all_three_call_the_same() -> None:
    assert len({tuple(argv[1:]) for argv in commands().values()}) == 1


def test_all_three_call_at_the_same_time() -> None:
    assert crontab().split()[:5] == cron_job()["schedule"].split() == ["17", "3", "*", "*", "*"]
    assert unit("longrank-retrain.timer")["Timer"]["OnCalendar"] == "*-*-* 03:17:00"


def test_what_trying_again_does_not_change_is_not_tried_again() -> None:
    service = unit("longrank-retrain.service")["Service"]
    assert service["Restart"] == "on-failure"
    assert [int(code) for code in service["RestartPreventExitStatus"].split()] == FINAL
    (fail,) = [
        rule["onExitCodes"]
        for rule in cron_job()["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
        if rule["action"] == "FailJob"
    ]
    assert (fail["operator"], fail["values"]) == ("In", FINAL)
    assert fail["containerName"] == pod()["containers"][0]["name"]
    # Kubernetes takes such a policy only with it.
    assert pod()["restartPolicy"] == "Never"


def test_two_never_run_at_once_and_volumes_fit() -> None:
    assert cron_job()["concurrencyPolicy"] == "Forbid"
    (container,) = pod()["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod()["volumes"]}
    argv = container["command"]
    assert argv[argv.index("--registry") + 1] == mounts["registry"]
    assert argv[argv.index("--work") + 1] == mounts["work"]
    assert Path(argv[argv.index("--config") + 1]).parent == Path(mounts["settings"])
