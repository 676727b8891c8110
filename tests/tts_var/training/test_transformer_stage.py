"""Training of the transformer: weights and losses of tokens, inputs and targets of teacher forcing, dropped texts."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from triptych.errors import UserError
from tts_var.data import Examples
from tts_var.models.autoencoder import BinaryTokenizer, binary_tokenizer
from tts_var.models.infinity import InfinityConfig, InfinityTransformer
from tts_var.models.quantizers import codes_from_bits, quantize_bits, resize
from tts_var.numerics.scales import square_scales
from tts_var.testing import CharacterEncoder
from tts_var.training.transformer_stage import TextToBits, TransformerLossConfig, TransformerStage, bit_losses, token_weights

SCALES = square_scales((1, 2, 4))


class Noise:
    """Eight random images of 8 x 8 pixels; counts how many are read."""

    num_examples = 8
    image_size = 8
    num_read = 0

    def examples(self, indices: Sequence[int]) -> Examples:
        self.num_read += len(indices)
        images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        return Examples([f"image {index}" for index in indices], images[list(indices)])

    def near_miss(self, prompt: str, *, generator: torch.Generator) -> str:
        return prompt


class Inputs(nn.Module):
    """Keeps the inputs of the model and returns its logits."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor, words: Tensor, dropped: Tensor) -> Tensor:
        self.inputs, self.words, self.dropped = inputs, words, dropped
        self.logits: Tensor = self.inner(inputs, words, dropped)
        return self.logits


def tokenizer() -> BinaryTokenizer:
    torch.manual_seed(1)
    return binary_tokenizer(latent_channels=4, base_channels=8, multipliers=(1, 2), blocks_per_level=1, norm_groups=4)


def stage(data: Noise | None = None, **loss: object) -> TransformerStage:
    torch.manual_seed(0)
    transformer = InfinityTransformer(InfinityConfig(1, 32, 2, 4, text_width=128, unconditional_tokens=16), SCALES)
    transformer.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in transformer.parameters():  # the initial head is close to 0
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model = TextToBits(transformer, CharacterEncoder(128))
    return TransformerStage(model, tokenizer(), data or Noise(), TransformerLossConfig(**loss), seed=0)  # type: ignore[arg-type]


def test_token_weights_sum_to_one_and_follow_the_scale() -> None:
    assert token_weights(SCALES, "uniform").tolist() == pytest.approx([1 / 21] * 21)
    # 1, 4 and 16 tokens at 1, 1/2 and 1/4: the sum is 1 + 4/2 + 16/4 = 7.
    assert token_weights(SCALES, "per_scale").tolist() == pytest.approx([1 / 7] + [1 / 14] * 4 + [1 / 28] * 16)


def test_bit_losses_are_the_mean_cross_entropy_of_two_classes() -> None:
    stream = torch.Generator().manual_seed(0)
    logits, bits = torch.randn(2, 3, 5, 2, generator=stream), torch.randint(2, (2, 3, 5), generator=stream, dtype=torch.uint8)
    expected = functional.cross_entropy(logits.flatten(0, 2), bits.long().flatten(), reduction="none").view(2, 3, 5).mean(-1)
    torch.testing.assert_close(bit_losses(logits, bits), expected)
    # Equal logits: ln 2 for either bit.
    assert bit_losses(torch.zeros(1, 1, 5, 2), bits[:1, :1]).item() == pytest.approx(math.log(2))


def test_inputs_are_the_running_sums_of_the_coarser_scales() -> None:
    made = stage(flip_strength=0.0, text_dropout=0.0)
    model = Inputs(made.model)
    found = made.losses(model, range(3), step=0, first=0, batch_size=3)
    with torch.no_grad():
        features = tokenizer().encode(Noise().examples(range(3)).images)
    bits = quantize_bits(features, SCALES.latent_grids).bits
    running, expected, targets = torch.zeros(3, 4, 4, 4), [], []
    for scale, own in enumerate(bits):
        if scale:  # the input of a scale is the sum of all coarser codes at its own resolution
            expected.append(resize(running, SCALES.grids[scale]).flatten(2).transpose(1, 2))
        running = running + resize(codes_from_bits(own).permute(0, 3, 1, 2), (4, 4))
        targets.append(own.flatten(1, 2))
    torch.testing.assert_close(model.inputs, torch.cat(expected, dim=1), atol=1e-6, rtol=0)
    target = torch.cat(targets, dim=1)
    losses = functional.cross_entropy(model.logits.flatten(0, 2), target.long().flatten(), reduction="none").view(3, 21, 4)
    torch.testing.assert_close(found["loss"], losses.mean())
    assert float(found["bit_accuracy"]) == pytest.approx(float((model.logits.argmax(-1) == target).float().mean()))


