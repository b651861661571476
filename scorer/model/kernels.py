# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-untyped-call"
"""`scorer.model.attention.attend` on the GPU: two Triton kernels, online softmax forward, recomputation backward.

The few targets of a request (tens) meet its many tokens (thousands). So the forward pass gives a program one tile of
targets and one head and runs over the request's tokens; the backward pass gives a program one tile of tokens, whose
gradients it alone writes, and adds its part of the queries' gradient atomically: once, where a request's targets fit
one tile. Algorithm: Dao et al.,
"FlashAttention" (arXiv 2205.14135), with the null key in the softmax's starting value.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from scorer.model.attention import NULL_VALUE

#: Targets that one program has, and tokens whose gradients one program writes.
TARGET_TILE: Final = 64
TOKEN_TILE: Final = 256
_TOKENS_AT_ONCE: Final = 64


@triton.jit
def _forward(
    q, kv, key_terms, value_terms, out, lse, token_offsets, target_offsets, target_tiles,
    heads, null_value,
    C: tl.constexpr, J: tl.constexpr, CP: tl.constexpr, JP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
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
    c, j = tl.arange(0, CP), tl.arange(0, JP)
    rows = first + tl.arange(0, BM)
    valid = rows < last
    row_at = (rows.to(tl.int64) * heads + head) * (C + J)
    at_c, at_j = row_at[:, None] + c[None, :], row_at[:, None] + (C + j)[None, :]
    mask_c, mask_j = valid[:, None] & (c < C)[None, :], valid[:, None] & (j < J)[None, :]
    q_c = tl.load(q + at_c, mask=mask_c, other=0.0)
    q_j = tl.load(q + at_j, mask=mask_j, other=0.0)
    # The null key: logit 0, so a maximum of 0 and a sum of 1 to start with.
    highest = tl.zeros([BM], dtype=tl.float32)
    total = tl.full([BM], 1.0, dtype=tl.float32)
    acc_c = tl.zeros([BM, CP], dtype=tl.float32)
    acc_j = tl.zeros([BM, JP], dtype=tl.float32) + tl.where(j == 0, null_value, 0.0)[None, :]
    for start in range(begin, end, BN):
        tokens = start + tl.arange(0, BN)
        inside = tokens < end
        key_at = (tokens.to(tl.int64) * 2 * heads + head)[:, None] * C + c[None, :]
        terms_at = tokens[:, None] * J + j[None, :]
        in_c, in_j = inside[:, None] & (c < C)[None, :], inside[:, None] & (j < J)[None, :]
        k_c = tl.load(kv + key_at, mask=in_c, other=0.0)
        k_j = tl.load(key_terms + terms_at, mask=in_j, other=0.0)
        logits = (tl.dot(q_c, tl.trans(k_c)) + tl.dot(q_j, tl.trans(k_j))) * log2e
        logits = tl.where(inside[None, :], logits, float("-inf"))
        higher = tl.maximum(highest, tl.max(logits, 1))
        shrink = tl.exp2(highest - higher)
        p = tl.exp2(logits - higher[:, None])
        total = total * shrink + tl.sum(p, 1)
        v_c = tl.load(kv + heads * C + key_at, mask=in_c, other=0.0)
        v_j = tl.load(value_terms + terms_at, mask=in_j, other=0.0)
        half = p.to(v_c.dtype)
        acc_c = acc_c * shrink[:, None] + tl.dot(half, v_c)
        acc_j = acc_j * shrink[:, None] + tl.dot(half, v_j)
        highest = higher
    tl.store(out + at_c, (acc_c / total[:, None]).to(out.dtype.element_ty), mask=mask_c)
    tl.store(out + at_j, (acc_j / total[:, None]).to(out.dtype.element_ty), mask=mask_j)
    tl.store(lse + rows * heads + head, highest + tl.log2(total), mask=valid)


@triton.jit
def _of_targets(
    q, out, lse, d_out, rows, valid, head, heads, C: tl.constexpr, J: tl.constexpr, c, j
):  # fmt: skip
    """What the backward pass needs of one tile of targets."""
    row_at = (rows.to(tl.int64) * heads + head) * (C + J)
    at_c, at_j = row_at[:, None] + c[None, :], row_at[:, None] + (C + j)[None, :]
    mask_c, mask_j = valid[:, None] & (c < C)[None, :], valid[:, None] & (j < J)[None, :]
    do_c = tl.load(d_out + at_c, mask=mask_c, other=0.0)
    do_j = tl.load(d_out + at_j, mask=mask_j, other=0.0)
    o_c = tl.load(out + at_c, mask=mask_c, other=0.0).to(tl.float32)
    o_j = tl.load(out + at_j, mask=mask_j, other=0.0).to(tl.float32)
    delta = tl.sum(do_c.to(tl.float32) * o_c, 1) + tl.sum(do_j.to(tl.float32) * o_j, 1)
    q_c = tl.load(q + at_c, mask=mask_c, other=0.0)
    q_j = tl.load(q + at_j, mask=mask_j, other=0.0)
    # A row that is none gets no share of anything.
    lse_M = tl.load(lse + rows * heads + head, mask=valid, other=float("inf"))
    return q_c, q_j, do_c, do_j, delta, lse_M


@triton.jit
def _of_logits(q_c, q_j, do_c, do_j, delta, lse_M, k_c, k_j, v_c, v_j, inside):
    """Shares and the logits' gradients of one tile of targets and one of tokens, in half precision."""
    logits = (tl.dot(q_c, tl.trans(k_c)) + tl.dot(q_j, tl.trans(k_j))) * 1.4426950408889634
    p = tl.where(inside[None, :], tl.exp2(logits - lse_M[:, None]), 0.0)
    d_p = tl.dot(do_c, tl.trans(v_c)) + tl.dot(do_j, tl.trans(v_j))
    return p.to(q_c.dtype), (p * (d_p - delta[:, None])).to(q_c.dtype)


