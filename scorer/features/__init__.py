"""From rows and ids to the arrays that the two graphs take; numpy only, the same code in training and serving."""

from scorer.features.featurise import HistoryHead, featurise_history, featurise_targets, rebase_terms
from scorer.features.settings import FeatureSettings

__all__ = ["FeatureSettings", "HistoryHead", "featurise_history", "featurise_targets", "rebase_terms"]