def test_flips_of_a_scale_change_the_input_of_the_next() -> None:
    made = stage(flip_strength=0.5, flip_scales=1, text_dropout=0.0)
    perturbed, plain = Inputs(made.model), Inputs(made.model)
    made.losses(perturbed, range(8), step=1, first=0, batch_size=8)
    stage(flip_strength=0.0, text_dropout=0.0).losses(plain, range(8), step=1, first=0, batch_size=8)
    changed = (perturbed.inputs[:, :4] != plain.inputs[:, :4]).flatten(1).any(1)
    assert changed.any()
    nothing = stage(flip_strength=0.5, flip_scales=0, text_dropout=0.0)
    unflipped = Inputs(nothing.model)
    nothing.losses(unflipped, range(8), step=1, first=0, batch_size=8)
    assert torch.equal(unflipped.inputs, plain.inputs)


@torch.no_grad()
def test_dropped_texts_use_the_unconditional_rows() -> None:
    made = stage()
    model = made.model
    inputs, words = torch.randn(2, 20, 4), CharacterEncoder().tokenize(["first", "second"])
    mixed = model(inputs, words, torch.tensor([True, False]))
    assert isinstance(model, TextToBits)
    text = model.text_encoder(words)
    # Another batch composition: float32 rounding.
    torch.testing.assert_close(mixed[0], model.transformer(inputs, model.transformer.unconditional(text.mask))[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mixed[1], model.transformer(inputs, text)[1], atol=1e-5, rtol=1e-4)
    assert float((mixed[0] - model.transformer(inputs, text)[0]).abs().max()) > 1e-3


def test_dropout_has_its_rate_and_does_not_depend_on_the_rank() -> None:
    made = stage(text_dropout=0.3)
    dropped = []
    for step in range(40):
        whole, half = Inputs(made.model), Inputs(made.model)
        made.losses(whole, range(8), step=step, first=0, batch_size=8)
        made.losses(half, range(4, 8), step=step, first=4, batch_size=8)
        assert torch.equal(half.dropped, whole.dropped[4:])
        dropped.append(whole.dropped)
    # 320 samples: four standard errors of sqrt(.21 / 320) = .026.
    assert float(torch.cat(dropped).float().mean()) == pytest.approx(0.3, abs=0.104)


def test_the_first_scales_alone_have_the_logits_of_all_scales() -> None:
    made = stage()
    model = Inputs(made.model)
    made.losses(model, range(4), step=0, first=0, batch_size=4)
    for length in (1, 5):  # one scale of one token; two scales of one and four
        cut = made.model(model.inputs[:, : length - 1], model.words, model.dropped)
        torch.testing.assert_close(cut, model.logits[:, :length], atol=1e-6, rtol=0)


def test_a_fraction_of_the_steps_trains_the_coarse_scales_alone() -> None:
    made = stage(coarse_fraction=0.5, coarse_scales=2, weighting="per_scale", flip_strength=0.0)
    whole = stage(weighting="per_scale", flip_strength=0.0)
    lengths = []
    for step in range(60):
        model, other = Inputs(made.model), Inputs(whole.model)
        losses = made.losses(model, range(4), step=step, first=0, batch_size=4)
        lengths.append(model.inputs.shape[1] + 1)
        if lengths[-1] == 5:
            # Weights of scales 1 and 2 as they are in the whole loss, scaled to a sum of 1: 1 + 4 / sqrt(4) = 3.
            whole.losses(other, range(4), step=step, first=0, batch_size=4)
            torch.testing.assert_close(model.inputs, other.inputs[:, :4])
            bits = quantize_bits(made._encoded(range(4))[1], SCALES.latent_grids).bits
            targets = torch.cat([scale.flatten(1, 2) for scale in bits[:2]], dim=1)
            weights = torch.tensor([1.0] + [0.5] * 4) / 3
            expected = (bit_losses(model.logits, targets) * weights).sum(1).mean()
            torch.testing.assert_close(losses["loss"], expected)
    assert set(lengths) == {5, 21}
    assert 18 <= lengths.count(5) <= 42  # 30 of 60 steps, with a standard deviation of 3.9
    shard = Inputs(made.model)
    first_coarse = lengths.index(5)
    made.losses(shard, range(2), step=first_coarse, first=2, batch_size=4)
    assert shard.inputs.shape[1] == 4  # the same step on every rank


def test_every_image_is_encoded_once() -> None:
    data = Noise()
    made = stage(data)
    for rows in ([0, 1, 2], [2, 1], [5, 0]):
        made.losses(made.model, rows, step=0, first=0, batch_size=len(rows))
    assert data.num_read == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weighting": "none"}, "loss.weighting is 'none': choose one of uniform, per_scale"),
        ({"flip_strength": 0.6}, "loss.flip_strength is 0.6: it must be between 0 and 0.5"),
        ({"text_dropout": 1.0}, "loss.text_dropout is 1.0: it must be at least 0 and below 1"),
        ({"coarse_fraction": 1.0}, "loss.coarse_fraction is 1.0: it must be at least 0 and below 1"),
        ({"coarse_scales": 0}, "loss.coarse_scales is 0: it must be 1 or more, or null"),
        ({"coarse_scales": 4}, "loss.coarse_scales is 4 but there are 3 scales"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        stage(**settings)
