"""Ports on loopback."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import ExitStack

from infra.errors import InfraError

LOOPBACK = "127.0.0.1"


def _bind(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # As Java's servers do: a port whose last connections are in TIME_WAIT is free.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError:
        listener.close()
        raise
    return listener


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    try:
        _bind(port).close()
    except OSError:
        return False
    return True


def choose_ports(wanted: Mapping[str, int], remembered: Mapping[str, int]) -> dict[str, int]:
    """A free port for every purpose in `wanted`.

    Args:
        wanted: purpose -> the port asked for, or 0 for any.
        remembered: purpose -> the port of the last run, taken again if it is free, so that clients find it.

    Raises:
        InfraError: a port that was asked for is taken.
    """
    with ExitStack() as held:  # all held until the end, so that no port is given out twice
        chosen: dict[str, int] = {}
        for purpose, port in sorted(wanted.items(), key=lambda item: item[1] == 0):
            for candidate in [port] if port else [remembered.get(purpose, 0), 0]:
                try:
                    listener = _bind(candidate)
                except OSError as error:
                    if port:
                        raise InfraError(
                            f"port {port} for {purpose} is taken ({error.strerror}); "
                            "give another, or none for a free one"
                        ) from error
                    continue
                held.callback(listener.close)
                chosen[purpose] = int(listener.getsockname()[1])
                break
        return chosen
