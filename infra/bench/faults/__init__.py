"""Seeded kills under traffic: `traffic` and `kills` say what happens, `run` does it, `judgement` says what it did."""
