"""Training of the reward: the contrastive loss, near misses, and corrupted copies."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from triptych.errors import UserError
from tts_var.data import Examples
from tts_var.models.autoencoder import BinaryTokenizer, binary_tokenizer
from tts_var.models.quantizers import quantize_bits
from tts_var.numerics.scales import square_scales
from tts_var.training.reward_stage import RewardLossConfig, RewardStage, _contrastive, with_corrupted_regions

SCALES = square_scales((1, 2, 4))


class Numbers:
    """Eight images of 8 x 8 pixels; the near miss of prompt "3" is "3x", then "3xx"."""

    num_examples = 8
    image_size = 8

    def examples(self, indices: Sequence[int]) -> Examples:
        images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        return Examples([str(index) for index in indices], images[list(indices)])

    def near_miss(self, prompt: str, *, generator: torch.Generator) -> str:
        return prompt + "x" * (1 + int(torch.randint(2, (), generator=generator)))


class Embedder(nn.Module):
    """Random unit embeddings: of pixels through a matrix, of texts by their characters. Keeps its last inputs."""

    flops_per_image = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(3 * 64, 6, generator=torch.Generator().manual_seed(1)))

    def embed_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return functional.normalize((images.flatten(1) - 0.5) @ self.matrix, dim=-1), images.flatten(2)

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        rows = [torch.randn(6, generator=torch.Generator().manual_seed(sum(map(ord, prompt)))) for prompt in prompts]
        return functional.normalize(torch.stack(rows), dim=-1)

    def forward(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        self.images, self.prompts = images.detach(), list(prompts)
        return self.embed_images(images)[0], self.embed_texts(prompts), torch.tensor(5.0)


def tokenizer() -> BinaryTokenizer:
    torch.manual_seed(0)
    return binary_tokenizer(latent_channels=4, base_channels=8, multipliers=(1, 2), blocks_per_level=1, norm_groups=4)


def stage(**loss: float) -> RewardStage:
    return RewardStage(Embedder(), tokenizer(), SCALES, Numbers(), RewardLossConfig(**loss), seed=0)  # type: ignore[arg-type]


def losses(made: RewardStage, rows: Sequence[int] = range(4)) -> dict[str, Tensor]:
    return dict(made.losses(made.model, rows, step=0, first=0, batch_size=len(rows)))


def test_the_contrastive_loss_is_cross_entropy_for_distinct_texts() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    found = _contrastive(logits, ["a", "b", "c"], ["b", "a", "d", "c", "e"])
    torch.testing.assert_close(found, functional.cross_entropy(logits, torch.tensor([1, 0, 3])))


def test_equal_texts_share_the_target_evenly() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    log_probabilities = logits.log_softmax(1)[0]
    expected = -(log_probabilities[0] + log_probabilities[2]) / 2
    torch.testing.assert_close(_contrastive(logits, ["a"], ["a", "b", "a"]), expected)


def test_the_loss_is_the_symmetric_loss_over_captions_and_near_misses() -> None:
    made = stage(caption_noise=0.0, corruption_weight=0.0, near_misses=2)
    found = losses(made)
    model = made.model
    assert isinstance(model, Embedder)
    # Each caption is followed by its near misses.
    texts = [model.prompts[3 * row : 3 * row + 3] for row in range(4)]
    assert [own[0] for own in texts] == ["0", "1", "2", "3"]
    assert all(wrong in (own[0] + "x", own[0] + "xx") for own in texts for wrong in own[1:])
    images, embedded = model.embed_images(model.images)[0], model.embed_texts(model.prompts)
    logits = 5 * images @ embedded.T
    to_texts = torch.zeros(())
    for row in range(4):
        to_texts -= logits[row].log_softmax(0)[3 * row] / 4
    to_images = functional.cross_entropy(logits.T[::3], torch.arange(4))
    torch.testing.assert_close(found["loss"], (to_texts + to_images) / 2)
    own = [bool((logits[row, 3 * row] > logits[row, 3 * row + 1 : 3 * row + 3]).all()) for row in range(4)]
    assert float(found["accuracy"]) == sum(own) / 4
    assert "slip_accuracy" not in found


def test_corrupted_copies_add_the_ranking_loss() -> None:
    made = stage(caption_noise=0.0, corruption_weight=0.7, pixel_noise=0.0)
    found = losses(made)
    model = made.model
    assert isinstance(model, Embedder)
    assert len(model.images) == 8  # images, then their corrupted copies
    assert not torch.equal(model.images[:4], model.images[4:])
    scores = 5 * (model.embed_images(model.images)[0].view(2, 4, -1) * model.embed_texts(["0", "1", "2", "3"])).sum(-1)
    margin = scores[0] - scores[1]
    plain = losses(stage(caption_noise=0.0, corruption_weight=0.0, pixel_noise=0.0))["loss"]
    torch.testing.assert_close(found["loss"] - plain, 0.7 * -torch.sigmoid(margin).log().mean(), atol=1e-5, rtol=1e-4)
    assert float(found["slip_accuracy"]) == float((margin > 0).float().mean())


@pytest.mark.parametrize(("caption_noise", "wrong"), [(0.0, 0), (1.0, 4)])
def test_caption_noise_replaces_captions_by_near_misses(caption_noise: float, wrong: int) -> None:
    made = stage(caption_noise=caption_noise, corruption_weight=0.0, near_misses=0)
    losses(made)
    assert isinstance(made.model, Embedder)
    assert sum("x" in caption for caption in made.model.prompts) == wrong


def test_images_without_noise_are_those_that_the_tokenizer_decodes() -> None:
    made = stage(pixel_noise=0.0, prefix_fraction=0.5, first_prefix=3, corruption_weight=0.0)
    losses(made)
    assert isinstance(made.model, Embedder)
    model = tokenizer().eval()
    with torch.no_grad():
        latent = quantize_bits(model.encode(Numbers().examples(range(4)).images), SCALES.latent_grids).latent
        # Prefixes of at least three of three scales are all scales.
        torch.testing.assert_close(made.model.images, (model.decode(latent) + 1) / 2, atol=1e-6, rtol=0)


def test_unfinished_images_are_decoded_from_a_prefix() -> None:
    made = stage(pixel_noise=0.0, prefix_fraction=0.5, first_prefix=1, corruption_weight=0.0)
    finished = stage(pixel_noise=0.0, prefix_fraction=0.0, corruption_weight=0.0)
    for each in (made, finished):
        losses(each, range(8))
    assert isinstance(made.model, Embedder)
    assert isinstance(finished.model, Embedder)
    same = (made.model.images == finished.model.images).flatten(1).all(1)
    assert same[4:].all()  # the second half of the batch uses all scales
    assert not same[:4].all()


def test_corruption_keeps_the_first_scale_and_equal_images() -> None:
    bits = [torch.randint(2, (6, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(side)) for side in (1, 2, 8)]
    corrupted = with_corrupted_regions(bits, generator=torch.Generator().manual_seed(0))
    assert torch.equal(corrupted[0], bits[0])
    assert not torch.equal(corrupted[2], bits[2])
    equal = [scale[:1].expand_as(scale) for scale in bits]
    assert all(torch.equal(a, b) for a, b in zip(equal, with_corrupted_regions(equal, generator=torch.Generator()), strict=True))


def test_corruption_replaces_between_a_tenth_and_a_half_of_a_quarter_of_the_area() -> None:
    # Neighbours in the batch differ in every bit, so that each replacement is a change.
    bits = [torch.arange(400)[:, None, None, None].remainder(2).expand(400, side, side, 8).to(torch.uint8) for side in (1, 16)]
    changed = (with_corrupted_regions(bits, generator=torch.Generator().manual_seed(0))[1] != bits[1]).float().mean((1, 2, 3))
    # 64 cells of 8 bits at a rate up to .5: four standard errors of sqrt(.25 / 512) = .022.
    rates = 4 * changed
    assert float(rates.min()) > 0.1 - 0.088
    assert float(rates.max()) < 0.5 + 0.088
    # Rates are uniform: mean .3, standard error .4 / sqrt(12 * 400) = .006.
    assert float(rates.mean()) == pytest.approx(0.3, abs=0.024)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"caption_noise": 1.5}, "loss.caption_noise is 1.5: it must be between 0 and 1"),
        ({"prefix_fraction": -0.1}, "loss.prefix_fraction is -0.1"),
        ({"near_misses": -1}, "loss.near_misses is -1: it must be 0 or more"),
        ({"first_prefix": 0}, "loss.first_prefix is 0: it must be 1 or more"),
        ({"corruption_weight": -1.0}, "loss.corruption_weight is -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RewardLossConfig(**settings)  # type: ignore[arg-type]
