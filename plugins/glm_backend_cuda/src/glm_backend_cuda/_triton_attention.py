"""Triton kernels of decode attention: rotation, storing and attending over the slotted cache.

The first kernel gives each row, key head and chunk of positions a program of its own, which leaves the
largest score, the sum of weights and the weighted sum of values of its chunk; the second adds chunks up in
their order. The grid depends on the cache alone; programs beyond a row's length end at once. Nothing is
read back to the host, so both can be captured in a graph. A row's result does not depend on other rows.

The new key is never read back from memory: the program in whose chunk it falls keeps it in registers,
attends to it and stores it, and no other program looks at its place.

Axes: B rows · N query heads · G key/value heads · H head dim · S positions of a block
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = 1.4426950408889634


@triton.jit
def _load_rotated(x, places, partners, inside, cos, sin):
    """Rotate channels loaded from ``x``: each with its partner half a block away, in float32."""
    own = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    other = tl.load(x + partners, mask=inside, other=0.0).to(tl.float32)
    return own * cos + other * sin


@triton.jit
def _load_queries_and_key(q, k, cos, sin, q_places, in_heads, inside, channel, keys, ROTATED: tl.constexpr):
    """Return rotated queries ``[QUERIES, BLOCK_H]`` and key ``[BLOCK_H]`` of a row, in the dtype of keys."""
    DTYPE: tl.constexpr = keys.dtype.element_ty
    q_inside = in_heads[:, None] & inside[None, :]
    if ROTATED > 0:
        in_first = (channel % ROTATED) < ROTATED // 2
        partner = tl.where(in_first, channel + ROTATED // 2, channel - ROTATED // 2)
        cosine = tl.load(cos + channel, mask=inside, other=0.0).to(tl.float32)
        sine = tl.load(sin + channel, mask=inside, other=0.0).to(tl.float32)
        sine = tl.where(in_first, -sine, sine)
        own, other = q_places + channel[None, :], q_places + partner[None, :]
        queries = _load_rotated(q, own, other, q_inside, cosine[None, :], sine[None, :])
        new_key = _load_rotated(k, channel, partner, inside, cosine, sine)
    else:
        queries = tl.load(q + q_places + channel[None, :], mask=q_inside, other=0.0)
        new_key = tl.load(k + channel, mask=inside, other=0.0)
    return queries.to(DTYPE), new_key.to(DTYPE)


@triton.jit
def _attend_to_block(
    queries, keys, values, seen, score_scale, largest, total, context, QUERIES: tl.constexpr
):
    """Return largest score, sum of weights and weighted values after a further block of positions."""
    if QUERIES == 1:
        scores = tl.sum(queries.to(tl.float32) * keys.to(tl.float32), axis=1)[None, :]
    else:
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee")
    scores = tl.where(seen[None, :], scores * score_scale, float("-inf"))
    larger = tl.maximum(largest, tl.max(scores, axis=1))
    shrink = tl.exp2(largest - larger)
    weights = tl.exp2(scores - larger[:, None])
    total = total * shrink + tl.sum(weights, axis=1)
    context = context * shrink[:, None]
    if QUERIES == 1:
        context += tl.sum(tl.trans(weights) * values.to(tl.float32), axis=0)[None, :]
    else:
        context = tl.dot(weights.to(values.dtype), values, context, input_precision="ieee")
    return larger, total, context


@triton.jit
def _attend_to_cached(
    queries,
    keys,
    values,
    start,
    stop,
    score_scale,
    inside,
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,
    QUERIES: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Return largest score, sum of weights and weighted values of the cached positions start to stop."""
    channel = tl.arange(0, BLOCK_H)
    largest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    context = tl.zeros((QUERIES, BLOCK_H), tl.float32)
    for first in tl.range(start, stop, BLOCK_S, num_stages=3):
        position = first + tl.arange(0, BLOCK_S)
        places = position[:, None] * H + channel[None, :]
        seen = position < stop
        wanted = seen[:, None] & inside[None, :]
        old_keys = tl.load(keys + places, mask=wanted, other=0.0)
        old_values = tl.load(values + places, mask=wanted, other=0.0)
        largest, total, context = _attend_to_block(
            queries, old_keys, old_values, seen, score_scale, largest, total, context, QUERIES
        )
    return largest, total, context


