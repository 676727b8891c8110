"""Reward and features of an image-text model: cosines by hand, one encoding per distinct prompt."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from tts_var.scorers.clip import ClipFeatures, ClipReward

ANGLES = {"right": 0.0, "up": 90.0, "diagonal": 45.0}


class Plane(nn.Module):
    """Unit vectors in the plane: of a prompt by its name, of an image by its first two pixels; keeps the encoded prompts."""

    flops_per_image = 12.0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.encoded: list[str] = []

    def embed_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return nn.functional.normalize(self.weight * images[:, 0, 0, :2], dim=-1), self.weight * images.flatten(2).transpose(1, 2)

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        self.encoded += prompts
        angles = torch.tensor([ANGLES[prompt] for prompt in prompts]).deg2rad()
        return torch.stack((angles.cos(), angles.sin()), dim=-1)

    def forward(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        return self.embed_images(images)[0], self.embed_texts(prompts), torch.ones(())


def images() -> Tensor:
    made = torch.zeros(4, 3, 2, 2)
    made[:, 0, 0, :2] = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.5], [0.5, 0.5]])
    return made


def test_rewards_are_a_hundred_times_the_cosine_of_each_pair() -> None:
    model = Plane()
    found = ClipReward(model, image_size=32)(images(), ["up", "diagonal", "up", "diagonal"])
    # Angles between image and prompt: 90, 45, 0 and 0 degrees.
    assert found.tolist() == pytest.approx([0, 100 / 2**0.5, 100, 100], abs=1e-4)
    assert model.encoded == ["up", "diagonal"]
    assert not found.requires_grad


def test_rewards_follow_the_order_of_the_prompts() -> None:
    prompts = ["diagonal", "right", "up", "right"]
    reward = ClipReward(Plane())
    order = [2, 0, 3, 1]
    permuted = reward(images()[order], [prompts[index] for index in order])
    torch.testing.assert_close(permuted, reward(images(), prompts)[order])


def test_features_are_the_patch_tokens_without_gradient() -> None:
    found = ClipFeatures(Plane(), image_size=32)(images())
    assert torch.equal(found, images().flatten(2).transpose(1, 2))
    assert not found.requires_grad


@pytest.mark.parametrize("scorer", [ClipReward, ClipFeatures])
def test_the_cost_is_that_of_the_model_and_the_input_size_is_optional(scorer: type[ClipReward] | type[ClipFeatures]) -> None:
    assert scorer(Plane()).image_size is None
    made = scorer(Plane(), image_size=32)
    assert (made.image_size, made.flops_per_image) == (32, 12.0)
