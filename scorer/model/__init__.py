"""The STCA ranking model (arXiv 2511.06077) in torch."""

from scorer.model.presets import PRESETS, ModelSettings, model_settings
from scorer.model.stca import STCA

__all__ = ["PRESETS", "STCA", "ModelSettings", "model_settings"]
