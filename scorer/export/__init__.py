"""From torch weights to a model bundle: two ONNX graphs, the weights for the next warm start, the manifest."""

from scorer.export.bundle import export_bundle, load_weights
from scorer.export.parity import ParityCase, ParityError, torch_probabilities

__all__ = ["ParityCase", "ParityError", "export_bundle", "load_weights", "torch_probabilities"]
