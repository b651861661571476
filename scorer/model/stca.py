"""Stacked target-to-history cross attention, "Make It Long, Keep It Fast" (arXiv 2511.06077), section 3.

Shape suffixes
    L  history tokens          M  targets               D  width of tokens and queries
    N  layers                  H  heads                 C  learned content of a head
    J  attention terms         K  = C + J, head_dim     T  tokens of the ranking head
    A  tasks                   R  requests of one user in a training group

Layer i, with t the target's token and o_1 .. o_{i-1} the earlier layers' outputs:

    X_i = LN(X + SwiGLUFFN_i(X))                          history encoder, token-wise
    u_i = t + fusion_i([o_1 .. o_{i-1}, t])               query fusion; u_1 = t
    q_i = W_q LN(u_i + SwiGLUFFN_i(u_i))                  the history encoder's own weights
    o_i = attention(q_i, W_k X_i, W_v X_i)

and z = SwiGLUFFN([o_1 .. o_N, t, readouts]) without LayerNorm goes to the ranking head.

`encode` and `score` are what serving runs; `scorer/model/flat.py` and `scorer/model/grouped.py` compute the same
function over many requests.

What differs from the paper, each for measured quality: the residual in the encoder; queries run through the encoder's
weights and W_q starts as W_k, so that equal ids attract from the first step; the attention terms (time and rank, see
`scorer/features/featurise.py`) as extra columns of keys and queries; a null key with logit 0 in every softmax. The null
key takes what no event claims: with S = sum of exp(logit), -log(its share) = log(1 + S) says how much was found,
which a softmax otherwise hides, and an empty history is a softmax over the null key alone. The terms are also extra
columns of the values: they read out how recent the attended events are.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from scorer.features.settings import CONTEXT_WIDTH, FeatureSettings
from scorer.model.attention import NULL_VALUE, null_row
from scorer.model.blocks import HistoryEncoder, RankMixer, SwiGLUFFN, TokenEmbedding
from scorer.model.presets import ModelSettings

#: Tokens of the ranking head: z, readouts, user, candidate.
_HEAD_TOKENS: Final = 4
#: Where the constant term starts: below the logit of an exact match, above that of most others.
_THRESHOLD_INIT: Final = -3.0
#: What half precision can still tell from nothing, with `NULL_VALUE`.
_SMALLEST_SHARE: Final = 1e-8


def value_terms(terms: Tensor) -> Tensor:
    """The terms [..., J] of values: those of keys, but for the first, which is the null key's own."""
    return torch.cat([torch.zeros_like(terms[..., :1]), terms[..., 1:]], dim=-1)


def split_readout(attended: Tensor, request_terms: Tensor) -> tuple[Tensor, Tensor]:
    """What `STCA.read_out` takes, from the attended terms [..., H, J] and the request's factors [..., J].

    Returns the null key's share [..., H] and the terms [..., H, J], the first of them the events' share.
    """
    null_share = attended[..., 0] / NULL_VALUE
    return null_share, torch.cat([1 - null_share[..., None], attended[..., 1:] * request_terms[..., 1:]], dim=-1)


