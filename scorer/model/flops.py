"""How many floating point operations the model's matrix products take; a multiply-add counts two.

The parts as in "Make It Long, Keep It Fast" (arXiv 2511.06077), section 3: what is paid once per history token does not
depend on the number of targets, and the other way round; only attention pays for pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

from scorer.features.settings import CONTEXT_WIDTH, ENGAGEMENT_WIDTH, FeatureSettings
from scorer.model.presets import ModelSettings

_HEAD_TOKENS = 4


@dataclass(frozen=True, kw_only=True)
class ForwardFlops:
    """Of one forward pass."""

    #: Layers and embeddings of one history token; of one target; attention of one target to one token.
    token: int
    token_embedding: int
    target: int
    target_embedding: int
    pair: int

    def forward(self, tokens: float, targets: float, pairs: float) -> float:
        """Of a batch; pairs is the sum over requests of targets times tokens."""
        return (
            tokens * (self.token + self.token_embedding)
            + targets * (self.target + self.target_embedding)
            + pairs * self.pair
        )

    def training(self, tokens: float, targets: float, pairs: float) -> float:
        """Forward and backward: two more products for each, but for embeddings, whose inputs have no gradient.

        What the backward pass of attention computes again is not counted.
        """
        layers = tokens * self.token + targets * self.target + pairs * self.pair
        return 3 * layers + 2 * (tokens * self.token_embedding + targets * self.target_embedding)


def forward_flops(settings: ModelSettings, features: FeatureSettings, tasks: int) -> ForwardFlops:
    """The count for a model."""
    d, heads, layers, terms = settings.d, settings.heads, settings.layers, features.terms
    content = settings.head_dim - terms
    encoder = 3 * 2 * d * settings.ffn_ratio * d
    ids = 2 * d * (2 * features.code_bits + 2 * settings.table_dim)
    per_target = 0
    for i in range(layers):
        per_target += encoder + 2 * d * heads * (content + terms) + 2 * heads * content * d
        if i:
            per_target += _swiglu((i + 1) * d, d, d)
    per_target += 2 * layers * heads * (1 + terms) * d
    hidden = settings.head_ratio * d
    head = _swiglu((layers + 2) * d, hidden, d) + 2 * CONTEXT_WIDTH * d + 2 * d * d
    head += settings.mixer_blocks * _HEAD_TOKENS * _swiglu(d, hidden, d) + 2 * _HEAD_TOKENS * d * tasks
    return ForwardFlops(
        token=layers * (encoder + 2 * 2 * d * heads * content),
        token_embedding=ids + 2 * ENGAGEMENT_WIDTH * d,
        target=per_target + settings.head_copies * head,
        target_embedding=ids,
        pair=layers * 2 * 2 * heads * settings.head_dim,
    )


def _swiglu(d_in: int, d_hidden: int, d_out: int) -> int:
    return 2 * (2 * d_in * d_hidden + d_hidden * d_out)
