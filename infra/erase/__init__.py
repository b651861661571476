"""Forgetting a user: the order, its confirmation by everyone who holds a history, the receipt, the proof."""
