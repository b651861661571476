"""`flink`: Flink's own command line, made to take our jobs as typed.

`flink run [options] path/to/job.py [job's arguments]` gains the job's packages as files to ship, so that a cluster
needs only Python with the locked packages. Everything else (`list`, `savepoint`, `stop`, `run -py`, a JAR) passes
through as it is. The cluster is, in this order:

  1. the one named by `-m`, `-t`, `-e` or FLINK_CONF_DIR: it gets the Kafka connector shipped along;
  2. the local one of $LONGRANK_HOME or ./.longrank, whose lib/ holds the connector.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from infra.cluster.flink import Flink, client_environment, distribution
from infra.cluster.interpreters import refresh_interpreters
from infra.cluster.local import LocalCluster
from infra.errors import InfraError
from infra.home import BOOTSTRAP_VARIABLE, cache_dir
from infra.jars import classpath
from infra.java import find_java_home

#: The packages a job imports.
SHIPPED: Final = ("schemas", "streaming")
# Options of `flink run` that are followed by a value (Flink 2.3, `flink run --help`), without their dashes.
_PYTHON_OPTIONS: Final = frozenset(
    {"pyarch", "pyArchives", "pyclientexec", "pyClientExecutable", "pyexec", "pyExecutable", "pyfs", "pyFiles"}
    | {"pypath", "pyPythonPath", "pyreq", "pyRequirements"}
)
_JOB_OPTIONS: Final = frozenset(
    {"C", "classpath", "cm", "claimMode", "rm", "restoreMode", "s", "fromSavepoint", "p", "parallelism"}
    | {"z", "zookeeperNamespace", "yid", "yarnapplicationId"}
)
_NAMES_A_CLUSTER: Final = frozenset({"m", "jobmanager", "t", "target", "e", "executor"})
_NAMES_A_PROGRAM: Final = frozenset({"c", "class", "py", "python", "pym", "pyModule", "j", "jarfile"})
_WITH_VALUE: Final = _NAMES_A_CLUSTER | _NAMES_A_PROGRAM | _PYTHON_OPTIONS | _JOB_OPTIONS
_NEEDS_NO_CLUSTER: Final = frozenset({"-h", "--help", "-v", "--version"})


@dataclass(frozen=True, kw_only=True)
class RunCommand:
    """`flink run` as typed, taken apart. `program` is the first word that is no option, or None."""

    options: tuple[str, ...]
    program: str | None
    arguments: tuple[str, ...]

    def has(self, names: frozenset[str]) -> bool:
        """Whether one of the options (without dashes) is given."""
        return any(option_name(word) in names for word in self.options)


def option_name(word: str) -> str | None:
    """`-py` and `--python=x.py` without dashes and value; None for a word that is no option."""
    if not word.startswith("-") or word == "-":
        return None
    name = word.lstrip("-").partition("=")[0]
    # Properties are written in one word: -Dkey=value.
    return "D" if word.startswith("-D") else name


def parse_run(words: Sequence[str]) -> RunCommand:
    """Take apart what follows `flink run`."""
    position = 0
    while position < len(words):
        word = words[position]
        name = option_name(word)
        if name is None:
            return RunCommand(options=tuple(words[:position]), program=word, arguments=tuple(words[position + 1 :]))
        takes_next = word == "-D" or (name in _WITH_VALUE and "=" not in word)
        position += 2 if takes_next else 1
    return RunCommand(options=tuple(words), program=None, arguments=())


def rewrite(words: Sequence[str], *, pack: Callable[[Path], Path], python: str, connector: Path | None) -> list[str]:
    """The arguments for Flink's own client.

    Args:
        words: what was typed after `flink`.
        pack: job file -> archive of the packages to ship with it.
        python: interpreter that builds the job's graph on this machine.
        connector: jar to ship along, or None if the cluster has it.

    Raises:
        InfraError: the job file does not exist.
    """
    if not words or words[0] != "run":
        return list(words)
    command = parse_run(words[1:])
    program = command.program
    if program is None or not program.endswith(".py") or command.has(_NAMES_A_PROGRAM):
        return list(words)
    job = Path(program)
    if not job.is_file():
        raise InfraError(f"job file {program} does not exist (working directory {Path.cwd()})")
    files, options = _without_py_files(command.options)
    rewritten = ["run", *options, "-pyfs", ",".join([str(pack(job)), *files])]
    if not command.has(frozenset({"pyclientexec", "pyClientExecutable"})):
        rewritten += ["-pyclientexec", python]
    if connector is not None:
        rewritten += ["-j", str(connector)]
    # The two dashes keep the job's own `-p` or `--parallelism` from being read as Flink's.
    tail = ["--", *command.arguments] if command.arguments else []
    return [*rewritten, "-py", str(job.resolve()), *tail]


def _without_py_files(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files of `-pyfs`, and the other options: Flink takes the option once only."""
    files: list[str] = []
    others: list[str] = []
    words = iter(options)
    for word in words:
        if option_name(word) in ("pyfs", "pyFiles"):
            files += (word.partition("=")[2] if "=" in word else next(words, "")).split(",")
        else:
            others.append(word)
    return [file for file in files if file], others


