"""What pip's failures mean, and what a pip that was cut off left behind. Standard library only."""

from __future__ import annotations

import csv
import re
from pathlib import Path


def locked_requirement(lock: str, package: str) -> str:
    """One package's lines of a lock file, hashes included.

    Raises:
        ValueError: the lock does not have it.
    """
    found = re.search(rf"^{re.escape(package)}==.*(?:\n[ \t].*)*", lock, re.MULTILINE)
    if found is None:
        raise ValueError(f"requirements.lock has no {package}; restore it from git")
    return found.group(0) + "\n"


def explain_pip_failure(output: str, log: Path) -> tuple[str, bool]:
    """What pip's output says went wrong, as one line, and whether trying again may help."""
    if "No space left on device" in output:
        return "the disk filled up while installing packages; free some space and run this again", False
    if "DO NOT MATCH THE HASHES" in output or "Expected sha256" in output:
        package = re.search(r"^\s*([\w.\-]+==\S+|[\w.\-]+)[^\n]*:\n\s+Expected sha256", output, re.MULTILINE)
        name = package.group(1) if package else "a package"
        return (
            f"{name} has another checksum than requirements.lock says; a proxy or mirror altered it: "
            "try another network, or check the lock against git",
            False,
        )
    network = r"NewConnectionError|NameResolution|ConnectTimeout|ReadTimeout|ProxyError|SSLError|Connection (?:refused"
    network += r"|reset|aborted|broken)|Temporary failure in name resolution|IncompleteRead|Max retries exceeded"
    if re.search(network, output):
        return (
            "the package index could not be reached; check the network (or pip's configuration), run this again",
            True,
        )
    errors = [line for line in output.splitlines() if line.startswith("ERROR")]
    what = errors[-1] if errors else (output.strip().splitlines() or ["no output"])[-1]
    return f"pip failed: {what.strip()[:300]}; the whole story is in {log}", False


def broken_distributions(site_packages: Path) -> list[Path]:
    """The .dist-info directories of packages that were not unpacked to their end.

    pip writes RECORD last; a package without it, or with a listed file missing or of another size, was cut off. pip
    itself would take it for installed.
    """
    broken = []
    for info in sorted(site_packages.glob("*.dist-info")):
        try:
            with (info / "RECORD").open(newline="") as file:
                rows = [row for row in csv.reader(file) if len(row) == 3 and row[2]]
            # Compiled files are Python's own to rewrite.
            listed = [(row[0], row[2]) for row in rows if not row[0].endswith(".pyc")]
            whole = all((site_packages / name).stat().st_size == int(size) for name, size in listed)
        except OSError:
            whole = False
        # The installer's own mark; an unfinished package has the RECORD of its archive, not yet this.
        if not whole or not (info / "INSTALLER").exists():
            broken.append(info)
    return broken
