"""The nightly retrain: bounded offsets, resolved stamps, training, gate, export, publish."""
