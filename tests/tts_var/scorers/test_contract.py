"""The contracts of rewards, features and verifiers, tested for each implementation."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from tts_var.models.clip import Clip, ClipConfig
from tts_var.scorers import Features, Reward, Verifier
from tts_var.scorers.clip import ClipFeatures, ClipReward
from tts_var.scorers.pixels import PixelFeatures
from tts_var.testing import RedReward

WITHOUT_TOY = pytest.mark.skipif(find_spec("tts_var.toy") is None, reason="tts_var.toy is absent")
PROMPTS = ["a red circle", "two squares", "a red circle"]


class CharacterClip(nn.Module):
    """A random CLIP with characters as text tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.clip = Clip(ClipConfig(8, 64, 16, 16, 1, 8, 256, 16, 1, head_width=8))
        self.flops_per_image = self.clip.flops_per_image

    def embed_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.clip.encode_image(images)

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        rows = [[ord(letter) % 255 for letter in prompt[:7]] for prompt in prompts]
        return self.clip.encode_text(torch.tensor([row + [255] + [0] * (7 - len(row)) for row in rows]))


def toy(name: str) -> Callable[[], object]:
    def build() -> object:
        import tts_var.toy

        return getattr(tts_var.toy, name)()

    return build


@pytest.fixture(
    params=[
        RedReward,
        lambda: ClipReward(CharacterClip()),
        pytest.param(toy("clip_reward"), marks=WITHOUT_TOY),
        pytest.param(toy("VerifierReward"), marks=WITHOUT_TOY),
    ],
    ids=["red", "clip", "small_world clip", "small_world verifier"],
)
def reward(request: pytest.FixtureRequest) -> Reward:
    made: Reward = request.param()
    return made


@pytest.fixture(
    params=[
        PixelFeatures,
        lambda: PixelFeatures(grid=3, image_size=32),
        lambda: ClipFeatures(CharacterClip()),
        pytest.param(toy("clip_features"), marks=WITHOUT_TOY),
    ],
    ids=["pixels", "coarse pixels", "clip", "small_world clip"],
)
def features(request: pytest.FixtureRequest) -> Features:
    made: Features = request.param()
    return made


def random_images() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_a_reward_is_a_number_per_image_in_any_batch(reward: Reward) -> None:
    images = random_images()
    found = reward(images, PROMPTS)
    assert found.shape == (3,)
    assert not found.requires_grad
    alone = torch.cat([reward(images[row : row + 1], PROMPTS[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(found, alone, atol=1e-3, rtol=1e-5)
    assert reward.image_size is None or reward.image_size > 0
    assert reward.flops_per_image >= 0


def test_features_are_tokens_of_each_image_in_any_batch(features: Features) -> None:
    images = random_images()
    found = features(images)
    assert found.dim() == 3
    assert len(found) == 3
    assert not found.requires_grad
    torch.testing.assert_close(found, torch.cat([features(images[row : row + 1]) for row in range(3)]), atol=1e-4, rtol=1e-4)
    assert (found[0] - found[1]).abs().max() > 0
    assert features.flops_per_image >= 0


@WITHOUT_TOY
def test_a_verdict_has_parts_or_a_note() -> None:
    from tts_var.toy.verifier import SmallWorldVerifier

    verifier: Verifier = SmallWorldVerifier()
    verdict = verifier(torch.zeros(3, 64, 64), "a red circle")
    assert verdict.parts
    assert not verdict.correct
    for image, prompt in ((torch.zeros(3, 64, 64), "the Colosseum at dawn"), (torch.zeros(3, 60, 80), "a red circle")):
        unsupported = verifier(image, prompt)
        assert not unsupported.parts
        assert unsupported.note
        assert not unsupported.correct
