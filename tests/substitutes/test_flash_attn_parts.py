"""What comes with flash_attn: padding, rotary embedding, norms, losses, modules."""

from __future__ import annotations

import math

import pytest
import torch

import torchdevice_mode
from torchdevice_mode.errors import UnsupportedByTargetError

from ._reference import assert_same, of_batch


@pytest.fixture(autouse=True)
def substitute():
    with torchdevice_mode.redirect(substitutes=["flash_attn"]):
        torch.manual_seed(0)
        yield


def test_padding_is_taken_out_and_put_back():
    from flash_attn.bert_padding import index_first_axis, pad_input, unpad_input

    x = torch.randn(2, 4, 3, device="cuda", requires_grad=True)
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]], device="cuda")
    tokens, indices, starts, longest, used = unpad_input(x, mask)
    assert indices.tolist() == [0, 1, 5, 6, 7]
    assert (starts.tolist(), starts.dtype, longest) == ([0, 2, 5], torch.int32, 3)
    assert used.tolist() == [2, 3]
    assert torch.equal(tokens, x.flatten(0, 1)[indices])
    assert torch.equal(index_first_axis(x.flatten(0, 1), indices), tokens)
    back = pad_input(tokens, indices, 2, 4)
    assert torch.equal(back, x * mask[..., None])
    back.sum().backward()
    assert torch.equal(x.grad, mask[..., None].expand_as(x).float())


def test_tokens_kept_but_not_used():
    from flash_attn.bert_padding import unpad_input

    mask = torch.tensor([[1, 0, 0], [1, 1, 0]], device="cuda")
    unused = torch.tensor([[0, 1, 0], [0, 0, 1]], device="cuda")
    _, indices, starts, longest, used = unpad_input(
        torch.zeros(2, 3, 1, device="cuda"), mask, unused
    )
    assert (indices.tolist(), starts.tolist()) == ([0, 1, 3, 4, 5], [0, 2, 5])
    assert (longest, used.tolist()) == (3, [1, 2])


def rotated(x, cos, sin, position, interleaved):
    """One token (heads, dim) in float64, pair by pair."""
    x, cos, sin = x.cpu().double(), cos.cpu().double(), sin.cpu().double()
    out, half = x.clone(), cos.shape[-1]
    for pair in range(half):
        i, j = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + half)
        c, s = cos[position, pair], sin[position, pair]
        out[:, i], out[:, j] = x[:, i] * c - x[:, j] * s, x[:, j] * c + x[:, i] * s
    return out


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("offsets", [0, 2, [1, 3]])
@pytest.mark.parametrize("inplace", [False, True])
def test_rotation_by_position(interleaved, offsets, inplace):
    from flash_attn.layers.rotary import apply_rotary_emb

    x = torch.randn(2, 4, 3, 16, device="cuda")
    angles = torch.rand(9, 4, device="cuda")
    cos, sin = angles.cos(), angles.sin()
    own = offsets if isinstance(offsets, list) else [offsets, offsets]
    expected = torch.stack(
        [
            torch.stack([rotated(x[n, t], cos, sin, own[n] + t, interleaved) for t in range(4)])
            for n in range(2)
        ]
    )
    given = torch.tensor(offsets, device="cuda") if isinstance(offsets, list) else offsets
    found = apply_rotary_emb(x, cos, sin, interleaved, inplace, seqlen_offsets=given)
    assert_same(found, expected)
    assert (found is x) == inplace


def test_rotation_of_sequences_of_several_lengths():
    from flash_attn.layers.rotary import apply_rotary_emb

    x = torch.randn(5, 2, 8, device="cuda")
    angles = torch.rand(4, 4, device="cuda")
    starts = torch.tensor([0, 2, 5], dtype=torch.int32, device="cuda")
    found = apply_rotary_emb(x, angles.cos(), angles.sin(), cu_seqlens=starts, max_seqlen=3)
    positions = [0, 1, 0, 1, 2]
    expected = [
        rotated(x[t], angles.cos(), angles.sin(), p, False) for t, p in enumerate(positions)
    ]
    assert_same(found, torch.stack(expected))


def test_the_rotary_module_turns_queries_and_keys():
    from flash_attn.layers.rotary import RotaryEmbedding

    module = RotaryEmbedding(8, device="cuda")
    qkv = torch.randn(1, 3, 3, 2, 8, device="cuda")
    before = qkv.clone()
    found = module(qkv, seqlen_offset=1)
    frequencies = torch.tensor([10000 ** (-2 * i / 8) for i in range(4)])
    angles = torch.outer(torch.arange(9.0), frequencies)
    for part in range(2):
        expected = [
            rotated(before[0, t, part], angles.cos(), angles.sin(), t + 1, False) for t in range(3)
        ]
        assert_same(found[0, :, part], torch.stack(expected))
    assert torch.equal(found[:, :, 2], before[:, :, 2])
    assert "inv_freq" not in module.state_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
