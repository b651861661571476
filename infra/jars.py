"""The Java archives that broker and Flink need: pinned in `jars.lock`, fetched once into the user's cache.

`python -m infra.jars fetch` downloads what is missing; `python -m infra.jars lock` resolves the roots afresh and
rewrites the lock. Jars lie in the cache under their sha256, so that two versions of the lock share what they share.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infra.errors import InfraError
from infra.home import cache_dir

LOCK_FILE: Final = Path(__file__).with_name("jars.lock")
ATTEMPTS: Final = 4
_WORKERS: Final = 6
#: Where systems keep the certificates they trust; `requests` has its own list, and a company's proxy is not on it.
_SYSTEM_CERTIFICATES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_COORDINATE: Final = re.compile(r"[\w.\-]+:[\w.\-]+:[\w.\-]+")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class JarError(InfraError):
    """A jar that cannot be had, or is not what the lock says; exit code 2, as all of set-up's errors."""

    exit_code = 2


@dataclass(frozen=True, order=True)
class Jar:
    """One archive by its Maven coordinate `group:artifact:version`, and the sha256 of its bytes in hex."""

    coordinate: str
    sha256: str

    @property
    def file_name(self) -> str:
        """`artifact-version.jar`."""
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"

    def path(self, cache: Path) -> Path:
        """Where the verified jar lies below `cache`."""
        return cache / "jars" / self.sha256[:16] / self.file_name


@dataclass(frozen=True, kw_only=True)
class JarSet:
    """The jars of one classpath, and the coordinates (roots) that they were resolved from."""

    name: str
    roots: tuple[str, ...]
    jars: tuple[Jar, ...]


def parse_lock(text: str, source: str = LOCK_FILE.name) -> dict[str, JarSet]:
    """The sets of a lock file, by name.

    Raises:
        JarError: not TOML, an unknown shape, a coordinate or a checksum that is none.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise JarError(f"{source} is not readable: {error}; restore it from git") from error
    sets = {}
    for name, table in document.items():
        if not isinstance(table, dict) or set(table) != {"roots", "sha256"}:
            raise JarError(f"{source}: [{name}] must have roots and sha256; restore the file from git")
        for coordinate, sha256 in table["sha256"].items():
            if not _COORDINATE.fullmatch(coordinate) or not _SHA256.fullmatch(str(sha256)):
                raise JarError(
                    f"{source}: [{name}] {coordinate} = {sha256} is not group:artifact:version = sha256; "
                    "restore the file from git"
                )
        jars = tuple(sorted(Jar(coordinate, sha256) for coordinate, sha256 in table["sha256"].items()))
        sets[name] = JarSet(name=name, roots=tuple(table["roots"]), jars=jars)
    return sets


def format_lock(sets: list[JarSet]) -> str:
    """The lock file's text; `parse_lock` reads it back."""
    lines = [
        "# Java archives by Maven coordinate and sha256. Written by a program; to refresh: edit the `roots` below",
        "# (what we ask for), run `python -m infra.jars lock`, which resolves everything they need at run time,",
        "# downloads it and records the checksums, then read the diff and run the tests that start the cluster.",
    ]
    for jar_set in sets:
        lines += ["", f"[{jar_set.name}]", "roots = ["]
        lines += [f'    "{root}",' for root in jar_set.roots]
        lines += ["]", f"[{jar_set.name}.sha256]"]
        lines += [f'"{jar.coordinate}" = "{jar.sha256}"' for jar in sorted(jar_set.jars)]
    return "\n".join(lines) + "\n"


def read_lock(path: Path = LOCK_FILE) -> dict[str, JarSet]:
    """The repository's lock."""
    return parse_lock(path.read_text(), path.name)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


#: Downloads a coordinate's jar into a directory and returns its path.
Download = Callable[[str, Path], Path]


