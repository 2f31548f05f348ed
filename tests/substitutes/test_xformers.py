"""xformers.ops gives what its definitions say, forward and backward."""

from __future__ import annotations

import pytest
import torch

import torchdevice_mode

from ._reference import assert_same, of_batch


@pytest.fixture(autouse=True)
def substitute():
    with torchdevice_mode.redirect(substitutes=["xformers"]):
        torch.manual_seed(0)
        yield


def made(*shape, dtype=torch.float32):
    return torch.randn(shape, device="cuda").to(dtype).requires_grad_()


def attn_bias():
    import xformers.ops.fmha.attn_bias as module

    return module


# A mask, and whether query i of s_q sees key j of s_k.
MASKS = {
    "none": (lambda b: None, lambda i, j, s_q, s_k: True),
    "triangle": (lambda b: b.LowerTriangularMask(), lambda i, j, s_q, s_k: j <= i),
    "from the last": (
        lambda b: b.LowerTriangularFromBottomRightMask(),
        lambda i, j, s_q, s_k: j <= i + s_k - s_q,
    ),
    "window from the last": (
        lambda b: b.LowerTriangularFromBottomRightLocalAttentionMask(2),
        lambda i, j, s_q, s_k: i + s_k - s_q - 2 < j <= i + s_k - s_q,
    ),
    "window on both sides": (
        lambda b: b.LocalAttentionFromBottomRightMask(1, 2),
        lambda i, j, s_q, s_k: i + s_k - s_q - 1 <= j <= i + s_k - s_q + 2,
    ),
}