@triton.jit
def _attend_to_newest(
    queries, new_key, v, keys, values, place, channel, inside, score_scale, largest, total, context
):
    """Store the new key and value; return largest score, sum of weights and weighted values with them."""
    new_value = tl.load(v + channel, mask=inside, other=0.0).to(new_key.dtype)
    tl.store(keys + place + channel, new_key, mask=inside)
    tl.store(values + place + channel, new_value, mask=inside)
    scores = tl.sum(queries.to(tl.float32) * new_key.to(tl.float32)[None, :], axis=1) * score_scale
    larger = tl.maximum(largest, scores)
    shrink = tl.exp2(largest - larger)
    weights = tl.exp2(scores - larger)
    total = total * shrink + weights
    context = context * shrink[:, None] + weights[:, None] * new_value.to(tl.float32)[None, :]
    return larger, total, context


# Arguments are described where they are named, because a list of so many would be longer than the kernel.
@triton.jit
def chunk_kernel(
    q,  # [B, N, H]
    k,  # [B, G, H]
    v,  # [B, G, H]
    cos,  # [B, H], contiguous
    sin,  # [B, H], contiguous
    keys,  # [slots, G, capacity, H]
    values,  # the same shape and strides
    slots,  # [B]
    lengths,  # [B], the new position included; 0 = padding
    maxima,  # [B, N, chunks] float32, result: the largest score, in powers of two
    sums,  # [B, N, chunks] float32, result: the sum of the weights
    contexts,  # [B, N, chunks, H] float32, result: the weighted sum of values
    q_row,  # strides of rows and heads, here and in the next five
    q_head,
    k_row,
    k_head,
    v_row,
    v_head,
    slot_stride,  # of the cache
    head_stride,  # of the cache
    score_scale,  # log2(e) / sqrt(H)
    HEADS: tl.constexpr,  # query heads of a key head
    QUERIES: tl.constexpr,  # the same rounded up to what a product takes; 1 where there is one
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,  # H rounded up to a power of two
    ROTATED: tl.constexpr,  # channels that one row of positions rotates, H / R; 0 = nothing is rotated
    CHUNK: tl.constexpr,  # positions of a program
    BLOCK_S: tl.constexpr,  # positions at a time
):
    """Compute what one chunk of positions contributes to the query heads of one key head."""
    row, group, chunk = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row).to(tl.int32)
    start, newest = chunk * CHUNK, length - 1
    if start >= length:
        return
    channel, query = tl.arange(0, BLOCK_H), tl.arange(0, QUERIES)
    inside, in_heads = channel < H, query < HEADS
    head = group * HEADS + query
    q += row.to(tl.int64) * q_row
    k += row.to(tl.int64) * k_row + group * k_head
    v += row.to(tl.int64) * v_row + group * v_head
    base = tl.load(slots + row).to(tl.int64) * slot_stride + group.to(tl.int64) * head_stride
    queries, new_key = _load_queries_and_key(
        q, k, cos + row * H, sin + row * H, (head * q_head)[:, None], in_heads, inside, channel, keys, ROTATED
    )
    stop = tl.minimum(start + CHUNK, newest)  # of the positions that are in the cache already
    largest, total, context = _attend_to_cached(
        queries, keys + base, values + base, start, stop, score_scale, inside, H, BLOCK_H, QUERIES, BLOCK_S
    )
    if newest < start + CHUNK:
        place = base + newest.to(tl.int64) * H
        largest, total, context = _attend_to_newest(
            queries, new_key, v, keys, values, place, channel, inside, score_scale, largest, total, context
        )
    at = (row * tl.num_programs(1) * HEADS + head) * tl.num_programs(2) + chunk
    tl.store(maxima + at, largest, mask=in_heads)
    tl.store(sums + at, total, mask=in_heads)
    at = at.to(tl.int64)[:, None] * H + channel[None, :]
    tl.store(contexts + at, context, mask=in_heads[:, None] & inside[None, :])


@triton.jit
def join_kernel(
    maxima,
    sums,
    contexts,
    lengths,
    out,
    num_chunks,
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Compute the context of one query head from its chunks; zeros for padding. ``out`` is ``[B, N, H]``."""
    row, head = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths + row).to(tl.int32)
    channel = tl.arange(0, BLOCK_H)
    inside = channel < H
    place = row * tl.num_programs(1) + head
    largest = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    context = tl.zeros((BLOCK_H,), tl.float32)
    for chunk in range(tl.cdiv(length, CHUNK)):
        at = place * num_chunks + chunk
        found = tl.load(maxima + at)
        larger = tl.maximum(largest, found)
        shrink, grow = tl.exp2(largest - larger), tl.exp2(found - larger)
        total = total * shrink + tl.load(sums + at) * grow
        part = tl.load(contexts + at.to(tl.int64) * H + channel, mask=inside, other=0.0)
        context = context * shrink + part * grow
        largest = larger
    context = context / tl.where(total > 0, total, 1.0)
    tl.store(out + place * H + channel, context.to(out.dtype.element_ty), mask=inside)
