"""The auto-encoders: shapes, strides, and the blocks against slow references."""

import pytest
import torch
from torch.nn import functional

from triptych.errors import UserError
from tts_var.models.autoencoder import (
    AttentionBlock,
    AutoencoderConfig,
    BinaryTokenizer,
    Downsample,
    Encoder,
    ResidualBlock,
    Upsample,
    VectorTokenizer,
    binary_tokenizer,
)
from tts_var.models.quantizers import VectorQuantizer


def random_images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("multipliers", [(1,), (1, 2), (1, 2, 2)])
def test_every_level_but_the_last_halves_the_resolution(multipliers: tuple[int, ...]) -> None:
    config = AutoencoderConfig(5, 8, multipliers, 1, norm_groups=4)
    assert config.stride == 2 ** (len(multipliers) - 1)
    tokenizer = BinaryTokenizer(config)
    features = tokenizer.encode(random_images(2, 3, 16, 24))
    assert features.shape == (2, 5, 16 // config.stride, 24 // config.stride)
    assert tokenizer.decode(features).shape == (2, 3, 16, 24)


def test_sizes_from_a_file_are_the_same_config() -> None:
    listed = AutoencoderConfig(4, 8, [1, 2])  # type: ignore[arg-type]
    assert listed == AutoencoderConfig(4, 8, (1, 2))
    assert hash(listed) == hash(AutoencoderConfig(4, 8, (1, 2)))
    assert listed.widths == (8, 16)
    made = binary_tokenizer(latent_channels=4, base_channels=8, multipliers=[1, 2], blocks_per_level=1, norm_groups=4).config
    assert made == AutoencoderConfig(4, 8, (1, 2), 1, norm_groups=4)


def test_a_decoder_level_has_one_block_more_than_an_encoder_level() -> None:
    tokenizer = BinaryTokenizer(AutoencoderConfig(4, 8, (1, 2), 3, norm_groups=4))
    assert [len(level.block) for level in tokenizer.encoder.down] == [3, 3]
    assert [len(level.block) for level in tokenizer.decoder.up] == [4, 4]


def test_attention_is_only_at_the_deepest_level() -> None:
    with_attention = Encoder(AutoencoderConfig(4, 8, (1, 2), 2, attention=True, norm_groups=4))
    assert [len(level.attn) for level in with_attention.down] == [0, 2]
    assert isinstance(with_attention.mid.attn_1, AttentionBlock)
    without = Encoder(AutoencoderConfig(4, 8, (1, 2), 2, norm_groups=4))
    assert not any(isinstance(module, AttentionBlock) for module in without.modules())


def test_attention_is_the_softmax_over_all_cells() -> None:
    torch.manual_seed(0)
    block = AttentionBlock(8, 4)
    x = random_images(2, 8, 3, 5)
    query, key, value = block.qkv(block.norm(x)).chunk(3, dim=1)
    expected = x.clone()
    for row in range(2):
        q, k, v = (part[row].flatten(1) for part in (query, key, value))  # (channels, cells)
        weights = (q.T @ k / 8**0.5).softmax(-1)
        expected[row] += block.proj_out((v @ weights.T).unflatten(1, (3, 5))[None])[0]
    # Float32 sums in another order.
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("channels_in", "channels_out"), [(8, 8), (8, 4)])
def test_a_residual_block_is_its_definition(channels_in: int, channels_out: int) -> None:
    torch.manual_seed(0)
    block = ResidualBlock(channels_in, channels_out, 2)
    x = random_images(2, channels_in, 4, 4)
    hidden = block.conv1(functional.silu(functional.group_norm(x, 2, eps=1e-6)))
    hidden = block.conv2(functional.silu(functional.group_norm(hidden, 2, eps=1e-6)))
    skip = x if channels_in == channels_out else functional.conv2d(x, block.nin_shortcut.weight, block.nin_shortcut.bias)
    # Group norms start with weight 1 and bias 0.
    torch.testing.assert_close(block(x), skip + hidden, atol=1e-6, rtol=1e-5)


def test_downsampling_pads_at_the_right_and_the_bottom() -> None:
    layer = Downsample(1)
    with torch.no_grad():
        layer.conv.weight.fill_(1.0)
        layer.conv.bias.zero_()
    # Sums of 3 x 3 windows at stride 2: the windows of the second row and column reach one zero beyond the image of ones.
    assert layer(torch.ones(1, 1, 4, 4))[0, 0].tolist() == [[9.0, 6.0], [6.0, 4.0]]


def test_upsampling_repeats_each_cell_before_the_convolution() -> None:
    layer = Upsample(1)
    with torch.no_grad():
        layer.conv.weight.zero_()
        layer.conv.weight[0, 0, 1, 1] = 1.0
        layer.conv.bias.zero_()
    assert layer(torch.tensor([[[[1.0, 2.0]]]]))[0, 0].tolist() == [[1.0, 1.0, 2.0, 2.0]] * 2


@torch.no_grad()
def test_decoded_images_are_clamped() -> None:
    torch.manual_seed(0)
    tokenizer = BinaryTokenizer(AutoencoderConfig(4, 8, (1, 2), 1, norm_groups=4))
    with torch.no_grad():
        tokenizer.decoder.conv_out.weight.mul_(100)
    latent = random_images(1, 4, 4, 4)
    decoded = tokenizer.decode(latent)
    assert float(tokenizer.decoder(latent).abs().max()) > 1
    assert float(decoded.abs().max()) == 1
    assert torch.equal(decoded, tokenizer.decoder(latent).clamp(-1, 1))


def test_the_vector_tokenizer_has_convolutions_around_the_quantizer() -> None:
    torch.manual_seed(0)
    tokenizer = VectorTokenizer(AutoencoderConfig(4, 8, (1, 2), 1, norm_groups=4), VectorQuantizer(6, 4))
    image, latent = random_images(1, 3, 8, 8), random_images(1, 4, 4, 4)
    assert torch.equal(tokenizer.encode(image), tokenizer.quant_conv(tokenizer.encoder(image)))
    assert torch.equal(tokenizer.decode(latent), tokenizer.decoder(tokenizer.post_quant_conv(latent)).clamp(-1, 1))


def test_group_norms_follow_the_released_rule() -> None:
    # 32 groups, or 24 if 32 does not divide the channels: 64 and 48.
    assert Encoder(AutoencoderConfig(4, 64, (1,), 1)).norm_out.num_groups == 32
    assert Encoder(AutoencoderConfig(4, 48, (1,), 1)).norm_out.num_groups == 24


@pytest.mark.parametrize(("channels", "groups", "message"), [(20, None, "20 channels, not divisible by the 24"), (8, 3, "by the 3 groups")])
def test_groups_that_do_not_divide_the_channels_are_refused(channels: int, groups: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        BinaryTokenizer(AutoencoderConfig(4, channels, (1,), 1, norm_groups=groups))