@triton.jit
def _backward(
    q, kv, key_terms, value_terms, out, lse, d_out, d_q, d_kv, token_offsets, target_offsets, token_tiles,
    heads,
    C: tl.constexpr, J: tl.constexpr, CP: tl.constexpr, JP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    SPAN: tl.constexpr, SINGLE: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    request = tl.load(token_tiles + 2 * tile)
    if request < 0:
        return
    begin = tl.load(token_tiles + 2 * tile + 1)
    end = tl.minimum(begin + SPAN, tl.load(token_offsets + request + 1))
    first = tl.load(target_offsets + request)
    last = tl.load(target_offsets + request + 1)
    c, j = tl.arange(0, CP), tl.arange(0, JP)
    if SINGLE:
        rows = first + tl.arange(0, BM)
        valid = rows < last
        q_c, q_j, do_c, do_j, delta, lse_M = _of_targets(q, out, lse, d_out, rows, valid, head, heads, C, J, c, j)
        dq_c = tl.zeros([BM, CP], dtype=tl.float32)
        dq_j = tl.zeros([BM, JP], dtype=tl.float32)
    for start in range(begin, end, BN):
        tokens = start + tl.arange(0, BN)
        inside = tokens < end
        key_at = (tokens.to(tl.int64) * 2 * heads + head)[:, None] * C + c[None, :]
        terms_at = tokens[:, None] * J + j[None, :]
        in_c, in_j = inside[:, None] & (c < C)[None, :], inside[:, None] & (j < J)[None, :]
        k_c = tl.load(kv + key_at, mask=in_c, other=0.0)
        v_c = tl.load(kv + heads * C + key_at, mask=in_c, other=0.0)
        k_j = tl.load(key_terms + terms_at, mask=in_j, other=0.0)
        v_j = tl.load(value_terms + terms_at, mask=in_j, other=0.0)
        if SINGLE:
            p, d_logits = _of_logits(q_c, q_j, do_c, do_j, delta, lse_M, k_c, k_j, v_c, v_j, inside)
            d_v = tl.dot(tl.trans(p), do_c)
            d_k = tl.dot(tl.trans(d_logits), q_c)
            dq_c += tl.dot(d_logits, k_c)
            dq_j += tl.dot(d_logits, k_j)
        else:
            d_k = tl.zeros([BN, CP], dtype=tl.float32)
            d_v = tl.zeros([BN, CP], dtype=tl.float32)
            for row in range(first, last, BM):
                rows = row + tl.arange(0, BM)
                valid = rows < last
                q_c, q_j, do_c, do_j, delta, lse_M = _of_targets(
                    q, out, lse, d_out, rows, valid, head, heads, C, J, c, j
                )
                p, d_logits = _of_logits(q_c, q_j, do_c, do_j, delta, lse_M, k_c, k_j, v_c, v_j, inside)
                d_v += tl.dot(tl.trans(p), do_c)
                d_k += tl.dot(tl.trans(d_logits), q_c)
                row_at = (rows.to(tl.int64) * heads + head)[:, None] * (C + J)
                at_c = d_q + row_at + c[None, :]
                at_j = d_q + row_at + (C + j)[None, :]
                tl.atomic_add(at_c, tl.dot(d_logits, k_c), mask=valid[:, None] & (c < C)[None, :], sem="relaxed")
                tl.atomic_add(at_j, tl.dot(d_logits, k_j), mask=valid[:, None] & (j < J)[None, :], sem="relaxed")
        tl.store(d_kv + key_at, d_k.to(d_kv.dtype.element_ty), mask=in_c)
        tl.store(d_kv + heads * C + key_at, d_v.to(d_kv.dtype.element_ty), mask=in_c)
    if SINGLE:
        row_at = (rows.to(tl.int64) * heads + head)[:, None] * (C + J)
        tl.atomic_add(d_q + row_at + c[None, :], dq_c, mask=valid[:, None] & (c < C)[None, :], sem="relaxed")
        tl.atomic_add(d_q + row_at + (C + j)[None, :], dq_j, mask=valid[:, None] & (j < J)[None, :], sem="relaxed")


def _sizes(kv: Tensor, key_terms: Tensor) -> dict[str, Any]:
    content, terms = kv.shape[3], key_terms.shape[1]
    # Tensor cores take 16 columns and up.
    padded = {"CP": max(16, triton.next_power_of_2(content)), "JP": max(16, triton.next_power_of_2(terms))}
    return {"C": content, "J": terms, **padded, "BM": TARGET_TILE, "BN": _TOKENS_AT_ONCE, "num_warps": 4}


@torch.library.custom_op("longrank::ragged_attention_forward", mutates_args=())
def _forward_op(
    q: Tensor,
    kv: Tensor,
    key_terms: Tensor,
    value_terms: Tensor,
    token_offsets: Tensor,
    target_offsets: Tensor,
    target_tiles: Tensor,
    token_tiles: Tensor,  # noqa: ARG001 the backward pass' own
    single: bool,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    targets, heads, _ = q.shape
    out = torch.empty_like(q)
    lse = torch.empty(targets, heads, device=q.device, dtype=torch.float32)
    _forward[(len(target_tiles), heads)](
        q, kv, key_terms, value_terms, out, lse, token_offsets, target_offsets, target_tiles, heads, NULL_VALUE,
        **_sizes(kv, key_terms), num_stages=3,
    )  # fmt: skip
    return out, lse


@_forward_op.register_fake
def _(q: Tensor, *_rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(q.shape[:2], dtype=torch.float32)


@torch.library.custom_op("longrank::ragged_attention_backward", mutates_args=())
def _backward_op(
    d_out: Tensor,
    q: Tensor,
    kv: Tensor,
    key_terms: Tensor,
    value_terms: Tensor,
    out: Tensor,
    lse: Tensor,
    token_offsets: Tensor,
    target_offsets: Tensor,
    token_tiles: Tensor,
    single: bool,
) -> tuple[Tensor, Tensor]:
    heads = q.shape[1]
    d_q = torch.zeros_like(q, dtype=torch.float32)
    d_kv = torch.empty_like(kv)
    _backward[(len(token_tiles), heads)](
        q, kv, key_terms, value_terms, out, lse, d_out.contiguous(), d_q, d_kv,
        token_offsets, target_offsets, token_tiles, heads,
        **_sizes(kv, key_terms), SPAN=TOKEN_TILE, SINGLE=single, num_stages=2,
    )  # fmt: skip
    return d_q.to(q.dtype), d_kv


@_backward_op.register_fake
def _(_d_out: Tensor, q: Tensor, kv: Tensor, *_rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(kv)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, kv, key_terms, value_terms, token_offsets, target_offsets, _, token_tiles, single = inputs
    ctx.save_for_backward(q, kv, key_terms, value_terms, *output, token_offsets, target_offsets, token_tiles)
    ctx.single = single


def _gradients(ctx: Any, d_out: Tensor, _d_lse: Tensor) -> tuple[Tensor | None, ...]:
    d_q, d_kv = _backward_op(d_out, *ctx.saved_tensors, ctx.single)
    return d_q, d_kv, None, None, None, None, None, None, None


_forward_op.register_autograd(_gradients, setup_context=_setup)


def ragged_attention(
    q_MHK: Tensor,
    kv_L2HC: Tensor,
    key_terms_LJ: Tensor,
    value_terms_LJ: Tensor,
    token_offsets: Tensor,
    target_offsets: Tensor,
    target_tiles: Tensor,
    token_tiles: Tensor,
    single: bool,
) -> Tensor:
    """`attend`, all of one half-precision type. Every target and every token must belong to a request.

    Args:
        target_tiles, token_tiles: int32 [n, 2], (request, first row), pieces of `TARGET_TILE` and `TOKEN_TILE` rows.
        single: no request has more targets than one tile.
    """
    out: Tensor = _forward_op(
        q_MHK.contiguous(),
        kv_L2HC.contiguous(),
        key_terms_LJ,
        value_terms_LJ,
        token_offsets,
        target_offsets,
        target_tiles,
        token_tiles,
        single,
    )[0]
    return out