class CrossAttention(nn.Module):
    """One layer: the history's keys and values, the targets' queries, and attention between them."""

    def __init__(self, settings: ModelSettings, terms: int) -> None:
        super().__init__()
        self.heads, self.content = settings.heads, settings.head_dim - terms
        width = settings.heads * self.content
        self.encoder = HistoryEncoder(settings.d, settings.ffn_ratio, residual=settings.residual)
        self.query_encoder = (
            self.encoder
            if settings.tied_query
            else HistoryEncoder(settings.d, settings.ffn_ratio, residual=settings.residual)
        )
        # No bias on keys: the constant term does what it would.
        self.key = nn.Linear(settings.d, width, bias=False)
        self.value = nn.Linear(settings.d, width, bias=False)
        self.query = nn.Linear(settings.d, width, bias=False)
        self.query_terms = nn.Linear(settings.d, settings.heads * terms)
        self.out = nn.Linear(width, settings.d, bias=False)
        # Unit variance out of LayerNorm's unit variance: a match stands out from the first step.
        nn.init.normal_(self.key.weight, std=settings.d**-0.5)
        if settings.tied_query:
            self.query.weight.data.copy_(self.key.weight)
        nn.init.normal_(self.query_terms.weight, std=0.01)
        nn.init.zeros_(self.query_terms.bias)
        self.query_terms.bias.data.view(settings.heads, terms)[:, 0] = _THRESHOLD_INIT

    def keys_values(self, x_LD: Tensor) -> tuple[Tensor, Tensor]:
        """The learned content of keys and values, each [L, H, C]."""
        x_LD = self.encoder(x_LD)
        shape = (-1, self.heads, self.content)
        return self.key(x_LD).reshape(shape), self.value(x_LD).reshape(shape)

    def queries(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """For u [..., D]: the content [..., H, C], scaled, and the coefficients of the terms [..., H, J]."""
        q = self.query_encoder(u)
        content = self.query(q).reshape(*u.shape[:-1], self.heads, self.content) / math.sqrt(self.content)
        return content, self.query_terms(q).reshape(*u.shape[:-1], self.heads, -1)


class RankingHead(nn.Module):
    """Final fusion of a target's attention outputs, RankMixer over four tokens, a logit per task."""

    def __init__(self, settings: ModelSettings, tasks: int) -> None:
        super().__init__()
        d = settings.d
        self.final_fusion = SwiGLUFFN((settings.layers + 2) * d, settings.head_ratio * d, d)
        self.user_token = nn.Linear(CONTEXT_WIDTH, d)
        self.candidate_token = nn.Linear(d, d)
        self.mixers = nn.ModuleList(
            RankMixer(_HEAD_TOKENS, d, settings.head_ratio) for _ in range(settings.mixer_blocks)
        )
        self.logits = nn.Linear(_HEAD_TOKENS * d, tasks)

    def forward(self, t_MD: Tensor, outputs: list[Tensor], readout_MD: Tensor, context: Tensor) -> Tensor:
        """Logits [M, A]."""
        z_MD = self.final_fusion(torch.cat([*outputs, t_MD, readout_MD], dim=-1))
        x_MTD = torch.stack([z_MD, readout_MD, self.user_token(context), self.candidate_token(t_MD)], dim=1)
        for mixer in self.mixers:
            x_MTD = mixer(x_MTD)
        out: Tensor = self.logits(x_MTD.flatten(1))
        return out


class STCA(nn.Module):
    """`encode` the history once, `score` any number of targets against it. Logits; probabilities are their sigmoid.

    Raises:
        ValueError: head_dim leaves no room beside the terms, or no task is given.
    """

    def __init__(self, settings: ModelSettings, features: FeatureSettings, tasks: tuple[str, ...]) -> None:
        super().__init__()
        if settings.head_dim <= features.terms:
            raise ValueError(f"head_dim {settings.head_dim} has no room beside {features.terms} attention terms")
        if not tasks:
            raise ValueError("a model needs at least one task")
        self.settings, self.features, self.tasks = settings, features, tasks
        d = settings.d
        self.embedding = TokenEmbedding(d, settings.table_dim, features)
        self.layers = nn.ModuleList(CrossAttention(settings, features.terms) for _ in range(settings.layers))
        self.fusions = nn.ModuleList(SwiGLUFFN((i + 1) * d, d, d) for i in range(1, settings.layers))
        readouts = settings.layers * settings.heads * (1 + features.terms)
        self.readout = nn.Linear(readouts, d)
        self.heads = nn.ModuleList(RankingHead(settings, len(tasks)) for _ in range(settings.head_copies))

    def encode_content(self, features: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of each layer, each [L, H, C], from `token_features`."""
        x_LD = self.embedding.history(features)
        pairs = [layer.keys_values(x_LD) for layer in self.cross_attentions()]
        return [key for key, _ in pairs], [value for _, value in pairs]

    def encode(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values, each [N, L, H, K], from `featurise_history`: content first, then the terms."""
        keys, values = self.encode_content(features)
        terms_LJ = features["terms"]
        terms_NLHJ = terms_LJ[None, :, None, :].expand(self.settings.layers, -1, self.settings.heads, -1)
        return (
            torch.cat([torch.stack(keys), terms_NLHJ], dim=-1),
            torch.cat([torch.stack(values), value_terms(terms_NLHJ)], dim=-1),
        )

    def score(self, features: dict[str, Tensor], keys_NLHK: Tensor, values_NLHK: Tensor) -> Tensor:
        """Logits [M, A] of the targets of one request, from `featurise_targets` and what `encode` gave."""
        t_MD = self.embedding.targets(features)
        request_terms_J = features["request_terms"]
        outputs: list[Tensor] = []
        readouts: list[Tensor] = []
        content = self.settings.head_dim - self.features.terms
        # The null key is a row of zeros, concatenated rather than padded: ONNX Runtime dies of a Pad of nothing.
        shape = (self.settings.layers, 1, self.settings.heads, self.settings.head_dim)
        keys_NLHK = torch.cat([keys_NLHK.new_zeros(shape), keys_NLHK], dim=1)
        values_NLHK = torch.cat([null_row(features["request_terms"], content).expand(shape), values_NLHK], dim=1)
        for i, layer in enumerate(self.cross_attentions()):
            q_MHC, coefficients_MHJ = layer.queries(self.query_input(i, t_MD, outputs))
            q_HMK = torch.cat([q_MHC, coefficients_MHJ * request_terms_J], dim=-1).transpose(0, 1)
            k_HKL = keys_NLHK[i].permute(1, 2, 0)
            v_HLK = values_NLHK[i].transpose(0, 1)
            shares_HML = torch.softmax(q_HMK @ k_HKL, dim=-1)
            o_MHK = (shares_HML @ v_HLK).transpose(0, 1)
            outputs.append(layer.out(o_MHK[..., :content].flatten(1)))
            readouts.append(self.read_out(*split_readout(o_MHK[..., content:], request_terms_J)))
        return self.rank(t_MD, outputs, readouts, features["request_context"].expand(t_MD.shape[0], -1))

    def query_input(self, i: int, t: Tensor, outputs: list[Tensor]) -> Tensor:
        """u_{i+1} [..., D] from the targets' tokens [..., D] and the outputs of the layers before."""
        if i == 0:
            return t
        fused: Tensor = self.fusions[i - 1](torch.cat([*outputs, t], dim=-1))
        return t + fused

    def read_out(self, null_share: Tensor, terms: Tensor) -> Tensor:
        """[..., H] and [..., H, J] to [..., H * (1 + J)]: log(1 + S) and the attended terms."""
        found = -torch.log(null_share.clamp_min(_SMALLEST_SHARE))
        return torch.cat([found, terms.flatten(-2)], dim=-1)

    def rank(self, t_MD: Tensor, outputs: list[Tensor], readouts: list[Tensor], context: Tensor) -> Tensor:
        """Logits [M, A]: the mean of the ranking heads'. `context` is [M, 7]."""
        return self.rank_each(t_MD, outputs, readouts, context).mean(1)

    def rank_each(self, t_MD: Tensor, outputs: list[Tensor], readouts: list[Tensor], context: Tensor) -> Tensor:
        """Logits [M, copies, A] of each ranking head."""
        readout_MD = self.readout(torch.cat(readouts, dim=-1))
        if not self.settings.readout:
            readout_MD = torch.zeros_like(readout_MD)
        return torch.stack([head(t_MD, outputs, readout_MD, context) for head in self.heads], dim=1)

    def cross_attentions(self) -> list[CrossAttention]:
        """The layers, first to last."""
        return [layer for layer in self.layers if isinstance(layer, CrossAttention)]

    def ranking_heads(self) -> list[RankingHead]:
        """The copies of the ranking head."""
        return [head for head in self.heads if isinstance(head, RankingHead)]
