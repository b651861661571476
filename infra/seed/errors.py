"""What can go wrong while seeding, for the person who seeds."""

from __future__ import annotations


class SeedError(Exception):
    """The histories cannot be seeded as they are; the message names the place and what to do."""
