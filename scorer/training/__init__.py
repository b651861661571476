"""Datasets, training, evaluation and the gate; torch and numpy only, so that it runs on a box without Kafka."""