def package_root(job: Path) -> Path:
    """Where the shipped packages lie: the checkout that the job file is in, else the installed ones.

    Raises:
        InfraError: neither has them.
    """
    for directory in job.resolve().parents:
        if all((directory / name / "__init__.py").is_file() for name in SHIPPED):
            return directory
    spec = find_spec(SHIPPED[0])
    if spec is None or spec.origin is None:
        raise InfraError(f"package {SHIPPED[0]!r} is neither beside {job} nor installed; run `make setup`")
    return Path(spec.origin).parent.parent


def pack_modules(root: Path, directory: Path) -> Path:
    """Zip the shipped packages of `root` into `directory`, named by content: the same sources, the same file."""
    sources = sorted(
        path
        for name in SHIPPED
        for path in (root / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    contents = [(str(path.relative_to(root)), path.read_bytes()) for path in sources]
    digest = hashlib.sha256()
    for name, data in contents:
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    target = directory / f"longrank-{digest.hexdigest()[:16]}.zip"
    if target.exists():
        return target
    directory.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.NamedTemporaryFile(dir=directory, delete=False) as draft,
        zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name, data in contents:
            archive.writestr(zipfile.ZipInfo(name), data)  # without a date: it is no part of the content
    Path(draft.name).chmod(0o644)
    Path(draft.name).replace(target)
    return target


def prepare(words: Sequence[str], environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of Flink's client.

    Raises:
        InfraError: no cluster is named and none runs in the home; no Java, no jars, no job file.
    """
    packed: list[Path] = []

    def pack(job: Path) -> Path:
        packed.append(pack_modules(package_root(job), cache_dir() / "shipped"))
        return packed[-1]

    options = parse_run(words[1:]) if words else RunCommand(options=(), program=None, arguments=())
    named = "FLINK_CONF_DIR" in environment or options.has(_NAMES_A_CLUSTER)
    if named or not words or _NEEDS_NO_CLUSTER & {*words[:2]}:
        env = client_environment(find_java_home(), logs=cache_dir() / "flink-client-logs")
        connector = classpath("flink-lib")[0] if words[:1] == ["run"] else None
        arguments = rewrite(words, pack=pack, python=sys.executable, connector=connector)
    else:
        cluster = LocalCluster()
        try:
            info = cluster.info()
        except InfraError as error:
            raise InfraError(f"{error}, or name another with -m HOST:PORT or FLINK_CONF_DIR") from error
        env = Flink(cluster.home / "flink", info.logs, find_java_home()).environment()
        # A job of ours talks to the broker beside this Flink unless it is told otherwise.
        env.setdefault(BOOTSTRAP_VARIABLE, info.bootstrap)
        # The client lives for seconds: compiling for the long run costs it more than it gains.
        env.setdefault("JVM_ARGS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
        arguments = rewrite(words, pack=pack, python=sys.executable, connector=None)
        if packed and (restarted := refresh_interpreters(cluster, packed[0].name)):
            sys.stderr.write(f"flink: {', '.join(restarted)} restarted, for the job's modules have changed\n")
    return ["bash", str(distribution() / "bin" / "flink"), *arguments], env


def main() -> None:
    """The console script: becomes Flink's client, whose output and exit code are its own."""
    try:
        argv, env = prepare(sys.argv[1:], os.environ)
    except InfraError as error:
        sys.stderr.write(f"flink: {error}\n")
        sys.exit(error.exit_code)
    sys.stdout.flush()
    os.execvpe(argv[0], argv, env)
