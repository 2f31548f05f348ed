"""flash_attn's functions give what their definition says, forward and backward."""

from __future__ import annotations

from itertools import product

import pytest
import torch

import torchdevice_mode
from torchdevice_mode.errors import UnsupportedByTargetError

from ._reference import assert_same, attention, of_batch


@pytest.fixture(autouse=True)
def substitute():
    with torchdevice_mode.redirect(substitutes=["flash_attn"]):
        yield


def tensors(*shapes, dtype=torch.bfloat16, seed=0):
    torch.manual_seed(seed)
    return [torch.randn(shape, device="cuda").to(dtype).requires_grad_() for shape in shapes]


HEADS = [(2, 2), (4, 2), (3, 1)]
LENGTHS = [(5, 5), (3, 7), (7, 3), (1, 6)]
WINDOWS = [(-1, -1), (2, -1), (1, 1), (-1, 0), (0, 0)]
GRID = [
    *product(LENGTHS, HEADS, (False, True), WINDOWS, (0.0,), (0,)),
    # What changes the scores is written out, whatever the heads and windows.
    *product(LENGTHS, HEADS[1:2], (False, True), WINDOWS[:3:2], (0.0, 1.5), (1, 2)),
    *product(LENGTHS, HEADS[1:2], (False, True), WINDOWS[:3:2], (1.5,), (0,)),
]


@pytest.mark.parametrize(("lengths", "heads", "causal", "window", "softcap", "alibi"), GRID)
def test_attention_is_what_its_definition_says(lengths, heads, causal, window, softcap, alibi):
    from flash_attn import flash_attn_func

    (s_q, s_k), (h, own) = lengths, heads
    q, k, v = tensors((2, s_q, h, 8), (2, s_k, own, 8), (2, s_k, own, 8))
    slopes = None
    if alibi:
        slopes = torch.rand((h,) if alibi == 1 else (2, h), device="cuda")
    out = flash_attn_func(
        q, k, v, causal=causal, window_size=window, softcap=softcap, alibi_slopes=slopes
    )
    expected, _ = of_batch(q, k, v, causal=causal, window=window, softcap=softcap, slopes=slopes)
    assert (out.dtype, out.shape, out.device) == (q.dtype, q.shape, q.device)
    assert_same(out, expected)
    weights = torch.randn_like(out)
    found = torch.autograd.grad(out, (q, k, v), weights)
    exact = torch.autograd.grad(expected, (q, k, v), weights.cpu().double())
    for one, other in zip(found, exact, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("causal", [False, True])
def test_both_half_types_and_any_scale(dtype, scale, causal):
    from flash_attn import flash_attn_func

    q, k, v = tensors((1, 6, 2, 16), (1, 6, 2, 16), (1, 6, 2, 16), dtype=dtype)
    out = flash_attn_func(q, k, v, softmax_scale=scale, causal=causal)
    assert_same(out, of_batch(q, k, v, scale=scale, causal=causal)[0])


@pytest.mark.parametrize("causal", [False, True])
def test_packed_tensors_give_the_same(causal):
    from flash_attn import flash_attn_func, flash_attn_kvpacked_func, flash_attn_qkvpacked_func

    (qkv,) = tensors((2, 5, 3, 2, 8))
    whole = flash_attn_qkvpacked_func(qkv, causal=causal)
    parts = flash_attn_func(*qkv.unbind(2), causal=causal)
    assert torch.equal(whole, parts)
    assert torch.equal(flash_attn_kvpacked_func(qkv[:, :, 0], qkv[:, :, 1:], causal=causal), parts)


@pytest.mark.parametrize("lengths", [(5, 5), (4, 2)])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_logarithms_of_sums_come_with_the_result(lengths, softcap):
    from flash_attn import flash_attn_func

    s_q, s_k = lengths
    q, k, v = tensors((2, s_q, 4, 8), (2, s_k, 2, 8), (2, s_k, 2, 8))
    out, lse, weights = flash_attn_func(
        q, k, v, causal=True, softcap=softcap, return_attn_probs=True
    )
    expected, sums = of_batch(q, k, v, causal=True, softcap=softcap)
    assert_same(out, expected)
    assert_same(lse, sums, torch.bfloat16)
    assert lse.dtype == torch.float32 and not lse.requires_grad and weights.numel() == 0


def sequences(lengths_q, lengths_k, heads=2, own=1):
    q, k, v = tensors(
        (sum(lengths_q), heads, 8), (sum(lengths_k), own, 8), (sum(lengths_k), own, 8)
    )
    starts = [
        torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32, device="cuda")
        for lengths in (lengths_q, lengths_k)
    ]
    return q, k, v, starts