@pytest.mark.parametrize("lengths", [(4, 4), (3, 6), (6, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MASKS)
def test_masks(name, dtype, lengths):
    import xformers.ops as xops

    make, sees = MASKS[name]
    s_q, s_k = lengths
    q, k, v = made(2, s_q, 2, 8, dtype=dtype), *(made(2, s_k, 2, 8, dtype=dtype) for _ in "kv")
    mask = make(attn_bias())
    out = xops.memory_efficient_attention(q, k, v, attn_bias=mask)
    expected, _ = of_batch(q, k, v, sees=lambda i, j: sees(i, j, s_q, s_k))
    assert out.dtype == dtype
    assert_same(out, expected)
    weights = torch.randn_like(out)
    found = torch.autograd.grad(out, (q, k, v), weights)
    exact = torch.autograd.grad(expected, (q, k, v), weights.cpu().double())
    for one, other in zip(found, exact, strict=True):
        assert_same(one, other, torch.bfloat16 if dtype != torch.float32 else dtype)
    if mask is not None:
        shown = mask.materialize((s_q, s_k))
        rows = [
            [0.0 if sees(i, j, s_q, s_k) else -torch.inf for j in range(s_k)] for i in range(s_q)
        ]
        assert shown.tolist() == rows


def test_scale_dropout_and_output_type():
    import xformers.ops as xops

    q, k, v = (made(1, 4, 2, 8) for _ in "qkv")
    out = xops.memory_efficient_attention(q, k, v, scale=0.2, output_dtype=torch.bfloat16)
    assert out.dtype == torch.bfloat16
    assert_same(out, of_batch(q, k, v, scale=0.2)[0])
    zeros, ones = torch.zeros(1, 400, 1, 8, device="cuda"), torch.ones(1, 400, 1, 8, device="cuda")
    dropped = xops.memory_efficient_attention(zeros, zeros, ones, p=0.5)
    assert abs(dropped.mean().item() - 1) < 0.05 and dropped.std().item() > 0.01


@pytest.mark.parametrize("triangle", [False, True])
def test_numbers_are_added_to_the_scores(triangle):
    import xformers.ops as xops

    q, k, v = made(2, 3, 2, 8), made(2, 3, 2, 8), made(2, 3, 2, 8)
    bias = made(2, 2, 3, 3)
    mask = xops.LowerTriangularMask().add_bias(bias) if triangle else bias
    out = xops.memory_efficient_attention(q, k, v, attn_bias=mask)
    parts = [
        of_batch(
            q[n : n + 1],
            k[n : n + 1],
            v[n : n + 1],
            bias=bias[n],
            sees=lambda i, j: j <= i or not triangle,
        )[0]
        for n in range(2)
    ]
    expected = torch.cat(parts)
    assert_same(out, expected)
    (found,) = torch.autograd.grad(out.square().sum(), bias)
    assert_same(found, torch.autograd.grad(expected.square().sum(), bias)[0].double())


def test_a_mask_of_the_programs_own():
    import xformers.ops as xops

    class Diagonal(xops.AttentionBias):
        def materialize(self, shape, dtype=torch.float32, device="cpu"):
            return torch.full(shape, -torch.inf, dtype=dtype, device=device).triu(1).tril(
                -1
            ) + torch.where(torch.eye(shape[-1], device=device) > 0, 0.0, -torch.inf)

    q, k, v = (made(1, 3, 2, 8) for _ in "qkv")
    assert_same(xops.memory_efficient_attention(q, k, v, Diagonal()), v.detach().cpu())


def test_one_head_without_a_dimension_and_groups_of_heads():
    import xformers.ops as xops

    q, k, v = (made(2, 4, 8) for _ in "qkv")
    bias = made(2, 4, 4)
    out = xops.memory_efficient_attention(q, k, v, attn_bias=bias)
    four = xops.memory_efficient_attention(
        q[:, :, None], k[:, :, None], v[:, :, None], attn_bias=bias[:, None]
    )
    assert torch.equal(out, four[:, :, 0])
    q = made(2, 4, 2, 3, 8)
    k, v = (made(2, 5, 2, 1, 8).expand(2, 5, 2, 3, 8) for _ in "kv")
    out = xops.memory_efficient_attention(q, k, v)
    expected, _ = of_batch(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3))
    assert_same(out, expected.unflatten(2, (2, 3)))


def test_logarithms_of_sums():
    import xformers.ops as xops

    q, k, v = (made(2, 4, 2, 8) for _ in "qkv")
    out, lse = xops.memory_efficient_attention_forward_requires_grad(
        q, k, v, xops.LowerTriangularMask()
    )
    expected, sums = of_batch(q, k, v, causal=True)
    assert_same(out, expected)
    assert_same(lse, sums)


BLOCKS = {
    "BlockDiagonalMask": lambda i, j, s_q, s_k: True,
    "BlockDiagonalCausalMask": lambda i, j, s_q, s_k: j <= i,
    "BlockDiagonalCausalFromBottomRightMask": lambda i, j, s_q, s_k: j <= i + s_k - s_q,
}
LOCAL = {
    "make_local_attention": lambda i, j, s_q, s_k: i - 2 < j <= i,
    "make_local_attention_from_bottomright": lambda i, j, s_q, s_k: (
        i + s_k - s_q - 2 < j <= i + s_k - s_q
    ),
}


def expected_of_blocks(q, k, v, ranges, sees):
    parts = []
    for a, b, c, d in ranges:
        s_q, s_k = b - a, d - c
        own = of_batch(
            q[:, a:b],
            k[:, c:d],
            v[:, c:d],
            sees=lambda i, j, s_q=s_q, s_k=s_k: sees(i, j, s_q, s_k),
        )
        parts.append(own[0])
    return torch.cat(parts, 1)


def blocks_of(lengths_q, lengths_k):
    ranges, a, c = [], 0, 0
    for s_q, s_k in zip(lengths_q, lengths_k, strict=True):
        ranges.append((a, a + s_q, c, c + s_k))
        a, c = a + s_q, c + s_k
    return ranges


@pytest.mark.parametrize("lengths", [([2, 3, 1], [2, 3, 1]), ([2, 2], [2, 2]), ([1, 2], [4, 3])])
@pytest.mark.parametrize("name", [*BLOCKS, *LOCAL])
def test_sequences_one_behind_the_other(name, lengths):
    import xformers.ops as xops

    lengths_q, lengths_k = lengths
    bias = attn_bias()
    if name in BLOCKS:
        mask, sees = getattr(bias, name).from_seqlens(lengths_q, lengths_k), BLOCKS[name]
    else:
        mask = getattr(bias.BlockDiagonalMask.from_seqlens(lengths_q, lengths_k), name)(2)
        sees = LOCAL[name]
    q = made(1, sum(lengths_q), 2, 8)
    k, v = made(1, sum(lengths_k), 2, 8), made(1, sum(lengths_k), 2, 8)
    out = xops.memory_efficient_attention(q, k, v, attn_bias=mask)
    ranges = blocks_of(lengths_q, lengths_k)
    expected = expected_of_blocks(q, k, v, ranges, sees)
    assert_same(out, expected)
    for one, other in zip(
        torch.autograd.grad(out.square().sum(), (q, k, v)),
        torch.autograd.grad(expected.square().sum(), (q, k, v)),
        strict=True,
    ):
        assert_same(one, other.double())
    shown = mask.materialize((sum(lengths_q), sum(lengths_k)))
    for a, b, c, d in ranges:
        for i in range(a, b):
            for j in range(sum(lengths_k)):
                seen = c <= j < d and sees(i - a, j - c, b - a, d - c)
                assert (shown[i, j] == 0) == seen


def test_masks_turn_into_each_other():
    bias = attn_bias()
    mask = bias.BlockDiagonalMask.from_seqlens([2, 3])
    assert type(mask.make_causal()) is bias.BlockDiagonalCausalMask
    turned = mask.make_causal_from_bottomright()
    assert type(turned) is bias.BlockDiagonalCausalFromBottomRightMask
    assert mask.q_seqinfo.seqstart.tolist() == [0, 2, 5] and mask.q_seqinfo.max_seqlen == 3
    with pytest.raises(ValueError, match="num_queries <= num_keys"):
        bias.BlockDiagonalCausalFromBottomRightMask.from_seqlens([3], [2])


def test_tensors_are_put_together_and_taken_apart():
    import xformers.ops as xops

    bias = attn_bias()
    tensors = [torch.randn(2, 3, 2, 8, device="cuda"), torch.randn(1, 5, 2, 8, device="cuda")]
    mask, x = bias.BlockDiagonalMask.from_tensor_list(tensors)
    assert x.shape == (1, 11, 2, 8)
    for one, other in zip(mask.split(x), tensors, strict=True):
        assert torch.equal(one, other)
    out = xops.memory_efficient_attention(x, x, x, mask)
    for one, own in zip(mask.split(out), tensors, strict=True):
        assert_same(one, of_batch(own, own, own)[0])
    keys = [torch.randn(2, 4, 2, 8, device="cuda"), torch.randn(1, 2, 2, 8, device="cuda")]
    mask, q, k, v = bias.BlockDiagonalMask.from_tensor_lists_qkv(tensors, keys, keys)
    assert (q.shape[1], k.shape[1], v.shape[1]) == (11, 10, 10)
    out = xops.memory_efficient_attention(q, k, v, mask)
    for one, own, key in zip(mask.split_queries(out), tensors, keys, strict=True):
        assert_same(one, of_batch(own, key, key)[0])
    for one, key in zip(mask.split_kv(k), keys, strict=True):
        assert torch.equal(one, key)


@pytest.mark.parametrize("causal", [False, True])
def test_keys_in_places_of_one_size(causal):
    import xformers.ops as xops

    bias = attn_bias()
    kind = bias.BlockDiagonalPaddedKeysMask
    if causal:
        kind = bias.BlockDiagonalCausalWithOffsetPaddedKeysMask
    mask = kind.from_seqlens(q_seqlen=[1, 2], kv_padding=5, kv_seqlen=[3, 5])
    q, k, v = made(1, 3, 2, 8), made(1, 10, 2, 8), made(1, 10, 2, 8)
    out = xops.memory_efficient_attention(q, k, v, mask)
    sees = BLOCKS["BlockDiagonalCausalFromBottomRightMask" if causal else "BlockDiagonalMask"]
    expected = expected_of_blocks(q, k, v, [(0, 1, 0, 3), (1, 3, 5, 10)], sees)
    assert_same(out, expected)


def test_compiled_in_one_graph():
    import xformers.ops as xops

    mask = attn_bias().BlockDiagonalCausalMask.from_seqlens([2, 3])
    q = made(1, 5, 2, 8)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(q):
        return xops.memory_efficient_attention(q, q, q, mask)

    expected = expected_of_blocks(
        q, q, q, [(0, 2, 0, 2), (2, 5, 2, 5)], BLOCKS["BlockDiagonalCausalMask"]
    )
    assert_same(compiled(q), expected)


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        (((2, 4, 2, 8), (2, 4, 1, 8), (2, 4, 1, 8)), "Incompatible shapes"),
        (((2, 4, 2, 8), (2, 7, 2, 8), (2, 6, 2, 8)), "Incompatible shapes"),
        (((2, 4, 2, 8), (2, 4, 8), (2, 4, 8)), "number of dimensions"),
    ],
)
def test_shapes_that_do_not_fit(shapes, text):
    import xformers.ops as xops

    with pytest.raises(ValueError, match=text):
        xops.memory_efficient_attention(*(made(*shape) for shape in shapes))


