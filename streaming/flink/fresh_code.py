"""The code a job was submitted with is the code it runs, on TaskManagers that have run another version before.

In thread mode all jobs of a TaskManager share one Python, for the life of the process. What one job imported stays: the
next job, shipped with newer files, would silently run the old ones, or find none where the old job's were cleaned
away. So a shipped function is pickled together with the fingerprint of the client's code, and what unpickles it first
makes sure that this very code is loaded. Unpickling needs nothing but this file, which travels inside the pickle.
"""

from __future__ import annotations

import hashlib
import importlib
import pickle
import sys
import threading
from pathlib import Path
from typing import Any, Final

import cloudpickle  # type: ignore[import-untyped]

#: What the launcher ships.
PACKAGES: Final = ("schemas", "streaming")
_MARK: Final = "__fingerprint__"


def fingerprint(root: Path) -> str:
    """Digest of the packages' Python files below `root`; of no files at all when there are none."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            content = file.read_bytes()
            digest.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()


def load(wanted: str, pickled: bytes) -> object:
    """Unpickles `(class, attributes)` with the modules of the code whose fingerprint is wanted.

    Raises:
        RuntimeError: that code is not here, or cannot be loaded beside what this process has loaded before.
    """
    # Tasks of one process unpickle at the same time.
    lock: threading.Lock = sys.__dict__.setdefault("_longrank_code_lock", threading.Lock())
    with lock:
        loaded = sys.modules.get(PACKAGES[-1])
        # The same code, and its files still there: another job's may have been cleaned away before all was imported.
        if getattr(loaded, _MARK, None) != wanted or not Path(str(getattr(loaded, "__file__", ""))).is_file():
            _replace_modules(wanted)
        try:
            shipped_type, attributes = pickle.loads(pickled)
        except TypeError as error:
            if "duplicate file name" not in str(error):
                raise
            raise RuntimeError(
                "this TaskManager's process has run a job with other Protobuf schemas, and a process can hold only one"
                " version of them: restart the TaskManagers, then submit again"
            ) from error
    function = shipped_type.__new__(shipped_type)
    function.__dict__.update(attributes)
    return function


def _replace_modules(wanted: str) -> None:
    """Forgets every loaded module of the packages and imports them from where the wanted code lies.

    Functions of other jobs keep the modules that they hold.
    """
    roots = [entry for entry in sys.path if entry and all((Path(entry) / package).is_dir() for package in PACKAGES)]
    root = next((entry for entry in roots if fingerprint(Path(entry)) == wanted), None)
    if root is None:
        raise RuntimeError(
            f"the job's code ({wanted[:12]}) is not on this TaskManager's Python path; submit it with our `flink run`,"
            f" which ships it (found other code in: {', '.join(roots) or 'none'})"
        )
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        del sys.modules[name]
    sys.path.remove(root)
    sys.path.insert(0, root)
    importlib.invalidate_caches()
    for package in PACKAGES:
        setattr(importlib.import_module(package), _MARK, wanted)


class Shipped:
    """Mixin of process functions: pickled so that `load` brings them back."""

    def __reduce__(self) -> tuple[Any, ...]:
        root = Path(__file__).parents[2]
        return load, (fingerprint(root), cloudpickle.dumps((type(self), self.__dict__)))


cloudpickle.register_pickle_by_value(sys.modules[__name__])
