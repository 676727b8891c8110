"""open_clip models as scorers, with random weights of a small architecture."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")

from triptych.errors import UserError  # noqa: E402
from tts_var.scorers.open_clip import OpenClipModel, open_clip_features, open_clip_reward  # noqa: E402

ARCHITECTURE = "ViT-S-32-alt"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = open_clip.create_model(ARCHITECTURE, pretrained=None, load_weights=False)
    path = tmp_path_factory.mktemp("clip") / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return path


def test_rewards_are_those_of_the_library(weights: Path) -> None:
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    prompts = ["a red circle", "two squares"]
    reference = open_clip.create_model(ARCHITECTURE, pretrained=None, load_weights=False).eval()
    reference.load_state_dict(OpenClipModel(ARCHITECTURE, weights).clip.state_dict())
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    with torch.no_grad():
        own = reference.encode_image((images - mean) / deviation, normalize=True)
        texts = reference.encode_text(open_clip.get_tokenizer(ARCHITECTURE)(prompts), normalize=True)
    found = open_clip_reward(architecture=ARCHITECTURE, weights=str(weights))(images, prompts)
    torch.testing.assert_close(found, 100 * (own * texts).sum(1), atol=1e-4, rtol=1e-4)


def test_features_are_patch_tokens_of_images_of_any_size(weights: Path) -> None:
    features = open_clip_features(architecture=ARCHITECTURE, weights=str(weights))
    assert features(torch.rand(2, 3, 96, 64)).shape[:2] == (2, 49)
    assert features.flops_per_image > 0


def test_unknown_architectures_and_wrong_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="architecture is 'ViT-Z'"):
        OpenClipModel("ViT-Z", weights)
    with pytest.raises(UserError, match="absent.safetensors"):
        OpenClipModel(ARCHITECTURE, tmp_path / "absent.safetensors")
    save_file({"logit_scale": torch.zeros(())}, tmp_path / "part.safetensors")
    with pytest.raises(UserError, match="part.safetensors"):
        OpenClipModel(ARCHITECTURE, tmp_path / "part.safetensors")
