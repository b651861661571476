"""Readers of recorded logs: each gives a `BehaviourLog` that `longrank replay` sends as live traffic."""