@pytest.mark.parametrize("packed", [False, True])
def test_swiglu(packed):
    import xformers.ops as xops

    layer = xops.SwiGLU(4, 6, 3, _pack_weights=packed).to("cuda")
    x = torch.randn(5, 4, device="cuda")
    w1, w2 = layer.w12.weight.chunk(2) if packed else (layer.w1.weight, layer.w2.weight)
    b1, b2 = layer.w12.bias.chunk(2) if packed else (layer.w1.bias, layer.w2.bias)
    gate, other = x @ w1.T + b1, x @ w2.T + b2
    expected = (gate / (1 + (-gate).exp()) * other) @ layer.w3.weight.T + layer.w3.bias
    assert_same(layer(x), expected.detach().cpu())
    alone = xops.swiglu(x, w1, b1, w2, b2, layer.w3.weight, layer.w3.bias)
    assert_same(alone, expected.detach().cpu())


def test_rows():
    from xformers.ops import index_select_cat, scaled_index_add, unbind

    x, y = torch.randn(3, 4, device="cuda"), torch.randn(2, 5, device="cuda")
    chosen = index_select_cat(
        [x, y], [torch.tensor([2, 0], device="cuda"), torch.tensor([1], device="cuda")]
    )
    assert torch.equal(chosen, torch.cat([x[2], x[0], y[1]]))
    base, source = torch.zeros(3, 2, 4, device="cuda"), torch.randn(2, 2, 4, device="cuda")
    scaling = torch.rand(4, device="cuda")
    index = torch.tensor([2, 0], device="cuda")
    assert scaled_index_add(base, index, source, scaling, alpha=2.0) is base
    assert_same(base[2], (2 * source[0] * scaling).cpu())
    assert not base[1].any()
    assert all(torch.equal(a, b) for a, b in zip(unbind(x, 0), x.unbind(0), strict=True))
