"""The search against two recorded runs of the released code, and its laws on a small random model."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from triptych.errors import UserError
from tts_var.batch_schedule import Event, SearchConfig
from tts_var.clustering import project, representatives
from tts_var.draws import KeyedDraws, SharedDraws
from tts_var.features import PixelFeatures
from tts_var.models.infinity import InfinityGenerator, InfinitySampling
from tts_var.models.loading import load_binary_tokenizer, load_infinity_transformer
from tts_var.models.text import TextFeatures
from tts_var.scales import infinity_scales
from tts_var.search import Search
from tts_var.testing import RedReward, tiny_generator

Golden = Callable[[str], dict[str, Any]]
FULL = SearchConfig([4, 4, 3, 2], [Event(2, "cluster"), Event(3, "resample")], num_images=1, strength=5.0)
PROMPTS = ["a circle", "two red circles left of a blue square", "three rings"]


class Recorded:
    """A judge that hands out recorded values, in the order in which it is asked."""

    image_size = None
    flops_per_image = 0.0

    def __init__(self, values: Sequence[Tensor]) -> None:
        self._values = iter(values)

    def __call__(self, images: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        values = next(self._values)
        assert len(values) == len(images)
        return values


@pytest.mark.parametrize("kind", ["pca", "pool"])
def test_search_reproduces_the_recorded_run(golden: Golden, kind: str) -> None:
    config, recorded = golden(f"infinity/tts_{kind}.config"), golden(f"infinity/tts_{kind}")
    scales = infinity_scales("0.06M")
    generator = InfinityGenerator(
        load_infinity_transformer(golden("infinity/plain.transformer"), scales),
        load_binary_tokenizer(golden("infinity/plain.vae")),
        None,  # type: ignore[arg-type]
        InfinitySampling(config["cfg"], config["tau"], config["top_k"], config["top_p"]),
    )
    events = [Event(scale, "cluster") for scale in config["cluster_scales"]] + [
        Event(scale, "resample") for scale in config["resample_scales"]
    ]
    settings = SearchConfig(config["batch_schedule"], events, strength=config["lam"], projection="pool")
    # What k-means saw is handed in as one token per picture: the sign of a principal direction is arbitrary.
    features = Recorded([recorded["kmeans_in.2"][:, None]])
    reward = Recorded([recorded["score.4"], recorded["score.5"], recorded["final_scores"]])
    search = Search(generator, settings, reward=reward, features=features)
    stream = torch.Generator().manual_seed(config["seed"])
    condition = generator.condition(TextFeatures(recorded["text"][None], torch.ones(1, len(recorded["text"]), dtype=torch.bool)))
    [result] = search.run_condition(condition, ["recorded"], SharedDraws(stream), lambda *_: stream)
    for event in result.events:
        assert list(event.kept) == recorded[f"keep.{event.scale}"].tolist(), event.scale
    pictures = (result.images * 255).to(torch.uint8).permute(0, 2, 3, 1).flip(-1)
    difference = (pictures.int() - recorded["final_images_bgr_u8"].int()).abs()
    # Truncation to 8 bits may turn a rounding difference into one step.
    assert int(difference.max()) <= 1
    assert float((difference > 0).float().mean()) < 1e-3


@pytest.mark.parametrize("kind", ["pca", "pool"])
def test_projection_is_the_recorded_one_up_to_sign(golden: Golden, kind: str) -> None:
    recorded = golden(f"infinity/tts_{kind}")
    found, expected = project(recorded["features.2"], kind), recorded["kmeans_in.2"]
    signs = torch.sign((found * expected).sum(1, keepdim=True)) if kind == "pca" else 1.0
    torch.testing.assert_close(signs * found, expected, atol=1e-4, rtol=1e-4)
    assert representatives(expected, 6, seed=0).tolist() == recorded["keep.2"].tolist()


def test_one_particle_is_plain_sampling() -> None:
    generator = tiny_generator()
    [result] = Search(generator).run("a circle", seed=3)
    replayed = Search(generator).replay("a circle", [0, 0, 0, 0], seed=3)
    assert torch.equal(result.image, replayed)
    assert result.cost.num_decodes == 1


def test_prompts_one_by_one_are_the_batch() -> None:
    search = Search(tiny_generator(), FULL, reward=RedReward(), features=PixelFeatures(grid=4))
    together = search.run(PROMPTS, seed=1)
    for prompt, result in zip(PROMPTS, together, strict=True):
        [alone] = search.run(prompt, seed=1)
        assert alone.lineage == result.lineage
        assert [event.kept for event in alone.events] == [event.kept for event in result.events]
        # The text of a batch is padded: sums in another order.
        torch.testing.assert_close(alone.image, result.image, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scheme", ["multinomial", "systematic", "top", "without_replacement"])
def test_replaying_a_lineage_reproduces_its_picture(scheme: str) -> None:
    config = SearchConfig([4, 3, 2, 2], [Event(1, "resample"), Event(2, "cluster")], strength=2.0, scheme=scheme)
    search = Search(tiny_generator(), config, reward=RedReward(), features=PixelFeatures(grid=4))
    [result] = search.run(PROMPTS[1], seed=5)
    for lineage, image in zip(result.lineages, result.images, strict=True):
        torch.testing.assert_close(search.replay(PROMPTS[1], lineage, seed=5), image, atol=1e-5, rtol=0)


def test_best_of_fewer_is_a_prefix_of_best_of_more() -> None:
    generator = tiny_generator()
    [few] = Search(generator, SearchConfig(num_images=2), reward=RedReward()).run("a circle")
    [many] = Search(generator, SearchConfig(num_images=4), reward=RedReward()).run("a circle")
    torch.testing.assert_close(many.images[:2], few.images, atol=1e-5, rtol=0)
    assert many.reward == max(many.rewards)


def test_selecting_commutes_with_advancing() -> None:
    generator = tiny_generator()
    condition = generator.encode(PROMPTS[:2])
    particles = generator.start(condition, 3)

    for _ in range(2):
        particles = generator.advance(particles, condition, KeyedDraws([7, 8]))
    indices = torch.tensor([[2, 0], [1, 1]])
    all_logits, _ = generator.next_logits(particles, condition)
    chosen_logits, _ = generator.next_logits(particles.select(indices), condition)
    rows = torch.tensor([2, 0, 4, 4])
    torch.testing.assert_close(chosen_logits, all_logits[rows], atol=1e-5, rtol=0)


def test_only_decisions_decode_and_cost_is_counted() -> None:
    search = Search(tiny_generator(), FULL, reward=RedReward(), features=PixelFeatures(grid=4))
    [result] = search.run("a circle")
    # 4 particles at the clustering after scale 2, 3 at the resampling after scale 3, 2 final pictures.
    assert result.cost.num_decodes == 4 + 3 + 2
    assert result.cost.num_tokens == 4 * (1 + 4 + 9) + 3 * 16
    assert result.cost.flops == result.cost.transformer_flops + result.cost.decoder_flops + result.cost.judge_flops


def test_a_judge_that_looks_at_less_is_shown_less() -> None:
    class Small(RedReward):
        image_size = 4
        seen: tuple[int, ...] = ()

        def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            if images.shape[-1] != 8:
                type(self).seen = tuple(images.shape[-2:])
            return super().__call__(images, prompts)

    config = SearchConfig([2, 2, 1, 1], [Event(2, "resample")])
    Search(tiny_generator(), config, reward=Small()).run("a circle")
    assert Small.seen == (4, 4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SearchConfig([2, 2, 2]), "4 scales"),
        (SearchConfig([2, 2, 2, 1]), "without an event"),
        (SearchConfig([2, 2, 2, 4], [Event(3, "cluster")]), "would grow"),
        (SearchConfig([2, 2, 2, 4], [Event(3, "resample")], scheme="top"), "cannot"),
        (SearchConfig([2, 2, 2, 2], [Event(4, "resample")]), "scales are 0 to 3"),
        (SearchConfig([2, 2, 2, 2], [Event(-1, "resample")]), "scales are 0 to 3"),
    ],
)
def test_a_schedule_that_cannot_be_honoured_is_refused(config: SearchConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Search(tiny_generator(), config, reward=RedReward(), features=PixelFeatures(grid=4))


def test_missing_judges_and_memory_are_refused() -> None:
    generator = tiny_generator()
    with pytest.raises(UserError, match="no reward"):
        Search(generator, SearchConfig(num_images=2))
    with pytest.raises(UserError, match="no features"):
        Search(generator, FULL, reward=RedReward())
    with pytest.raises(UserError, match="MiB"):
        Search(generator, SearchConfig(num_images=64), reward=RedReward(), memory_bytes=2**16)