def test_norms_add_the_residual_first(dtype, rms, with_residual):
    from flash_attn.ops.triton.layer_norm import layer_norm_fn

    x, residual = (torch.randn(3, 8, device="cuda").to(dtype) for _ in range(2))
    weight, bias = torch.randn(8, device="cuda"), torch.randn(8, device="cuda")
    x.requires_grad_()
    out, total = layer_norm_fn(
        x,
        weight,
        bias,
        residual=residual if with_residual else None,
        eps=1e-5,
        prenorm=True,
        residual_in_fp32=True,
        is_rms_norm=rms,
    )
    wide = x.cpu().double() + (residual.cpu().double() if with_residual else 0.0)
    centred = wide if rms else wide - wide.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    expected = expected * weight.cpu().double() + bias.cpu().double()
    assert_same(out, expected)
    assert total.dtype == (dtype if with_residual else torch.float32)
    assert_same(total, wide)
    (found,) = torch.autograd.grad(out.float().square().sum(), x)
    assert_same(found, torch.autograd.grad(expected.square().sum(), x)[0].double(), torch.bfloat16)


def test_norm_functions_and_module():
    from flash_attn.ops.layer_norm import layer_norm
    from flash_attn.ops.rms_norm import RMSNorm, rms_norm

    x = torch.randn(3, 8, device="cuda")
    module = RMSNorm(8, eps=1e-6)
    wide = x.cpu().double()
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert_same(module.to("cuda")(x), expected)
    assert_same(rms_norm(x, module.weight, 1e-6), expected)
    weight, bias = torch.rand(8, device="cuda"), torch.rand(8, device="cuda")
    plain = torch.nn.functional.layer_norm(x, (8,), weight, bias, 1e-6)
    assert_same(layer_norm(x, weight, bias, 1e-6), plain.cpu())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("scale", "z"), [(1.0, 0.0), (0.5, 1e-2)])
def test_cross_entropy_with_smoothing_scale_and_z_loss(reduction, smoothing, scale, z):
    from flash_attn.losses.cross_entropy import CrossEntropyLoss

    logits = torch.randn(4, 6, device="cuda", requires_grad=True)
    labels = torch.tensor([1, 5, -100, 0], device="cuda")
    loss = CrossEntropyLoss(
        reduction=reduction,
        label_smoothing=smoothing,
        logit_scale=scale,
        lse_square_scale=z,
        return_z_loss=True,
    )
    found, found_z = loss(logits, labels)
    wide = logits.cpu().double() * scale
    rows = []
    for row, label in zip(wide, labels.tolist(), strict=True):
        if label < 0:
            rows.append((0 * row.sum(), 0 * row.sum()))
            continue
        target = torch.full((6,), smoothing / 6, dtype=torch.float64)
        target[label] += 1 - smoothing
        total = row.exp().sum().log()
        rows.append(((target * (total - row)).sum() + z * total**2, z * total**2))
    expected, expected_z = (torch.stack(column) for column in zip(*rows, strict=True))
    if reduction != "none":
        count = 3 if reduction == "mean" else 1
        expected, expected_z = expected.sum() / count, expected_z.sum() / count
    assert_same(found, expected)
    assert_same(found_z, expected_z)
    (one,) = torch.autograd.grad(found.sum(), logits)
    assert_same(one, torch.autograd.grad(expected.sum(), logits)[0].double())


def test_attention_as_a_module():
    from flash_attn.modules.mha import FlashCrossAttention, FlashSelfAttention

    qkv = torch.randn(2, 5, 3, 2, 8, device="cuda").to(torch.bfloat16)
    expected, _ = of_batch(*qkv.unbind(2), causal=True)
    assert_same(FlashSelfAttention(causal=True, attention_dropout=0.5).eval()(qkv), expected)
    q, kv = qkv[:, :3, 0], qkv[:, :, 1:]
    expected, _ = of_batch(q, *kv.unbind(2))
    assert_same(FlashCrossAttention()(q, kv), expected)


@pytest.mark.parametrize("heads", [4, 8, 12])
def test_alibi_slopes_are_a_geometric_sequence(heads):
    from flash_attn.modules.mha import get_alibi_slopes

    lower = 2 ** math.floor(math.log2(heads))
    expected = [2 ** (-8 * i / lower) for i in range(1, lower + 1)]
    expected += [2 ** (-4 * i / lower) for i in range(1, 2 * lower + 1, 2)][: heads - lower]
    assert get_alibi_slopes(heads) == pytest.approx(expected)


def test_what_is_not_there_raises_with_its_name():
    from flash_attn.modules.mha import MHA
    from flash_attn.ops.rms_norm import dropout_add_rms_norm
    from flash_attn.ops.triton.layer_norm import rms_norm_fn

    assert not isinstance(torch.nn.Linear(1, 1), MHA)
    with pytest.raises(UnsupportedByTargetError, match=r"flash_attn\.modules\.mha\.MHA"):
        MHA(8, 2)
    with pytest.raises(NotImplementedError, match="dropout_add_rms_norm"):
        dropout_add_rms_norm(torch.ones(1), None, None, None, 0.0, 1e-5)
    with pytest.raises(NotImplementedError, match="rowscale"):
        rms_norm_fn(torch.ones(1), torch.ones(1), None, rowscale=torch.ones(1))
