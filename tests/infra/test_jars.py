"""The lock's format, and that nothing but the locked bytes can ever appear in the cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import jars
from infra.jars import Jar, JarError, JarSet, fetch_all, fetch_jar, format_lock, parse_lock, read_lock

CONTENT = b"the right bytes"
JAR = Jar("org.example:thing:1.0", hashlib.sha256(CONTENT).hexdigest())

_word = st.from_regex(r"[a-z][a-z0-9_.\-]{0,10}", fullmatch=True)
_coordinate = st.builds("{}:{}:{}".format, _word, _word, _word)
_sha256 = st.binary(max_size=4).map(lambda data: hashlib.sha256(data).hexdigest())


def download_of(*answers: bytes | Exception):
    """A network that gives these answers, one per attempt."""
    left = list(answers)

    def download(coordinate: str, directory: Path) -> Path:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            (directory / "half").write_bytes(b"half of it")
            raise answer
        path = directory / f"{coordinate.split(':')[1]}.jar"
        path.write_bytes(answer)
        return path

    return download


@given(st.dictionaries(_coordinate, _sha256, max_size=5), st.lists(_coordinate, max_size=3))
def test_a_written_lock_reads_back(checksums: dict[str, str], roots: list[str]) -> None:
    written = JarSet(
        name="some-set", roots=tuple(roots), jars=tuple(sorted(Jar(name, sha) for name, sha in checksums.items()))
    )
    assert parse_lock(format_lock([written])) == {"some-set": written}


def test_the_repositorys_lock_has_what_broker_and_flink_need() -> None:
    sets = read_lock()
    names = {jar.file_name for jar in sets["kafka-broker"].jars}
    assert {"kafka_2.13-4.4.0.jar", "kafka-clients-4.4.0.jar", "log4j-slf4j-impl-2.25.3.jar"} <= names
    assert len([name for name in names if name.startswith("kafka-clients")]) == 1
    assert [jar.file_name for jar in sets["flink-lib"].jars] == ["flink-sql-connector-kafka-5.0.0-2.2.jar"]


@pytest.mark.parametrize(
    "text",
    [
        "not toml [",
        "[s]\nroots = []",
        '[s]\nroots = []\n[s.sha256]\n"a:b:1" = "123"',
        f'[s]\nroots = []\n[s.sha256]\n"a:b" = "{"0" * 64}"',
        f'[s]\nroots = []\n[s.sha256]\n"../a:b:1" = "{"0" * 64}"',
    ],
)
def test_a_damaged_lock_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(JarError, match="restore") as refused:
        parse_lock(text)
    assert refused.value.exit_code == 2


def test_a_jar_is_fetched_once(tmp_path: Path) -> None:
    path = fetch_jar(JAR, tmp_path, download_of(CONTENT))
    assert path.read_bytes() == CONTENT
    assert fetch_jar(JAR, tmp_path, download_of()) == path  # no answers left: the network is not asked


def test_failures_are_retried_and_leave_nothing(tmp_path: Path) -> None:
    path = fetch_jar(JAR, tmp_path, download_of(OSError("cut"), b"altered", CONTENT))
    assert path.read_bytes() == CONTENT
    assert [entry for entry in tmp_path.rglob("*") if entry.is_file()] == [path]


def test_a_wrong_checksum_is_named_and_never_cached(tmp_path: Path) -> None:
    wrong = hashlib.sha256(b"altered").hexdigest()
    with pytest.raises(JarError, match=f"org.example:thing:1.0: wrong checksum .*{wrong}") as refused:
        fetch_jar(JAR, tmp_path, download_of(*[b"altered"] * 4))
    assert "\n" not in str(refused.value)
    assert not [entry for entry in tmp_path.rglob("*") if entry.is_file()]


def test_no_network_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(JarError, match="check the network") as refused:
        fetch_jar(JAR, tmp_path, download_of(*[OSError("unreachable\nhost")] * 4))
    assert "\n" not in str(refused.value)


def test_an_interrupted_fetch_leaves_no_jar_and_is_continued(tmp_path: Path) -> None:
    def killed(_: str, directory: Path) -> Path:
        (directory / JAR.file_name).write_bytes(CONTENT[:3])
        raise KeyboardInterrupt

    other = Jar("org.example:other:2", JAR.sha256)
    fetch_jar(other, tmp_path, download_of(CONTENT))
    with pytest.raises(KeyboardInterrupt):
        fetch_jar(JAR, tmp_path, killed)
    assert not JAR.path(tmp_path).exists()
    fetch_all([JarSet(name="s", roots=(), jars=(JAR, other))], tmp_path, download_of(CONTENT))
    assert JAR.path(tmp_path).read_bytes() == CONTENT


def test_a_classpath_without_its_jars_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(JarError, match="make setup"):
        jars.classpath("flink-lib", tmp_path)
