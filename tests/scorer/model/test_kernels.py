"""The attention kernels against plain torch in double precision; need a GPU: `pytest --noconftest` runs them there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scorer.model.attention import Ragged, attend, attend_reference
from scorer.training.flat import tiles
from scorer.training.flat_predict import TILE

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

#: Relative error of a tensor's norm that rounding its inputs and its products to half precision explains.
TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 1.5e-3}


@pytest.mark.parametrize(
    ("lengths", "targets", "heads", "content", "terms", "dtype"),
    [
        ([100, 0, 1000, 37, 5], [3, 7, 40, 100, 0], 4, 48, 16, torch.bfloat16),
        ([300, 10, 2000], [40, 64, 1], 16, 48, 16, torch.bfloat16),
        ([300, 10, 2000], [40, 40, 40], 2, 48, 16, torch.float16),
        ([5000], [300], 2, 112, 16, torch.bfloat16),
        ([700, 64, 256], [5, 5, 5], 3, 20, 9, torch.float16),
    ],
)
def test_outputs_and_gradients_are_those_of_plain_torch(
    lengths: list[int], targets: list[int], heads: int, content: int, terms: int, dtype: torch.dtype
) -> None:
    from scorer.model.kernels import TARGET_TILE, TOKEN_TILE

    generator = torch.Generator("cuda").manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", generator=generator).to(dtype)

    token_offsets = np.concatenate([[0], np.cumsum(lengths)])
    target_offsets = np.concatenate([[0], np.cumsum(targets)])
    tokens, queries = int(token_offsets[-1]), int(target_offsets[-1])
    q, kv, gradient = (
        random(queries, heads, content + terms),
        random(tokens, 2, heads, content),
        random(queries, heads, content + terms),
    )
    key_terms = torch.rand(tokens, terms, device="cuda", generator=generator).to(dtype)
    value_terms = torch.cat([torch.zeros_like(key_terms[:, :1]), key_terms[:, 1:]], dim=1)
    assert TILE == (TARGET_TILE, TOKEN_TILE)
    for single in {max(targets) <= TARGET_TILE, False}:
        ragged = Ragged(
            torch.from_numpy(token_offsets).int().cuda(),
            torch.from_numpy(target_offsets).int().cuda(),
            torch.from_numpy(tiles(target_offsets, TARGET_TILE, queries)).cuda(),
            torch.from_numpy(tiles(token_offsets, TOKEN_TILE, tokens)).cuda(),
            single,
        )
        fast = [t.clone().requires_grad_() for t in (q, kv)]
        out = attend(*fast, key_terms, value_terms, ragged)
        out.backward(gradient)
        exact = [t.double().requires_grad_() for t in (q, kv)]
        expected = attend_reference(*exact, key_terms.double(), value_terms.double(), ragged)
        expected.backward(gradient.double())
        pairs = [(out, expected), *((one.grad, other.grad) for one, other in zip(fast, exact, strict=True))]
        for one, other in pairs:
            error = (one.detach().double() - other.detach()).norm() / other.detach().norm()
            assert error < TOLERANCE[dtype], f"{error:.1e}"
