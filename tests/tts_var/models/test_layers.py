"""Layers of both families: attention against a slow loop, rotary embeddings, caches, masks and stochastic depth."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tts_var.models.layers import (
    AdaptiveNormBeforeHead,
    CrossAttention,
    DropPath,
    FeedForward,
    SelfAttention,
    block_causal_mask,
    layer_norm,
    mlp_width,
    rotary_angles,
    rotate,
)
from tts_var.numerics.scales import ScaleTable, square_scales


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    stream = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5, generator=stream)
    return module


@pytest.mark.parametrize(("width", "expected"), [(2048, 8192), (96, 512), (32, 256), (1152, 4608), (160, 512)])
def test_the_hidden_width_is_a_multiple_of_256(width: int, expected: int) -> None:
    # 4 * 96 / 256 = 1.5 and 4 * 160 / 256 = 2.5 both round to the even 2; 4 * 32 / 256 = 0.5 rounds to 0, which becomes 1.
    assert mlp_width(width) == expected


def test_rotary_angles_are_their_definition() -> None:
    head_dim, scales = 8, ScaleTable(((1, 1), (2, 3), (4, 6)))
    found = rotary_angles(scales, head_dim)
    expected = []
    for height, width in scales.grids:
        for row in range(height):
            for column in range(width):
                # Python rounds half to even, as the definition requires: rows of scale 1 are 0 and 2, columns 0, 2 and 4.
                y, x = round(row * 4 / height), round(column * 6 / width)
                frequencies = [10000 ** (-4 * k / head_dim) for k in range(head_dim // 4)]
                expected.append([y * frequency for frequency in frequencies] + [x * frequency for frequency in frequencies])
    assert found.shape == (1 + 6 + 24, head_dim // 2)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=1e-6)


@given(st.floats(-10, 10), st.floats(-10, 10), st.integers(0, 1000))
def test_scores_of_rotated_vectors_depend_on_the_difference_of_angles(first: float, second: float, seed: int) -> None:
    query, key = randn(1, 6, seed=seed).double(), randn(1, 6, seed=seed + 1).double()

    def turned(x: torch.Tensor, angle: float) -> torch.Tensor:
        angles = angle * torch.tensor([[1.0, 0.5, 0.1]], dtype=torch.float64)
        return rotate(x, angles.cos(), angles.sin())

    score = (turned(query, first) * turned(key, second)).sum()
    shifted = (turned(query, first - second) * turned(key, 0.0)).sum()
    assert float(score) == pytest.approx(float(shifted), abs=1e-9)  # float64 rounding
    assert float(turned(query, first).norm()) == pytest.approx(float(query.norm()), abs=1e-9)


def test_a_quarter_turn_maps_each_pair_to_its_perpendicular() -> None:
    angle = torch.tensor([[math.pi / 2, 0.0]])
    found = rotate(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), angle.cos(), angle.sin())
    torch.testing.assert_close(found, torch.tensor([[-2.0, 1.0, 3.0, 4.0]]), atol=1e-6, rtol=0)


def test_tokens_attend_to_their_own_and_to_coarser_scales() -> None:
    expected = [[True, False, False, False], [True, True, True, False], [True, True, True, False], [True, True, True, True]]
    assert block_causal_mask([1, 2, 1]).tolist() == expected


@pytest.mark.parametrize("normalise", [True, False])
@torch.no_grad()
def test_self_attention_is_a_loop_over_heads_and_tokens(normalise: bool) -> None:
    width, heads, tokens = 12, 3, 5
    layer = randomised(SelfAttention(width, heads, normalise=normalise))
    assert isinstance(layer, SelfAttention)
    x, mask = randn(2, tokens, width), block_causal_mask([1, 4])
    joined = x @ layer.mat_qkv.weight.T + torch.cat((layer.q_bias, torch.zeros(width), layer.v_bias))
    query, key, value = (part.unflatten(-1, (heads, -1)) for part in joined.chunk(3, dim=-1))  # (batch, tokens, heads, head width)
    result = torch.zeros(2, tokens, heads, width // heads)
    for row in range(2):
        for head in range(heads):
            for token in range(tokens):
                own, others = query[row, token, head], key[row, :, head]
                if normalise:
                    own = own / own.norm() * min(float(layer.scale_mul_1H11[0, head].exp()), 100.0)
                    others = others / others.norm(dim=-1, keepdim=True)
                else:
                    own = own * 0.25 / (width // heads) ** 0.5
                scores = (others @ own).masked_fill(~mask[token], -torch.inf)
                result[row, token, head] = scores.softmax(0) @ value[row, :, head]
    found, (keys, values) = layer(x, None, mask)
    # Float32 sums in another order.
    torch.testing.assert_close(found, layer.proj(result.flatten(2)), atol=1e-4, rtol=1e-4)
    assert keys.shape == values.shape == (2, heads, tokens, width // heads)


def test_the_learned_factor_is_limited_to_100() -> None:
    layer = randomised(SelfAttention(8, 2))
    x = randn(1, 4, 8)
    with torch.no_grad():
        layer.scale_mul_1H11.fill_(math.log(100))
        limit = layer(x)[0]
        layer.scale_mul_1H11.fill_(math.log(1000))
    assert torch.equal(layer(x)[0], limit)


def test_cached_keys_give_the_attention_of_one_pass() -> None:
    scales = square_scales((1, 2))
    layer, angles = randomised(SelfAttention(8, 2)), rotary_angles(square_scales((1, 2)), 4)
    x = randn(2, scales.num_tokens, 8)
    whole, _ = layer(x, (angles.cos(), angles.sin()), block_causal_mask(scales.lengths))
    first, past = layer(x[:, :1], (angles[:1].cos(), angles[:1].sin()))
    second, _ = layer(x[:, 1:], (angles[1:].cos(), angles[1:].sin()), None, past)
    torch.testing.assert_close(torch.cat((first, second), dim=1), whole, atol=1e-5, rtol=1e-5)


def test_cross_attention_ignores_padding_of_the_text() -> None:
    layer = randomised(CrossAttention(8, 2))
    assert isinstance(layer, CrossAttention)
    x, text = randn(2, 3, 8), randn(2, 5, 8, seed=1)
    mask = torch.arange(5) < torch.tensor([[2], [5]])
    found = layer(x, layer.key_values(text), mask)
    alone = layer(x[:1], layer.key_values(text[:1, :2]), mask[:1, :2])
    torch.testing.assert_close(found[:1], alone, atol=1e-6, rtol=1e-5)
    query = layer.mat_q(x[1]).unflatten(-1, (2, 4))
    key, value = (text[1] @ layer.mat_kv.weight.T + torch.cat((torch.zeros(8), layer.v_bias))).unflatten(-1, (2, 2, 4)).unbind(1)
    weights = torch.einsum("nhd,thd->hnt", query, key).div(2).softmax(-1)  # 1 / sqrt(head width 4)
    expected = layer.proj(torch.einsum("hnt,thd->nhd", weights, value).flatten(1))
    torch.testing.assert_close(found[1], expected, atol=1e-5, rtol=1e-5)


def test_feed_forward_and_norms_are_their_definitions() -> None:
    x, condition = randn(2, 3, 8), randn(2, 8, seed=1)
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(layer_norm(x), normed, atol=1e-6, rtol=1e-5)
    norm = randomised(AdaptiveNormBeforeHead(8))
    scale, shift = norm.ada_lin(condition).chunk(2, dim=-1)
    torch.testing.assert_close(norm(x, condition), normed * (1 + scale[:, None]) + shift[:, None], atol=1e-5, rtol=1e-5)
    layer = FeedForward(8, 16)
    hidden = layer.fc1(x)
    gelu = 0.5 * hidden * (1 + torch.tanh((2 / math.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)))
    torch.testing.assert_close(layer(x), layer.fc2(gelu), atol=1e-6, rtol=1e-5)


def test_drop_path_drops_whole_examples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer, x = DropPath(0.25), torch.ones(4000, 2, 3)
    found = layer(x)
    kept = found[:, 0, 0] != 0
    assert torch.equal(found, kept[:, None, None] / 0.75 * x)
    # Standard error of the fraction is sqrt(.25 * .75 / 4000) = .007: four of them.
    assert float(kept.float().mean()) == pytest.approx(0.75, abs=0.028)
    assert layer.eval()(x) is x
    assert DropPath(0.0)(x) is x
