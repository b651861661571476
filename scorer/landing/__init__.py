"""From topics to the trainer: bounded reads of Kafka, examples in a lake of Parquet, and their resolved histories.

Only `bounded.py` knows Kafka. `Lake` is what people open; see README.md here.
"""

from scorer.landing.lake import Lake
from scorer.landing.objects import LakeError

__all__ = ["Lake", "LakeError"]
