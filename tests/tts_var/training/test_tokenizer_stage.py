"""Training of the tokenizer: which images are quantized, the loss, and the straight-through gradient."""

from collections.abc import Sequence

import pytest
import torch
from torch.nn import functional

from triptych.errors import UserError
from tts_var.data import Examples
from tts_var.models.autoencoder import BinaryTokenizer, binary_tokenizer
from tts_var.models.quantizers import bit_entropy_loss, quantize_bits
from tts_var.numerics.scales import square_scales
from tts_var.training.tokenizer_stage import TokenizerLossConfig, TokenizerStage, contrast_weights

SCALES = square_scales((1, 2, 4))


class Noise:
    """Eight random images of 8 x 8 pixels."""

    num_examples = 8
    image_size = 8

    def examples(self, indices: Sequence[int]) -> Examples:
        images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        return Examples([""] * len(indices), images[list(indices)])

    def near_miss(self, prompt: str, *, generator: torch.Generator) -> str:
        return prompt


def tokenizer() -> BinaryTokenizer:
    torch.manual_seed(0)
    return binary_tokenizer(latent_channels=4, base_channels=8, multipliers=(1, 2), blocks_per_level=1, norm_groups=4)


def stage(**loss: float) -> TokenizerStage:
    return TokenizerStage(tokenizer(), Noise(), SCALES, TokenizerLossConfig(**loss), seed=0)  # type: ignore[arg-type]


class Masks(torch.nn.Module):
    """Keeps the masks that the stage hands to the model."""

    def __init__(self, made: TokenizerStage) -> None:
        super().__init__()
        self.inner = made.model

    def forward(self, images: torch.Tensor, plain: torch.Tensor, unfinished: torch.Tensor, prefix_scale: int) -> torch.Tensor:
        self.plain, self.unfinished, self.prefix_scale = plain.tolist(), unfinished.tolist(), prefix_scale
        result: torch.Tensor = self.inner(images, plain, unfinished, prefix_scale)
        return result


@pytest.mark.parametrize(("step", "num_plain"), [(0, 4), (5, 2), (10, 0), (99, 0)])
def test_unquantized_images_fall_linearly_to_none(step: int, num_plain: int) -> None:
    made = stage(plain_fraction=0.5, plain_steps=10, prefix_fraction=0.25)
    model = Masks(made)
    made.losses(model, range(8), step=step, first=0, batch_size=8)
    # 8 * .5 * (1 - step / 10) at the front; 8 * .25 at the end.
    assert model.plain == [True] * num_plain + [False] * (8 - num_plain)
    assert model.unfinished == [False] * 6 + [True] * 2
    assert 0 <= model.prefix_scale < 2


@pytest.mark.parametrize("entropy", [0.0, 0.3])
def test_the_loss_is_reconstruction_commitment_and_entropy(entropy: float) -> None:
    made = stage(plain_fraction=0.0, prefix_fraction=0.0, commitment=0.4, entropy=entropy, entropy_temperature=2.0)
    found = made.losses(made.model, range(4), step=0, first=0, batch_size=4)
    model, images = tokenizer(), Noise().examples(range(4)).images
    features = model.encode(images)
    latent = quantize_bits(features, SCALES.latent_grids).latent
    decoded = model.decoder(latent)
    commitment = (features - latent).square().mean()
    expected = (decoded - images).square().mean() + 0.4 * commitment + entropy * bit_entropy_loss(features, temperature=2.0)
    torch.testing.assert_close(found["loss"], expected)
    torch.testing.assert_close(found["commitment"], commitment)
    # Peak to peak is 2: 10 log10(2^2 / error) of each image, clamped, then the mean.
    errors = (decoded.clamp(-1, 1) - images).square().flatten(1).mean(1)
    torch.testing.assert_close(found["psnr"], (10 * (4 / errors).log10()).mean())


def test_unquantized_images_and_prefixes_are_decoded_from_their_own_latent() -> None:
    model = stage().model
    images = Noise().examples(range(3)).images
    masks = torch.tensor([True, False, False]), torch.tensor([False, True, False])
    decoded, features, latent = model(images, *masks, 1)
    plain = tokenizer()
    quantized = quantize_bits(plain.encode(images), SCALES.latent_grids)
    expected = torch.stack((features[0], quantized.prefixes[1][1], quantized.latent[2]))
    # `features + (latent - features)` rounds in float32.
    torch.testing.assert_close(decoded, plain.decoder(expected), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(latent, quantized.latent)


def test_the_encoder_receives_the_gradient_of_the_decoder_unchanged() -> None:
    model = stage().model
    images = Noise().examples(range(2)).images
    none = torch.zeros(2, dtype=torch.bool)
    decoded, features, latent = model(images, none, none, 0)
    [found] = torch.autograd.grad(decoded.square().sum(), features)
    codes = latent.detach().requires_grad_()
    [expected] = torch.autograd.grad(tokenizer().decoder(codes).square().sum(), codes)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)  # float32 rounding of the input
    assert functional.mse_loss(features, latent) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"commitment": -1.0}, "loss.commitment is -1.0: it must be 0 or more"),
        ({"plain_steps": -1}, "loss.plain_steps is -1"),
        ({"prefix_fraction": 0.6, "plain_fraction": 0.6}, "prefix_fraction is 0.6 and loss.plain_fraction 0.6: each must be 0 or more"),
        ({"prefix_fraction": -0.1}, "prefix_fraction is -0.1"),
        ({"entropy_temperature": 0.0}, "entropy_temperature is 0.0: it must be above 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TokenizerLossConfig(**settings)  # type: ignore[arg-type]


def test_contrast_weights_are_the_definition() -> None:
    images = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images[1] = 0.25  # a plain image has no contrast
    expected = torch.ones(2, 1, 12, 12)
    for row, column in ((row, column) for row in range(12) for column in range(12)):
        window = images[:, :, max(0, row - 4) : row + 5, max(0, column - 4) : column + 5].flatten(2)
        expected[:, 0, row, column] += 3.0 * (window.amax(-1) - window.amin(-1)).amax(1) / 2
    torch.testing.assert_close(contrast_weights(images, 3.0), expected / expected.mean())
    assert torch.equal(contrast_weights(images, 0.0), torch.ones(2, 1, 12, 12))


def test_the_contrast_weighs_the_error_of_the_image() -> None:
    """Without a commitment, the loss is the mean of weights and squared errors of the same decoded images."""
    settings = {"commitment": 0.0, "prefix_fraction": 0.0, "plain_fraction": 0.0}
    made = stage(contrast=5.0, **settings)
    images = Noise().examples(range(8)).images
    mask = torch.zeros(8, dtype=torch.bool)
    with torch.no_grad():
        decoded = made.model(images, mask, mask, 0)[0]
    expected = (contrast_weights(images, 5.0) * (decoded - images).square()).mean()
    torch.testing.assert_close(made.losses(made.model, range(8), step=99, first=0, batch_size=8)["loss"].detach(), expected)
