"""Set-up: what it recognises as done, as cut off, as wrong; with a pip that is played."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.bootstrap.environment import SUPPORTED, Setup, SetupError
from infra.bootstrap.pip import broken_distributions, explain_pip_failure, locked_requirement

THIS = sys.version_info[:2]
REPOSITORY = Path(__file__).parents[2]


class PlayedPrograms:
    """Stands in for `python -m venv` and pip: makes what they would, or fails as told."""

    def __init__(self, failures: dict[int, str] | None = None) -> None:
        self.calls: list[list[str]] = []
        self._failures = failures or {}

    def __call__(self, argv: list[str], _log: Path, on_line: Callable[[str], None]) -> int:
        self.calls.append(argv)
        if failure := self._failures.get(len(self.calls)):
            for line in failure.splitlines():
                on_line(line)
            return 1
        if argv[1:3] == ["-m", "venv"]:
            make_venv(Path(argv[-1]))
        return 0

    @property
    def steps(self) -> list[str]:
        """`venv` or the last word of a pip call."""
        return ["venv" if call[2] == "venv" else Path(call[-1]).name for call in self.calls]


def make_venv(venv: Path) -> None:
    """The least that runs as an environment of its own."""
    shutil.rmtree(venv, ignore_errors=True)
    packages = venv / f"lib/python{THIS[0]}.{THIS[1]}/site-packages"
    (packages / "pip").mkdir(parents=True)
    (packages / "pip" / "__init__.py").touch()
    (venv / "bin").mkdir()
    (venv / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (venv / "bin" / "pip").write_text(f"#!{venv}/bin/python\n")
    (venv / "pyvenv.cfg").write_text(
        f"home = {Path(sys.executable).resolve().parent}\ninclude-system-site-packages = false\n"
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "requirements.lock").write_text(
        "numpy==2 \\\n    --hash=sha256:1\nsetuptools==80 \\\n    --hash=sha256:2\n"
    )
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    return tmp_path


def setup_of(root: Path, programs: PlayedPrograms, **more: object) -> Setup:
    return Setup(root, say=lambda _: None, run=programs, **more)  # type: ignore[arg-type]


def test_a_first_run_does_every_step_and_a_second_none(root: Path) -> None:
    programs = PlayedPrograms()
    setup = setup_of(root, programs)
    assert not setup.complete()
    setup.install()
    assert programs.steps == ["venv", "longrank-builder.txt", "requirements.lock", root.name]
    assert setup_of(root, programs).complete()


@pytest.mark.parametrize("changed", ["requirements.lock", "pyproject.toml"])
def test_a_changed_lock_or_project_is_not_complete(root: Path, changed: str) -> None:
    setup = setup_of(root, PlayedPrograms())
    setup.install()
    (root / changed).write_text((root / changed).read_text() + "\n# changed\n")
    assert not setup.complete()


def test_an_environment_that_was_moved_is_made_anew(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    setup_of(root, PlayedPrograms()).install()
    moved = tmp_path_factory.mktemp("moved") / "checkout"
    shutil.move(root, moved)
    programs = PlayedPrograms()
    setup = setup_of(moved, programs)
    assert not setup.complete()
    setup.install()
    assert programs.steps[0] == "venv"


def test_a_named_python_of_another_version_makes_it_anew(root: Path) -> None:
    setup_of(root, PlayedPrograms()).install()
    assert setup_of(root, PlayedPrograms(), demanded=THIS).complete()
    other = next(version for version in SUPPORTED if version != THIS)
    assert not setup_of(root, PlayedPrograms(), demanded=other).complete()


def damage_no_python(venv: Path) -> None:
    (venv / "bin" / "python").unlink()


def damage_no_pip(venv: Path) -> None:
    shutil.rmtree(next(venv.glob("lib/*/site-packages/pip")))


def damage_no_programs(venv: Path) -> None:
    shutil.rmtree(venv / "bin")


def damage_all_but_a_folder(venv: Path) -> None:
    shutil.rmtree(venv)
    (venv / "lib").mkdir(parents=True)


@pytest.mark.parametrize("damage", [damage_no_python, damage_no_pip, damage_no_programs, damage_all_but_a_folder])
def test_a_half_made_environment_is_made_again(root: Path, damage: Callable[[Path], None]) -> None:
    make_venv(root / ".venv")
    damage(root / ".venv")
    programs = PlayedPrograms()
    setup = setup_of(root, programs)
    assert not setup.complete()
    setup.install()
    assert programs.steps[0] == "venv"
    assert setup.complete()


def test_a_whole_environment_without_a_stamp_is_kept(root: Path) -> None:
    make_venv(root / ".venv")
    programs = PlayedPrograms()
    setup_of(root, programs).install()
    assert "venv" not in programs.steps


def test_a_pip_that_was_cut_off_is_continued(root: Path) -> None:
    programs = PlayedPrograms({3: "ERROR: something"})
    with pytest.raises(SetupError, match="something"):
        setup_of(root, programs).install()
    assert not setup_of(root, programs).complete()
    again = PlayedPrograms()
    setup_of(root, again).install()
    assert "venv" not in again.steps
    assert setup_of(root, again).complete()


def test_a_lost_network_is_retried_then_told(root: Path) -> None:
    lost = "WARNING: Retrying ... NewConnectionError\nERROR: No matching distribution found for numpy==2"
    setup_of(root, programs := PlayedPrograms({3: lost})).install()
    assert programs.steps.count("requirements.lock") == 2
    (root / ".venv" / "longrank-setup.json").unlink()
    with pytest.raises(SetupError, match="check the network"):
        setup_of(root, PlayedPrograms(dict.fromkeys(range(1, 9), lost))).install()


def test_too_little_disk_is_said_before_anything_is_done(root: Path) -> None:
    programs = PlayedPrograms()
    with pytest.raises(SetupError, match=r"has 1\.0 GB free and set-up needs \d+\.\d; free some space"):
        setup_of(root, programs, free_bytes=lambda _: 1_000_000_000).preflight()
    assert not programs.calls
    setup_of(root, programs, free_bytes=lambda _: 20_000_000_000).preflight()


@pytest.mark.parametrize(
    ("output", "says", "again"),
    [
        ("ERROR: [Errno 28] No space left on device", "disk filled up", False),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n"
            "    numpy==2.1 from file:\n        Expected sha256 aa\n             Got bb",
            "numpy==2.1 has another checksum",
            False,
        ),
        ("urllib3: Temporary failure in name resolution\nERROR: Could not find a version", "check the network", True),
        ("Collecting x\nERROR: resolution impossible", "resolution impossible; the whole story", False),
        ("", "no output", False),
    ],
)
def test_pips_failures_in_one_line(output: str, says: str, again: bool, tmp_path: Path) -> None:
    line, retry = explain_pip_failure(output, tmp_path / "log")
    assert says in line
    assert "\n" not in line
    assert retry is again


def make_package(packages: Path, name: str) -> Path:
    """An installed package of one file; returns its .dist-info."""
    (packages / name).mkdir()
    (packages / name / "__init__.py").write_text("x = 1\n")
    info = packages / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "INSTALLER").write_text("pip\n")
    (info / "RECORD").write_text(
        f"{name}/__init__.py,sha256=whatever,6\n{name}/__pycache__/a.pyc,sha256=whatever,9\n{info.name}/RECORD,,\n"
    )
    return info


def test_packages_cut_off_while_unpacking_are_found(tmp_path: Path) -> None:
    make_package(tmp_path, "whole")
    no_record = make_package(tmp_path, "a_no_record")
    (no_record / "RECORD").unlink()
    cut = make_package(tmp_path, "b_cut")
    (tmp_path / "b_cut" / "__init__.py").write_text("x")
    gone = make_package(tmp_path, "c_gone")
    (tmp_path / "c_gone" / "__init__.py").unlink()
    unfinished = make_package(tmp_path, "d_unfinished")
    (unfinished / "INSTALLER").unlink()
    assert broken_distributions(tmp_path) == [no_record, cut, gone, unfinished]


def test_this_environment_counts_as_whole() -> None:
    packages = next(Path(sys.prefix).glob("lib/python3.*/site-packages"))
    assert broken_distributions(packages) == []


def test_the_builder_is_taken_from_the_lock_with_its_hashes() -> None:
    text = locked_requirement((REPOSITORY / "requirements.lock").read_text(), "setuptools")
    assert text.startswith("setuptools==")
    assert "--hash=sha256:" in text
    assert "\n\n" not in text
    assert text.count("==") == 1
    with pytest.raises(ValueError, match="restore it"):
        locked_requirement("other==1\n", "setuptools")


def test_no_package_index_is_named_in_the_lock() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--index" not in lock