VARIABLE = [([3, 5, 1], [3, 5, 1]), ([4, 4], [4, 4]), ([2, 3], [6, 1]), ([1, 1, 1], [4, 2, 7])]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("lengths_q", "lengths_k"), VARIABLE)
@pytest.mark.parametrize(
    ("causal", "window", "alibi"),
    [
        (False, (-1, -1), False),
        (True, (-1, -1), False),
        (True, (1, 0), False),
        (True, (2, 0), True),
    ],
)
def test_sequences_do_not_see_each_other(lengths_q, lengths_k, causal, window, alibi, compiled):
    from flash_attn import flash_attn_varlen_func

    q, k, v, (starts_q, starts_k) = sequences(lengths_q, lengths_k)
    slopes = torch.rand(len(lengths_q), 2, device="cuda") if alibi else None
    expected, at_q, at_k = [], 0, 0
    for n, (a, b) in enumerate(zip(lengths_q, lengths_k, strict=True)):
        expected.append(
            attention(
                q[at_q : at_q + a],
                k[at_k : at_k + b],
                v[at_k : at_k + b],
                causal=causal,
                window=window,
                slopes=None if slopes is None else slopes[n],
            )
        )
        at_q, at_k = at_q + a, at_k + b
    call = flash_attn_varlen_func
    if compiled:
        torch._dynamo.reset()
        call = torch.compile(flash_attn_varlen_func, fullgraph=True, backend="eager")
    out, lse, _ = call(
        q,
        k,
        v,
        starts_q,
        starts_k,
        max(lengths_q),
        max(lengths_k),
        causal=causal,
        window_size=window,
        alibi_slopes=slopes,
        return_attn_probs=True,
    )
    whole = torch.cat([one for one, _ in expected])
    assert_same(out, whole)
    assert_same(lse, torch.cat([one for _, one in expected], 1), torch.bfloat16)
    found = torch.autograd.grad(out.float().square().sum(), (q, k, v))
    exact = torch.autograd.grad(whole.square().sum(), (q, k, v))
    for one, other in zip(found, exact, strict=True):
        assert_same(one, other)


def test_packed_sequences_give_the_same():
    from flash_attn import (
        flash_attn_varlen_func,
        flash_attn_varlen_kvpacked_func,
        flash_attn_varlen_qkvpacked_func,
    )

    (qkv,) = tensors((6, 3, 2, 8))
    starts = torch.tensor([0, 2, 6], dtype=torch.int32, device="cuda")
    q, k, v = qkv.unbind(1)
    parts = flash_attn_varlen_func(q, k, v, starts, starts, 4, 4, causal=True)
    assert torch.equal(flash_attn_varlen_qkvpacked_func(qkv, starts, 4, causal=True), parts)
    packed = flash_attn_varlen_kvpacked_func(q, qkv[:, 1:], starts, starts, 4, 4, causal=True)
    assert torch.equal(packed, parts)


