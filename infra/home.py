"""Where things lie: one directory per local cluster, one cache per user."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from infra.errors import InfraError

HOME_VARIABLE: Final = "LONGRANK_HOME"
BOOTSTRAP_VARIABLE: Final = "LONGRANK_BOOTSTRAP"


def home_dir(option: str | Path | None = None) -> Path:
    """The local cluster's directory, absolute: the option, else $LONGRANK_HOME, else ./.longrank."""
    return Path(option or os.environ.get(HOME_VARIABLE) or ".longrank").expanduser().resolve()


def cache_dir() -> Path:
    """What every checkout of this user shares: $XDG_CACHE_HOME/longrank, else ~/.cache/longrank."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().resolve() / "longrank"


def default_bootstrap(home: str | Path | None = None) -> str:
    """`host:port` of the broker: $LONGRANK_BOOTSTRAP, else the local cluster's of `home`.

    Raises:
        InfraError: neither is there.
    """
    if named := os.environ.get(BOOTSTRAP_VARIABLE):
        return named
    from infra.cluster.local import LocalCluster  # the cluster imports this module's paths

    return LocalCluster(home_dir(home)).info().bootstrap


def default_rest_url(home: str | Path | None = None) -> str:
    """`http://host:port` of the local JobManager of `home`.

    Raises:
        InfraError: no cluster runs there.
    """
    from infra.cluster.local import LocalCluster

    return LocalCluster(home_dir(home)).info().rest_url


def require_bootstrap(option: str | None, home: str | Path | None = None) -> str:
    """A command's `--bootstrap`, or the default.

    Raises:
        InfraError: none given and none found, or not of the form host:port[,host:port].
    """
    bootstrap = option or default_bootstrap(home)
    for address in bootstrap.split(","):
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise InfraError(f"bootstrap {address!r} is not host:port; write for example 127.0.0.1:9092")
    return bootstrap
