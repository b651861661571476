"""`longrank bundle`: what there is, what is in service, and back with one command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from retrain_world import Night

from infra.cli import main
from scorer.registry.registry import Registry


@pytest.fixture(scope="module")
def trained(the_night: Night) -> Path:
    """A registry with an untrained bundle and, in service, a trained one."""
    return the_night.root / "registry"


VERSION = "20231116-000000"


def bundle(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["bundle", *arguments, "--registry", str(root)])


def test_list_says_what_is_in_service_and_where_a_rollback_goes(trained: Path) -> None:
    lines = bundle(trained, "list").output.splitlines()
    (current,) = [line for line in lines if VERSION in line]
    (before,) = [line for line in lines if "untrained" in line]
    assert "*" in current
    assert "touch.gauc" in "".join(lines)
    assert "<" in before
    rows = json.loads(bundle(trained, "list", "--json").output)
    assert [(row["version"], row["in_service"], row["requests"]) for row in rows] == [
        ("untrained", False, 0),
        (VERSION, True, 270),
    ]


def test_show_says_what_it_was_made_from(trained: Path) -> None:
    shown = bundle(trained, "show").output
    for what in (VERSION, "270 requests", "afresh", "training.examples.v1/3", "touch.calibration", "bfloat16"):
        assert what in shown
    manifest = json.loads(bundle(trained, "show", "--json").output)
    assert manifest["training"]["topic_id"] == "t1"
    assert manifest["training"]["labels"][0]["requests"] == 300
    assert manifest["tolerance"]["bf16"]["measured"] <= manifest["tolerance"]["bf16"]["absolute"]


def test_rollback_and_promote_take_one_command_each(trained: Path, tmp_path: Path) -> None:
    root = tmp_path / "registry"
    shutil.copytree(trained, root, symlinks=True)
    assert bundle(root, "rollback").output == "untrained is in service again\n"
    assert Registry(root).current() == "untrained"
    refused = bundle(root, "rollback")
    assert (refused.exit_code, refused.output.count("\n")) == (1, 1)
    assert "no version was in service before untrained" in refused.output
    assert bundle(root, "promote", VERSION).output == f"{VERSION} is in service\n"
    assert Registry(root).current() == VERSION


def test_a_damaged_bundle_is_listed_and_the_others_too(trained: Path, tmp_path: Path) -> None:
    root = tmp_path / "registry"
    shutil.copytree(trained, root, symlinks=True)
    (root / "bundles" / "untrained" / "manifest.json").write_text("{}")
    listed = bundle(root, "list").output
    assert "damaged" in listed
    assert VERSION in listed
    assert "damaged" in json.loads(bundle(root, "list", "--json").output)[-1]
    assert bundle(root, "show", "untrained").exit_code == 1


def test_nothing_in_service_is_said(tmp_path: Path) -> None:
    assert "no bundle is in service" in bundle(tmp_path, "show").output
    assert bundle(tmp_path, "list", "--json").output == "[]\n"