def test_dropout_drops_the_share_and_keeps_the_mean():
    from flash_attn import flash_attn_func

    q = torch.zeros(1, 64, 2, 8, dtype=torch.bfloat16, device="cuda")
    v = torch.ones(1, 512, 2, 8, dtype=torch.bfloat16, device="cuda")
    k = torch.zeros_like(v)
    out = flash_attn_func(q, k, v, dropout_p=0.5)
    assert abs(out.float().mean().item() - 1.0) < 0.05
    assert out.float().std().item() > 0.01
    assert torch.equal(flash_attn_func(q, k, v), torch.ones_like(out))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda q, k, v: (q.float(), k.float(), v.float()), "only support fp16 and bf16"),
        (lambda q, k, v: (q, k.half(), v), "query and key must have the same dtype"),
        (lambda q, k, v: (q, k[:, :, :3], v[:, :, :3]), "heads in key/value must divide"),
        (lambda q, k, v: [torch.cat([x] * 40, -1) for x in (q, k, v)], "at most 256"),
        (
            lambda q, k, v: (q[0], k[0], v[0]),
            r"q must have shape \(batch_size, seqlen_q, num_heads",
        ),
        (lambda q, k, v: (q, k[..., :4], v), r"k must have shape \(batch_size, seqlen_k"),
        (lambda q, k, v: (q, k[0], v), "k must have shape"),
        (lambda q, k, v: (q, k.repeat(2, 1, 1, 1), v.repeat(2, 1, 1, 1)), "k must have shape"),
        (lambda q, k, v: (q, k, v[:, :1]), "v must have shape"),
        (
            lambda q, k, v: (q, k, v, 0.1, None, False, (-1, -1), 5.0),
            "Softcapping does not support",
        ),
    ],
)
def test_what_flash_attn_refuses_is_refused(change, text):
    from flash_attn import flash_attn_func

    q, k, v = tensors((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8))
    with pytest.raises(RuntimeError, match=text):
        flash_attn_func(*change(q, k, v))


@pytest.mark.parametrize(
    ("starts", "of_keys", "text"),
    [
        ([0], [0], "batch size must be positive"),
        ([0, 2], [0, 1, 2], "cu_seqlens_k must have shape"),
        ([0.0, 2.0], [0, 2], "cu_seqlens_q must have dtype int32"),
    ],
)
def test_lengths_that_flash_attn_refuses_are_refused(starts, of_keys, text):
    from flash_attn import flash_attn_varlen_func

    q, k, v = (x[0] for x in tensors((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8)))
    dtype = torch.int32 if isinstance(starts[0], int) else torch.int64
    cu_q = torch.tensor(starts, device="cuda").to(dtype)
    cu_k = torch.tensor(of_keys, dtype=torch.int32, device="cuda")
    with pytest.raises(RuntimeError, match=text):
        flash_attn_varlen_func(q, k, v, cu_q, cu_k, 2, 2)


def test_attention_to_no_keys_is_zero_with_a_gradient_of_zero():
    from flash_attn import flash_attn_func

    q, k, v = tensors((2, 3, 4, 8), (2, 0, 2, 8), (2, 0, 2, 8))
    q.requires_grad_()
    out, lse, _ = flash_attn_func(q, k, v, causal=True, return_attn_probs=True)
    out.sum().backward()
    assert out.shape == q.shape and out.abs().sum() == 0 and q.grad.abs().sum() == 0
    assert lse.shape == (2, 4, 3) and lse.isinf().all()


def test_weights_under_dropout_are_refused_by_name():
    from flash_attn import flash_attn_func

    q, k, v = tensors((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8))
    with pytest.raises(UnsupportedByTargetError, match=r"flash_attn\.flash_attn_func"):
        flash_attn_func(q, k, v, dropout_p=0.1, return_attn_probs=True)


@pytest.mark.parametrize("lengths", [(6, 6), (3, 6)])
def test_compiled_in_one_graph(lengths):
    from flash_attn import flash_attn_func

    s_q, s_k = lengths
    q, k, v = tensors((2, s_q, 4, 8), (2, s_k, 2, 8), (2, s_k, 2, 8))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(q, k, v):
        return flash_attn_func(q, k, v, causal=True, window_size=(3, 0), softcap=1.0).sum()

    loss = compiled(q, k, v)
    expected, _ = of_batch(q, k, v, causal=True, window=(3, 0), softcap=1.0)
    assert_same(loss, expected.sum())
    (found,) = torch.autograd.grad(loss, q)
    assert_same(found, torch.autograd.grad(expected.sum(), q)[0])
