"""The small world's CLIP: normalisation of images, the end marker of texts, and its cost."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from triptych.errors import UserError
from tts_var.toy.clip import SmallClip
from tts_var.toy.prompts import VOCABULARY
from tts_var.toy.text import word_indices

SIZES = {"embedding_width": 8, "vision_width": 32, "vision_layers": 1, "text_width": 32, "text_layers": 1, "patch_size": 16}


def model() -> SmallClip:
    torch.manual_seed(0)
    return SmallClip(**SIZES).eval()


def random_images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_images_in_0_to_1_are_normalised_to_minus_1_to_1() -> None:
    clip, images = model(), random_images(2)
    embeddings, tokens = clip.embed_images(images)
    expected, expected_tokens = clip.clip.encode_image(2 * images - 1)
    assert torch.equal(embeddings, expected)
    assert torch.equal(tokens, expected_tokens)
    assert tokens.shape == (2, 16, 32)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(2))


@torch.no_grad()
def test_texts_end_with_the_marker_of_the_largest_id() -> None:
    clip, prompts = model(), ["a red circle", "two squares"]
    end = len(VOCABULARY) + 1
    words = word_indices(prompts)[0].tolist()
    # Other padding after the marker: the causal mask hides it.
    ids = torch.tensor([[*words[0], end, *[3] * 13], [*words[1][:2], end, *[5] * 14]])
    torch.testing.assert_close(clip.embed_texts(prompts), clip.clip.encode_text(ids), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_embeddings_do_not_depend_on_the_batch() -> None:
    clip, prompts = model(), ["a red circle", "two red circles left of a blue square", "a ring"]
    together = clip.embed_texts(prompts)
    alone = torch.cat([clip.embed_texts([prompt]) for prompt in prompts])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    assert float((together[0] - together[1]).abs().max()) > 1e-3


@torch.no_grad()
def test_the_longest_prompt_fits_with_its_marker() -> None:
    prompt = "two red circles and two blue squares to the left of the two green rings"
    assert len(prompt.split()) == 15
    assert model().embed_texts([f"the {prompt}"]).shape == (1, 8)
    with pytest.raises(UserError, match="at most 16"):
        model().embed_texts([f"the the {prompt}"])


def test_the_forward_pass_returns_both_embeddings_and_the_scale() -> None:
    clip, images, prompts = model(), random_images(2), ["a red circle", "two squares"]
    embeddings, texts, scale = clip(images, prompts)
    assert torch.equal(embeddings, clip.embed_images(images)[0])
    assert torch.equal(texts, clip.embed_texts(prompts))
    # CLIP starts at a temperature of .07.
    assert scale.item() == pytest.approx(1 / 0.07)
    assert texts.requires_grad


def test_operations_are_those_that_pytorch_counts() -> None:
    clip = model().train()  # evaluation uses a fused attention that the counter does not cover
    counter = FlopCounterMode(display=False)
    with counter:
        clip.embed_images(random_images(1))
    # The formula counts the patch embedding for the class token too and omits the projection: below 1 % and 5 % here.
    assert clip.flops_per_image == pytest.approx(counter.get_total_flops(), rel=0.06)
