"""CLIP against open_clip's implementation with the same state dict."""

import pytest
import torch

from triptych.errors import UserError
from tts_var.models.clip import Clip, ClipConfig, similarity

SIZES = {"embedding_width": 24, "image_size": 32, "patch_size": 8, "vision_width": 48, "vision_layers": 3}
TEXT = {"context_length": 11, "vocabulary_size": 40, "text_width": 32, "text_layers": 2}


@pytest.mark.peers
def test_towers_are_those_of_open_clip() -> None:
    model = pytest.importorskip("open_clip.model", reason="open_clip is not installed")
    torch.manual_seed(0)
    vision = model.CLIPVisionCfg(layers=3, width=48, head_width=16, patch_size=8, image_size=32, output_tokens=True)
    text = model.CLIPTextCfg(context_length=11, vocab_size=40, width=32, heads=2, layers=2)
    peer = model.CLIP(24, vision, text).eval()
    own = Clip(ClipConfig(**SIZES, **TEXT, head_width=16)).eval()
    names = {name for name, _ in peer.named_parameters()}
    assert {name for name, _ in own.named_parameters()} == names
    own.load_state_dict(peer.state_dict(), strict=False)
    images, ids = torch.randn(3, 3, 32, 32), torch.randint(1, 39, (3, 11))
    ids[0, 5], ids[1, 10], ids[2, 2] = 39, 39, 39  # the text embedding is taken at the largest id
    with torch.no_grad():
        pooled, tokens = peer.visual(images)
        found, patches = own.encode_image(images)
        torch.testing.assert_close(found, torch.nn.functional.normalize(pooled, dim=-1), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(patches, tokens, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(own.encode_text(ids), peer.encode_text(ids, normalize=True), atol=1e-5, rtol=1e-5)


def test_similarity_is_the_product_of_rows() -> None:
    images, texts = torch.randn(4, 8), torch.randn(4, 8)
    torch.testing.assert_close(similarity(images, texts), (images * texts).sum(1))


@pytest.mark.parametrize(
    ("changed", "message"), [({"vision_width": 50}, "vision_width is 50"), ({"patch_size": 7}, "patches of 7")], ids=["heads", "patches"]
)
def test_sizes_that_do_not_fit_are_refused(changed: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ClipConfig(**{**SIZES, **TEXT, **changed}, head_width=16)
