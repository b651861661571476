"""The forward pass over many requests at once, each with a history of its own: flat tokens and offsets, no padding.

The same function as `STCA.encode` and `STCA.score`; a test holds them together. Everything but the attention is
token-wise or target-wise, so shapes are constant when the batch's totals are. Shape suffixes: see
`scorer/model/stca.py`; here L and M run over all requests of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from scorer.model.attention import Ragged, attend
from scorer.model.stca import STCA, split_readout, value_terms


@dataclass(frozen=True)
class FlatInputs:
    """What one forward pass takes."""

    #: `token_features` of all requests' events, [L, ..] each.
    history: dict[str, Tensor]
    #: `target_features` of all requests' targets, [M, ..] each.
    targets: dict[str, Tensor]
    #: The events' factors of the attention terms, [L, J].
    terms: Tensor
    #: The factors and the context of each target's request, [M, J] and [M, 7].
    request_terms: Tensor
    context: Tensor
    ragged: Ragged


def score_flat(model: STCA, inputs: FlatInputs) -> Tensor:
    """Logits [M, A] of all targets."""
    return score_each(model, inputs).mean(1)


def score_each(model: STCA, inputs: FlatInputs) -> Tensor:
    """Logits [M, copies, A] of all targets by each ranking head."""
    t_MD = model.embedding.targets(inputs.targets)
    encoded = _encode(model, model.embedding.history(inputs.history))
    dtype = encoded[0].dtype
    key_terms_LJ = inputs.terms.to(dtype)
    value_terms_LJ = value_terms(key_terms_LJ)
    content = model.settings.head_dim - model.features.terms
    outputs: list[Tensor] = []
    readouts: list[Tensor] = []
    for i, layer in enumerate(model.cross_attentions()):
        q_MHC, coefficients_MHJ = layer.queries(model.query_input(i, t_MD, outputs))
        q_MHK = torch.cat([q_MHC, coefficients_MHJ * inputs.request_terms[:, None]], dim=-1).to(dtype)
        o_MHK = attend(q_MHK, encoded[i], key_terms_LJ, value_terms_LJ, inputs.ragged)
        outputs.append(layer.out(o_MHK[..., :content].flatten(1)))
        # The logarithm of a share needs more than half precision's range.
        precise = o_MHK[..., content:].to(torch.promote_types(dtype, torch.float32))
        readouts.append(model.read_out(*split_readout(precise, inputs.request_terms[:, None])))
    return model.rank_each(t_MD, outputs, readouts, inputs.context)


def _encode(model: STCA, x_LD: Tensor) -> list[Tensor]:
    """Keys and values of each layer, [L, 2, H, C], from the embedded events; as `STCA.encode_content`.

    All layers read the same tokens, so their FFNs' first products are one: its gradient towards the tokens is then one
    product, too, where sums of partial ones would pass through memory once a layer. Keys and values likewise.
    """
    layers = model.cross_attentions()
    first = torch.cat([weight for layer in layers for weight in layer.encoder.first_weights()])
    hidden = linear(x_LD, first).chunk(len(layers), dim=1)
    return [
        linear(
            layer.encoder.finish(x_LD, *of_layer.chunk(2, dim=1)), torch.cat([layer.key.weight, layer.value.weight])
        ).view(len(x_LD), 2, layer.heads, layer.content)
        for layer, of_layer in zip(layers, hidden, strict=True)
    ]
