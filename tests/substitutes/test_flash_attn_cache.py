"""flash_attn_with_kvcache writes into the cache and attends to what is filled."""

from __future__ import annotations

import pytest
import torch

import torchdevice_mode
from torchdevice_mode.errors import UnsupportedByTargetError

from ._reference import assert_same, attention


@pytest.fixture(autouse=True)
def substitute():
    with torchdevice_mode.redirect(substitutes=["flash_attn"]):
        torch.manual_seed(0)
        yield


def half(*shape):
    return torch.randn(shape, device="cuda").to(torch.bfloat16)


def expected_of(q, k_cache, v_cache, filled, k=None, v=None, first=(0, 0), **how):
    """The result and the caches afterwards, entry by entry."""
    outs = []
    k_cache, v_cache = k_cache.clone(), v_cache.clone()
    for n, length in enumerate(filled):
        end = length
        if k is not None:
            end = length + k.shape[1]
            k_cache[n, length:end] = k[n]
            v_cache[n, length:end] = v[n]
        seen = slice(first[n], end)
        outs.append(attention(q[n], k_cache[n, seen], v_cache[n, seen], **how)[0])
    return torch.stack(outs), k_cache, v_cache


@pytest.mark.parametrize("new", [0, 1, 3])
@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize(
    "how", [{}, {"causal": True}, {"causal": True, "window": (2, 0)}, {"softcap": 1.0}]
)
def test_the_cache_grows_and_is_attended_to(new, as_tensor, how):
    from flash_attn import flash_attn_with_kvcache

    q = half(2, new or 1, 4, 8)
    k_cache, v_cache = half(2, 9, 2, 8), half(2, 9, 2, 8)
    k, v = (half(2, new, 2, 8), half(2, new, 2, 8)) if new else (None, None)
    filled = [3, 5] if as_tensor else [4, 4]
    out, k_after, v_after = expected_of(q, k_cache, v_cache, filled, k, v, **how)
    given = torch.tensor(filled, dtype=torch.int32, device="cuda") if as_tensor else 4
    options = {"window_size" if key == "window" else key: value for key, value in how.items()}
    found = flash_attn_with_kvcache(q, k_cache, v_cache, k, v, cache_seqlens=given, **options)
    assert_same(found, out)
    assert torch.equal(k_cache, k_after) and torch.equal(v_cache, v_after)


def test_entries_of_the_cache_may_be_chosen():
    from flash_attn import flash_attn_with_kvcache

    q, k, v = half(2, 1, 2, 8), half(2, 1, 2, 8), half(2, 1, 2, 8)
    k_cache, v_cache = half(4, 6, 2, 8), half(4, 6, 2, 8)
    chosen = torch.tensor([3, 1], dtype=torch.int32, device="cuda")
    out, k_after, _ = expected_of(q, k_cache[[3, 1]], v_cache[[3, 1]], [2, 4], k, v)
    untouched = k_cache[[0, 2]].clone()
    lengths = torch.tensor([2, 4], dtype=torch.int32, device="cuda")
    found = flash_attn_with_kvcache(
        q, k_cache, v_cache, k, v, cache_seqlens=lengths, cache_batch_idx=chosen
    )
    assert_same(found, out)
    assert torch.equal(k_cache[[3, 1]], k_after) and torch.equal(k_cache[[0, 2]], untouched)


@pytest.mark.parametrize("causal", [False, True])
def test_the_filled_part_may_begin_later(causal):
    from flash_attn import flash_attn_with_kvcache

    q, k_cache, v_cache = half(2, 2, 2, 8), half(2, 6, 2, 8), half(2, 6, 2, 8)
    first = torch.tensor([1, 2], dtype=torch.int32, device="cuda")
    out, _, _ = expected_of(q, k_cache, v_cache, [5, 6], first=(1, 2), causal=causal)
    lengths = torch.tensor([5, 6], dtype=torch.int32, device="cuda")
    found = flash_attn_with_kvcache(
        q, k_cache, v_cache, cache_seqlens=lengths, cache_leftpad=first, causal=causal
    )
    assert_same(found, out)


