"""Backfill: histories from before this system, packed offline, published as SEED records."""