def _trust_what_the_system_trusts() -> None:
    if any(os.environ.get(name) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")):
        return
    candidates = (os.environ.get("SSL_CERT_FILE"), *_SYSTEM_CERTIFICATES)
    for bundle in candidates:
        if bundle and Path(bundle).is_file():
            os.environ["REQUESTS_CA_BUNDLE"] = bundle
            return


def _context(directory: Path) -> Any:
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext, PythonResolver

    _trust_what_the_system_trusts()
    # Repositories named in the user's own jgo configuration (a company's mirror) come before the public one.
    mirrors = GlobalSettings.load().repositories or None
    return MavenContext(resolver=PythonResolver(), repo_cache=directory, remote_repos=mirrors, timeout=30)


def download_with_jgo(coordinate: str, directory: Path) -> Path:
    """Fetch one jar from the Maven repositories that jgo knows."""
    group, artifact, version = coordinate.split(":")
    path = _context(directory).project(group, artifact).at_version(version).artifact().resolve()
    return Path(path)


def fetch_jar(jar: Jar, cache: Path, download: Download = download_with_jgo, attempts: int = ATTEMPTS) -> Path:
    """The jar's path in the cache, downloading it if it is not there.

    The file appears under its final name only when its checksum is right, by an atomic rename: an interrupted run
    leaves nothing that a later one could take for a jar.

    Raises:
        JarError: after `attempts` no bytes came, or they have another sha256.
    """
    target = jar.path(cache)
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    reason = ""
    for _ in range(attempts):
        # Within the cache, so that the rename stays on one file system; a fresh one per attempt, for a half
        # file of the last attempt must not be taken for a cached one.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetching-") as staging:
            try:
                got = download(jar.coordinate, Path(staging))
            except Exception as error:  # whatever the network does is retried, and told below
                reason = _shorten(error)
                continue
            found = sha256_of(got)
            if found == jar.sha256:
                got.replace(target)
                return target
            reason = f"sha256 is {found}, jars.lock says {jar.sha256}"
    if reason.startswith("sha256"):
        raise JarError(
            f"{jar.coordinate}: wrong checksum ({reason}); a proxy or mirror altered it: try another network, "
            "or check the lock file against git"
        )
    raise JarError(
        f"{jar.coordinate}: not downloaded after {attempts} attempts ({reason}); check the network and run again"
    )


def _shorten(error: BaseException) -> str:
    root = error
    while root.__cause__ is not None or root.__context__ is not None:
        root = root.__cause__ or root.__context__ or root
    return f"{type(root).__name__}: {root}"[:200].replace("\n", " ")


def fetch_all(sets: list[JarSet], cache: Path, download: Download = download_with_jgo) -> None:
    """Fetch what is missing, several at a time, with a progress bar.

    Raises:
        JarError: see `fetch_jar`; the first failure ends the run, and what is already there stays.
    """
    missing = sorted({jar for jar_set in sets for jar in jar_set.jars if not jar.path(cache).exists()})
    if not missing:
        return
    from rich.console import Console
    from rich.progress import Progress

    with (
        Progress(console=Console(stderr=True)) as progress,
        ThreadPoolExecutor(max_workers=_WORKERS) as pool,
    ):
        task = progress.add_task("Java archives", total=len(missing))
        futures = [pool.submit(fetch_jar, jar, cache, download) for jar in missing]
        try:
            for future in as_completed(futures):
                future.result()
                progress.advance(task)
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def classpath(name: str, cache: Path | None = None) -> list[Path]:
    """The verified jars of one set.

    Raises:
        JarError: one is missing: set-up has not run to its end.
    """
    cache = cache or cache_dir()
    paths = [jar.path(cache) for jar in read_lock()[name].jars]
    absent = [path.name for path in paths if not path.exists()]
    if absent:
        raise JarError(f"{absent[0]} and {len(absent) - 1} more jars are not in {cache}/jars; run `make setup`")
    return paths


def resolve(roots: tuple[str, ...], directory: Path) -> list[Jar]:
    """Everything `roots` need at run time, downloaded into `directory` and hashed."""
    context = _context(directory)
    dependencies = [context.create_dependency(root) for root in roots]
    for dependency in dependencies:
        # Else jgo lets each root's own dependencyManagement rule over the others, which Maven does not:
        # it would mix a Kafka 4.4 broker with the clients of 3.9.
        dependency.raw = True
    inputs, transitive = context.resolver.resolve(dependencies)
    jars = []
    for found in [*inputs, *transitive]:
        coordinate = f"{found.groupId}:{found.artifactId}:{found.version}"
        jars.append(Jar(coordinate, sha256_of(download_with_jgo(coordinate, directory))))
    return sorted(jars)


def main(arguments: list[str]) -> int:
    """`fetch` (what set-up calls) or `lock` (for maintainers)."""
    try:
        sets = list(read_lock().values())
        if arguments == ["fetch"]:
            fetch_all(sets, cache_dir())
        elif arguments == ["lock"]:
            with tempfile.TemporaryDirectory() as directory:
                sets = [
                    JarSet(name=old.name, roots=old.roots, jars=tuple(resolve(old.roots, Path(directory))))
                    for old in sets
                ]
            LOCK_FILE.write_text(format_lock(sets))
        else:
            sys.stderr.write("usage: python -m infra.jars fetch|lock\n")
            return 2
    except JarError as error:
        sys.stderr.write(f"longrank: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
