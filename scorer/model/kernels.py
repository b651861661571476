"""`scorer.model.attention.attend` on the GPU: two Triton kernels, online softmax forward, recomputation backward.

The few targets of a request (tens) meet its many tokens (thousands). So the forward pass gives a program one tile of
targets and one head and runs over the request's tokens; the backward pass gives a program one tile of tokens, whose
gradients it alone writes, and adds its part of the queries' gradient atomically. Algorithm: Dao et al.,
"FlashAttention" (arXiv 2205.14135), with the null key in the softmax's starting value.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from scorer.model.attention import NULL_VALUE

#: Tokens and targets of one tile.
TOKEN_TILE: Final = 128
TARGET_TILE: Final = 32


@triton.jit
def _load_joined(content, terms, rows, valid, head, heads, C: tl.constexpr, J: tl.constexpr, K: tl.constexpr):
    """[content | terms] of `rows` for one head, [rows, K]; zeros where not valid."""
    column = tl.arange(0, K)
    is_content = column < C
    rows64 = rows.to(tl.int64)
    from_content = tl.load(
        content + (rows64[:, None] * heads + head) * C + column[None, :],
        mask=valid[:, None] & is_content[None, :],
        other=0.0,
    )
    from_terms = tl.load(
        terms + rows64[:, None] * J + (column[None, :] - C), mask=valid[:, None] & ~is_content[None, :], other=0.0
    )
    return tl.where(is_content[None, :], from_content, from_terms)


@triton.jit
def _forward(
    q, keys, values, key_terms, value_terms, out, lse, token_offsets, target_offsets, target_tiles,
    heads, null_value,
    C: tl.constexpr, J: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    log2e: tl.constexpr = 1.4426950408889634
    tile, head = tl.program_id(0), tl.program_id(1)
    request = tl.load(target_tiles + 2 * tile)
    if request < 0:
        return
    first = tl.load(target_tiles + 2 * tile + 1)
    last = tl.load(target_offsets + request + 1)
    begin = tl.load(token_offsets + request)
    end = tl.load(token_offsets + request + 1)
    column = tl.arange(0, K)
    rows = first + tl.arange(0, BM)
    valid = rows < last
    at = (rows.to(tl.int64)[:, None] * heads + head) * K + column[None, :]
    q_MK = tl.load(q + at, mask=valid[:, None], other=0.0)
    # The null key: logit 0, so a maximum of 0 and a sum of 1 to start with.
    highest = tl.zeros([BM], dtype=tl.float32)
    total = tl.full([BM], 1.0, dtype=tl.float32)
    acc = tl.zeros([BM, K], dtype=tl.float32) + tl.where(column == C, null_value, 0.0)[None, :]
    for start in range(begin, end, BN):
        tokens = start + tl.arange(0, BN)
        inside = tokens < end
        k_NK = _load_joined(keys, key_terms, tokens, inside, head, heads, C, J, K)
        v_NK = _load_joined(values, value_terms, tokens, inside, head, heads, C, J, K)
        logits = tl.dot(q_MK, tl.trans(k_NK)) * log2e
        logits = tl.where(inside[None, :], logits, float("-inf"))
        higher = tl.maximum(highest, tl.max(logits, 1))
        shrink = tl.exp2(highest - higher)
        p = tl.exp2(logits - higher[:, None])
        total = total * shrink + tl.sum(p, 1)
        acc = acc * shrink[:, None] + tl.dot(p.to(v_NK.dtype), v_NK)
        highest = higher
    acc = acc / total[:, None]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=valid[:, None])
    tl.store(lse + rows * heads + head, highest + tl.log2(total), mask=valid)


@triton.jit
def _backward(
    q, keys, values, key_terms, value_terms, out, lse, d_out, d_q, d_keys, d_values,
    token_offsets, target_offsets, token_tiles,
    heads,
    C: tl.constexpr, J: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    log2e: tl.constexpr = 1.4426950408889634
    tile, head = tl.program_id(0), tl.program_id(1)
    request = tl.load(token_tiles + 2 * tile)
    if request < 0:
        return
    tokens = tl.load(token_tiles + 2 * tile + 1) + tl.arange(0, BN)
    inside = tokens < tl.load(token_offsets + request + 1)
    k_NK = _load_joined(keys, key_terms, tokens, inside, head, heads, C, J, K)
    v_NK = _load_joined(values, value_terms, tokens, inside, head, heads, C, J, K)
    d_k = tl.zeros([BN, K], dtype=tl.float32)
    d_v = tl.zeros([BN, K], dtype=tl.float32)
    column = tl.arange(0, K)
    last = tl.load(target_offsets + request + 1)
    for start in range(tl.load(target_offsets + request), last, BM):
        rows = start + tl.arange(0, BM)
        valid = rows < last
        at = (rows.to(tl.int64)[:, None] * heads + head) * K + column[None, :]
        q_MK = tl.load(q + at, mask=valid[:, None], other=0.0)
        d_out_MK = tl.load(d_out + at, mask=valid[:, None], other=0.0)
        out_MK = tl.load(out + at, mask=valid[:, None], other=0.0)
        delta = tl.sum(d_out_MK.to(tl.float32) * out_MK.to(tl.float32), 1)
        lse_M = tl.load(lse + rows * heads + head, mask=valid, other=0.0)
        logits = tl.dot(q_MK, tl.trans(k_NK)) * log2e
        p = tl.exp2(logits - lse_M[:, None])
        p = tl.where(inside[None, :] & valid[:, None], p, 0.0)
        d_p = tl.dot(d_out_MK, tl.trans(v_NK))
        d_logits = (p * (d_p - delta[:, None])).to(q_MK.dtype)
        d_v += tl.dot(tl.trans(p.to(q_MK.dtype)), d_out_MK)
        d_k += tl.dot(tl.trans(d_logits), q_MK)
        tl.atomic_add(d_q + at, tl.dot(d_logits, k_NK), mask=valid[:, None])
    at_content = (tokens.to(tl.int64)[:, None] * heads + head) * C + column[None, :]
    written = inside[:, None] & (column < C)[None, :]
    tl.store(d_keys + at_content, d_k.to(d_keys.dtype.element_ty), mask=written)
    tl.store(d_values + at_content, d_v.to(d_values.dtype.element_ty), mask=written)


def _sizes(q: Tensor, keys: Tensor, key_terms: Tensor) -> dict[str, Any]:
    content, terms, width = keys.shape[2], key_terms.shape[1], q.shape[2]
    if content + terms != width or width & (width - 1) or width < 16:
        raise ValueError(f"a head of {content} + {terms} columns must be {width} wide, a power of two from 16 on")
    return {"C": content, "J": terms, "K": width}


@torch.library.custom_op("longrank::ragged_attention_forward", mutates_args=())
def _forward_op(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    key_terms: Tensor,
    value_terms: Tensor,
    token_offsets: Tensor,
    target_offsets: Tensor,
    target_tiles: Tensor,
    token_tiles: Tensor,
) -> tuple[Tensor, Tensor]:
    targets, heads, _ = q.shape
    out = torch.empty_like(q)
    lse = torch.empty(targets, heads, device=q.device, dtype=torch.float32)
    _forward[(len(target_tiles), heads)](
        q, keys, values, key_terms, value_terms, out, lse, token_offsets, target_offsets, target_tiles,
        heads, NULL_VALUE, **_sizes(q, keys, key_terms), BM=TARGET_TILE, BN=TOKEN_TILE, num_warps=4, num_stages=3,
    )  # fmt: skip
    return out, lse


@_forward_op.register_fake
def _(q, keys, values, key_terms, value_terms, token_offsets, target_offsets, target_tiles, token_tiles):  # type: ignore[no-untyped-def]  # noqa: ARG001
    return torch.empty_like(q), q.new_empty(q.shape[:2], dtype=torch.float32)


@torch.library.custom_op("longrank::ragged_attention_backward", mutates_args=())
def _backward_op(
    d_out: Tensor,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    key_terms: Tensor,
    value_terms: Tensor,
    out: Tensor,
    lse: Tensor,
    token_offsets: Tensor,
    target_offsets: Tensor,
    token_tiles: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    heads = q.shape[1]
    d_q = torch.zeros_like(q, dtype=torch.float32)
    d_keys, d_values = torch.empty_like(keys), torch.empty_like(values)
    _backward[(len(token_tiles), heads)](
        q, keys, values, key_terms, value_terms, out, lse, d_out.contiguous(), d_q, d_keys, d_values,
        token_offsets, target_offsets, token_tiles,
        heads, **_sizes(q, keys, key_terms), BM=TARGET_TILE, BN=TOKEN_TILE, num_warps=8, num_stages=2,
    )  # fmt: skip
    return d_q.to(q.dtype), d_keys, d_values


@_backward_op.register_fake
def _(d_out, q, keys, values, *_rest):  # type: ignore[no-untyped-def]  # noqa: ARG001
    return torch.empty_like(q), torch.empty_like(keys), torch.empty_like(values)


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    q, keys, values, key_terms, value_terms, token_offsets, target_offsets, _, token_tiles = inputs
    ctx.save_for_backward(q, keys, values, key_terms, value_terms, *output, token_offsets, target_offsets, token_tiles)


def _gradients(ctx: Any, d_out: Tensor, _d_lse: Tensor) -> tuple[Tensor | None, ...]:
    d_q, d_keys, d_values = _backward_op(d_out, *ctx.saved_tensors)
    return d_q, d_keys, d_values, None, None, None, None, None, None


_forward_op.register_autograd(_gradients, setup_context=_setup)


def ragged_attention(
    q_MHK: Tensor,
    keys_LHC: Tensor,
    values_LHC: Tensor,
    key_terms_LJ: Tensor,
    value_terms_LJ: Tensor,
    token_offsets: Tensor,
    target_offsets: Tensor,
    target_tiles: Tensor,
    token_tiles: Tensor,
) -> Tensor:
    """`attend`, all of one half-precision type. Every target and every token must belong to a request.

    Raises:
        ValueError: the head's width is not a power of two.
    """
    out: Tensor = _forward_op(
        q_MHK.contiguous(),
        keys_LHC.contiguous(),
        values_LHC.contiguous(),
        key_terms_LJ,
        value_terms_LJ,
        token_offsets,
        target_offsets,
        target_tiles,
        token_tiles,
    )[0]
    return out
