"""A history from before the system goes in front of what is there. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

from infra.verify.epochs import ID_BYTES, ROW, ROW_BYTES, User
from schemas.packing import unpack_history
from schemas.v1.behaviour_pb2 import BehaviourEvent

#: In the place of an id that nobody knows any more.
_FORGOTTEN: Final = bytes(ID_BYTES)
_SEEDED: Final = -1


class SeedOutcome(Enum):
    """What a part of a seed did."""

    DUPLICATE = auto()
    PART = auto()
    #: It was the last one.
    SEEDED = auto()


def take_seed(user: User, event: BehaviourEvent, generation: int, kept_events: int, dedupe_window: int) -> SeedOutcome:
    """Parts in order; the last puts all of them before what the newest epoch kept, in an epoch of its own."""
    seed = event.seed
    repeated = bool(user.seeds) and user.seeds[0].event_id == event.event_id and seed.part < len(user.seeds)
    if event.event_id == user.seed_done or repeated:
        return SeedOutcome.DUPLICATE
    user.seeds = (*user.seeds, event) if seed.part else (event,)
    if seed.part + 1 < seed.parts:
        return SeedOutcome.PART
    parts, user.seeds, user.seed_done = user.seeds, (), event.event_id
    ids = [seed.event_ids[at : at + ID_BYTES] for at in range(0, len(seed.event_ids), ID_BYTES)]
    rows = b"".join(unpack_history(part.seed.packed).tobytes() for part in parts)
    named = [_FORGOTTEN] * (len(rows) // ROW_BYTES - len(ids)) + ids
    entries = [(rows[at * ROW_BYTES : (at + 1) * ROW_BYTES], name, _SEEDED) for at, name in enumerate(named)]
    # The window's newest ids are those of the newest events; what is left of it, an erase's, belongs to none.
    before, old = user.current, list(user.window)
    held = 0 if before is None else len(before.digests)
    older, newest = old[: max(0, len(old) - held)], old[max(0, len(old) - held) :]
    if before is not None:
        for n in range(before.last - min(held, kept_events) + 1, before.last + 1):
            event_id = before.event_id(n) if n > before.last - len(newest) else _FORGOTTEN
            if event_id not in ids:
                entries.append((before.row_bytes(n, n), event_id, before.offset(n)))
    epoch = user.open((generation << 32 if before is None else before.number) + 1)
    for row, event_id, offset in entries:
        epoch.append(row, event_id, offset)
    epoch.seeded = epoch.head = epoch.last
    remembered = [event_id for event_id in older if event_id not in ids]
    user.window = _window([*remembered, *(event_id for _, event_id, _ in entries)], dedupe_window)
    user.newest_ms = max(ROW.unpack(row)[0] for row, _, _ in entries)
    return SeedOutcome.SEEDED


def _window(names: Sequence[bytes | int], most: int) -> dict[bytes | int, None]:
    """The newest ids, oldest first. What is forgotten or stands there twice takes its place all the same."""
    window: list[bytes | int] = []
    seen: set[bytes | int] = set()
    for place, name in enumerate(reversed(names[-most:])):
        window.append(place if name == _FORGOTTEN or isinstance(name, int) or name in seen else name)
        seen.add(name)
    return dict.fromkeys(reversed(window))