def test_a_cache_in_pages():
    from flash_attn import flash_attn_with_kvcache

    q, k, v = half(2, 1, 2, 8), half(2, 1, 1, 8), half(2, 1, 1, 8)
    k_pages, v_pages = half(5, 256, 1, 8), half(5, 256, 1, 8)
    table = torch.tensor([[4, 1], [0, 2]], dtype=torch.int32, device="cuda")
    k_cache, v_cache = k_pages[table.long()].flatten(1, 2), v_pages[table.long()].flatten(1, 2)
    out, k_after, _ = expected_of(q, k_cache, v_cache, [260, 3], k, v)
    lengths = torch.tensor([260, 3], dtype=torch.int32, device="cuda")
    found = flash_attn_with_kvcache(
        q, k_pages, v_pages, k, v, cache_seqlens=lengths, block_table=table, causal=True
    )
    assert_same(found, out)
    assert torch.equal(k_pages[table.long()].flatten(1, 2), k_after)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_new_keys_and_queries_are_rotated_by_their_positions(interleaved, causal):
    from flash_attn import flash_attn_with_kvcache

    q, k, v = half(2, 2, 2, 32), half(2, 2, 2, 32), half(2, 2, 2, 32)
    k_cache, v_cache = half(2, 9, 2, 32), half(2, 9, 2, 32)
    angles = torch.rand(12, 8, device="cuda")
    cos, sin = angles.cos(), angles.sin()

    def rotate(x, position):
        """(heads, dim) of one token."""
        x = x.float().clone()
        for pair in range(8):
            i, j = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + 8)
            a, b = x[:, i].clone(), x[:, j].clone()
            c, s = cos[position, pair], sin[position, pair]
            x[:, i], x[:, j] = a * c - b * s, b * c + a * s
        return x.to(torch.bfloat16)

    filled = [3, 6]
    turned_k = torch.stack(
        [torch.stack([rotate(k[n, t], filled[n] + t) for t in range(2)]) for n in range(2)]
    )
    turned_q = torch.stack(
        [
            torch.stack([rotate(q[n, t], filled[n] + (t if causal else 0)) for t in range(2)])
            for n in range(2)
        ]
    )
    out, k_after, _ = expected_of(turned_q, k_cache, v_cache, filled, turned_k, v, causal=causal)
    found = flash_attn_with_kvcache(
        q,
        k_cache,
        v_cache,
        k,
        v,
        rotary_cos=cos,
        rotary_sin=sin,
        rotary_interleaved=interleaved,
        cache_seqlens=torch.tensor(filled, dtype=torch.int32, device="cuda"),
        causal=causal,
    )
    assert_same(found, out)
    assert_same(k_cache, k_after.cpu())


def test_it_has_no_gradient_and_gives_the_sums():
    from flash_attn import flash_attn_with_kvcache

    q, k_cache, v_cache = half(1, 2, 2, 8).requires_grad_(), half(1, 4, 2, 8), half(1, 4, 2, 8)
    out, lse = flash_attn_with_kvcache(q, k_cache, v_cache, return_softmax_lse=True)
    assert not out.requires_grad
    expected, sums = attention(q[0].detach(), k_cache[0], v_cache[0])
    assert_same(out[0], expected)
    assert_same(lse[0], sums, torch.bfloat16)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"k": 1}, RuntimeError, "seqlens_k must also be passed in"),
        ({"block_table": 1}, RuntimeError, "divisible by 256"),
        ({"rotary_cos": 1}, RuntimeError, "must also be provided"),
        (
            {"k": 1, "rotary_cos": 1, "cache_leftpad": 1, "cache_seqlens": 1},
            UnsupportedByTargetError,
            "cache_leftpad",
        ),
    ],
)
def test_what_cannot_be_is_refused(options, error, text):
    from flash_attn import flash_attn_with_kvcache

    given = {
        "k": {"k": half(1, 1, 2, 16), "v": half(1, 1, 2, 16)},
        "block_table": {"block_table": torch.zeros(1, 1, dtype=torch.int32, device="cuda")},
        "rotary_cos": {
            "rotary_cos": torch.ones(9, 8, device="cuda"),
            "rotary_sin": torch.ones(9, 8, device="cuda"),
        },
        "cache_leftpad": {"cache_leftpad": torch.zeros(1, dtype=torch.int32, device="cuda")},
        "cache_seqlens": {"cache_seqlens": 2},
    }
    arguments = {name: value for key in options for name, value in given[key].items()}
    with pytest.raises(error, match=text):
        flash_attn_with_kvcache(
            half(1, 1, 2, 16), half(1, 8, 2, 16), half(1, 8, 2, 16), **arguments
        )
