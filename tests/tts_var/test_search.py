"""The search against two recorded runs of the released code, and its properties on a small random model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recordings import Golden, recordings
from triptych.errors import UserError
from triptych.seeding import derive_seed
from triptych.seeding import generator as seeded
from tts_var.models.infinity import InfinityGenerator, InfinitySampling
from tts_var.models.loading import load_binary_tokenizer, load_infinity_transformer
from tts_var.models.random_streams import KeyedStreams, SharedStream
from tts_var.models.templates import infinity_scales
from tts_var.models.text import TextFeatures
from tts_var.numerics.clustering import PROJECTIONS, project, representatives
from tts_var.numerics.potentials import POTENTIALS, log_weights, potential
from tts_var.numerics.resampling import SCHEMES, resample
from tts_var.numerics.schedule import Event, SearchConfig, estimate_memory, plan
from tts_var.report.search_page import _scored
from tts_var.scorers.pixels import PixelFeatures
from tts_var.search import EventRecord, Search
from tts_var.testing import RedReward, tiny_generator, tiny_var

FULL = SearchConfig([4, 4, 3, 2], [Event(2, "cluster"), Event(3, "resample")], num_images=1, strength=5.0)
PROMPTS = ["a circle", "two red circles left of a blue square", "three rings"]
CLASSES = ["0", "1", "2"]
FAMILIES = pytest.mark.parametrize(("model", "prompts"), [(tiny_generator, PROMPTS), (tiny_var, CLASSES)], ids=["infinity", "var"])


class Recorded:
    """A scorer that returns recorded values in the order of its calls."""

    image_size = None
    flops_per_image = 0.0

    def __init__(self, values: Sequence[Tensor]) -> None:
        self._values = iter(values)

    def __call__(self, images: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        values = next(self._values)
        assert len(values) == len(images)
        return values


def model_of(golden: Golden, config: dict[str, Any], recorded: dict[str, Any]) -> InfinityGenerator:
    """The recorded model on which the search was run: the one whose scales, text width and bits per token fit."""
    for variant in recordings("infinity_variant"):
        sizes = golden(f"infinity/{variant}.config")
        own = (len(sizes["scale_schedule"]), sizes["Ct5"], sizes["d_vae"])
        if own == (len(config["batch_schedule"]), recorded["text"].shape[1], recorded["bits.0"].shape[-1]):
            scales = infinity_scales(sizes["pn"], ratio=sizes["ratio"], patch=2 if sizes["patchify"] else 1)
            return InfinityGenerator(
                load_infinity_transformer(golden(f"infinity/{variant}.transformer"), scales),
                load_binary_tokenizer(golden(f"infinity/{variant}.vae")),
                None,  # type: ignore[arg-type]
                InfinitySampling(config["cfg"], config["tau"], config["top_k"], config["top_p"]),
            )
    raise AssertionError("no recorded model fits the recorded search")


def test_search_reproduces_the_recorded_run(golden: Golden, search_recording: str) -> None:
    config, recorded = golden(f"infinity/{search_recording}.config"), golden(f"infinity/{search_recording}")
    generator = model_of(golden, config, recorded)
    events = [Event(scale, "cluster") for scale in config["cluster_scales"]] + [
        Event(scale, "resample") for scale in config["resample_scales"]
    ]
    settings = SearchConfig(config["batch_schedule"], events, strength=config["lam"], projection="pool")
    # The recorded input of k-means is one token per image: the sign of a principal direction is arbitrary.
    features = Recorded([recorded[f"kmeans_in.{scale}"][:, None] for scale in config["cluster_scales"]])
    reward = Recorded([*(recorded[f"score.{scale}"] for scale in config["resample_scales"]), recorded["final_scores"]])
    search = Search(generator, settings, reward=reward, features=features)
    stream = torch.Generator().manual_seed(config["seed"])
    condition = generator.condition(TextFeatures(recorded["text"][None], torch.ones(1, len(recorded["text"]), dtype=torch.bool)))
    [result] = search.run_condition(condition, ["recorded"], SharedStream(stream), lambda *_: stream)
    for event in result.events:
        assert list(event.kept) == recorded[f"keep.{event.scale}"].tolist(), event.scale
    images = (result.images * 255).to(torch.uint8).permute(0, 2, 3, 1).flip(-1)
    difference = (images.int() - recorded["final_images_bgr_u8"].int()).abs()
    # Truncation to 8 bits can turn a rounding difference into one level.
    assert int(difference.max()) <= 1
    assert float((difference > 0).float().mean()) < 1e-3


def test_projection_is_the_recorded_one_up_to_sign(golden: Golden, search_recording: str) -> None:
    config, recorded = golden(f"infinity/{search_recording}.config"), golden(f"infinity/{search_recording}")
    for scale in config["cluster_scales"]:
        found, expected = project(recorded[f"features.{scale}"], config["kind"]), recorded[f"kmeans_in.{scale}"]
        signs = torch.sign((found * expected).sum(1, keepdim=True)) if config["kind"] == "pca" else 1.0
        torch.testing.assert_close(signs * found, expected, atol=1e-4, rtol=1e-4)
        kept = recorded[f"keep.{scale}"]
        assert representatives(expected, len(kept), seed=0).tolist() == kept.tolist()


@FAMILIES
def test_one_particle_is_plain_sampling(model: Callable[[], Any], prompts: list[str]) -> None:
    generator = model()
    [result] = Search(generator).run(prompts[0], seed=3)
    condition, streams = generator.encode(prompts[:1]), KeyedStreams([derive_seed(3, "prompt", prompts[0])])
    particles = generator.start(condition, 1)
    for _ in range(4):
        particles = generator.advance(particles, condition, streams)
    assert torch.equal(result.image, generator.decode(particles.latent)[0])
    assert result.cost.num_decodes == 1


@FAMILIES
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_prompts_one_by_one_are_the_batch(model: Callable[[], Any], prompts: list[str], projection: str) -> None:
    config = replace(FULL, projection=projection)
    search = Search(model(), config, reward=RedReward(), features=PixelFeatures(grid=4))
    together = search.run(prompts, seed=1)
    for prompt, result in zip(prompts, together, strict=True):
        [alone] = search.run(prompt, seed=1)
        assert alone.lineage == result.lineage
        assert [event.kept for event in alone.events] == [event.kept for event in result.events]
        # The text of a batch is padded: float32 sums in another order.
        torch.testing.assert_close(alone.image, result.image, atol=1e-5, rtol=0)


@FAMILIES
@pytest.mark.parametrize("scheme", SCHEMES)
def test_replaying_a_lineage_reproduces_its_image(model: Callable[[], Any], prompts: list[str], scheme: str) -> None:
    config = SearchConfig([4, 3, 2, 2], [Event(1, "resample"), Event(2, "cluster")], strength=2.0, scheme=scheme)
    search = Search(model(), config, reward=RedReward(), features=PixelFeatures(grid=4))
    [result] = search.run(prompts[1], seed=5)
    for lineage, image in zip(result.lineages, result.images, strict=True):
        torch.testing.assert_close(search.replay(prompts[1], lineage, seed=5), image, atol=1e-5, rtol=0)


@FAMILIES
def test_best_of_fewer_is_a_prefix_of_best_of_more(model: Callable[[], Any], prompts: list[str]) -> None:
    generator = model()
    [few] = Search(generator, SearchConfig(num_images=2), reward=RedReward()).run(prompts[0])
    [many] = Search(generator, SearchConfig(num_images=4), reward=RedReward()).run(prompts[0])
    torch.testing.assert_close(many.images[:2], few.images, atol=1e-5, rtol=0)
    assert many.reward == max(many.rewards)


class Script:
    """A reward that returns scripted values, one list per call."""

    image_size = None
    flops_per_image = 1e3

    def __init__(self, *calls: list[float]) -> None:
        self._calls = list(calls)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.tensor(self._calls.pop(0))


class Recording(PixelFeatures):
    """Features that keep their last result."""

    flops_per_image = 10.0

    def __call__(self, images: Tensor) -> Tensor:
        self.returned = super().__call__(images)
        return self.returned


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", POTENTIALS)
def test_weights_come_from_the_history_of_the_lineage(name: str, scheme: str) -> None:
    first, second = [0.3, 0.1, 0.4, 0.2, 0.35], [0.25, 0.5, 0.05]
    config = SearchConfig(
        [5, 4, 3, 2], [Event(1, "resample"), Event(2, "cluster"), Event(3, "resample")], potential=name, scheme=scheme, strength=3.0
    )
    search = Search(tiny_generator(), config, reward=Script(first, second, [0.0, 1.0]), features=PixelFeatures(grid=4))
    [result] = search.run("a circle", seed=2)
    early, cluster, late = result.events
    ancestors = [early.kept[slot] for slot in cluster.kept]  # slots at the first resampling of the three particles at the second
    history = torch.tensor([[first[ancestor], reward] for ancestor, reward in zip(ancestors, second, strict=True)])
    for event, expected in (
        (early, log_weights(potential(torch.tensor(first)[:, None], name), 3.0)),
        (late, log_weights(potential(history, name), 3.0)),
    ):
        assert event.weights == pytest.approx(expected.exp().tolist(), abs=1e-6)
        stream = seeded(derive_seed(2, "prompt", "a circle"), "resample", event.scale, 0)
        assert list(event.kept) == resample(expected, len(event.kept), scheme, generator=stream).tolist()
    assert result.chosen == 1


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_clustering_keeps_the_representatives_of_the_projection(projection: str) -> None:
    features = Recording(grid=4)
    config = SearchConfig([8, 8, 3, 3], [Event(2, "cluster")], projection=projection, num_images=1)
    [result] = Search(tiny_generator(), config, reward=RedReward(), features=features).run("a circle")
    assert list(result.events[0].kept) == representatives(project(features.returned, projection), 3, seed=0).tolist()


def test_the_page_shows_rewards_under_the_images_that_received_them() -> None:
    cluster = EventRecord(2, "cluster", (2, 1, 0))
    resampling = EventRecord(2, "resample", (0, 0), rewards=(10.0, 20.0, 30.0), weights=(0.5, 0.3, 0.2))
    assert _scored(4, [cluster, resampling]) == {2: (10.0, 0.5), 1: (20.0, 0.3), 0: (30.0, 0.2)}
    # Copies of one image: slot 2 occurs twice at the second resampling, and its first reward is shown.
    assert _scored(4, [cluster, resampling, EventRecord(2, "resample", (0,), (7.0, 7.0), (0.4, 0.6))])[2] == (10.0, 0.5)


class Counting:
    """A model that counts the images it decodes."""

    def __init__(self) -> None:
        self._model = tiny_generator()
        self.decoded = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def decode(self, latent: Tensor, *, max_size: int | None = None) -> Tensor:
        self.decoded += len(latent)
        return self._model.decode(latent, max_size=max_size)


def test_events_that_keep_everyone_cost_no_decode() -> None:
    config = SearchConfig([3], [Event(1, "cluster"), Event(2, "resample")], num_images=1, scheme="top")
    model = Counting()
    [result] = Search(model, config, reward=RedReward(), features=PixelFeatures(grid=4)).run("a circle")
    [plain] = Search(tiny_generator(), SearchConfig([3]), reward=RedReward()).run("a circle")
    assert torch.equal(result.images, plain.images)
    assert (result.cost.num_decodes, model.decoded) == (3, 3)
    assert [event.kept for event in result.events] == [(0, 1, 2), (0, 1, 2)]
    # With replacement, three of three are not everyone; a potential over the history needs the reward.
    for changed in ({"scheme": "multinomial"}, {"potential": "maximum"}):
        [result] = Search(tiny_generator(), replace(config, **changed), reward=RedReward(), features=PixelFeatures(grid=4)).run("a circle")
        assert result.cost.num_decodes == 6


def test_an_event_at_the_last_scale_and_the_final_images_share_their_decode() -> None:
    config = SearchConfig([4, 4, 4, 2], [Event(3, "cluster", keep=3), Event(3, "resample")])
    model = Counting()
    [result] = Search(model, config, reward=RedReward(), features=PixelFeatures(grid=4)).run("a circle")
    assert (result.cost.num_decodes, model.decoded) == (4, 4)


@pytest.mark.parametrize("size", [None, 4], ids=["full images", "smaller images"])
def test_a_trace_decodes_nothing_twice(size: int | None) -> None:
    model = Counting()
    reward = RedReward()
    reward.image_size = size
    search = Search(model, FULL, reward=reward, features=PixelFeatures(grid=4, image_size=size))
    [plain] = search.run("a circle", seed=2)
    model.decoded = 0
    [traced] = search.run("a circle", seed=2, trace=True)
    # The two final images are decoded once more where the reward sees a smaller size.
    shown = sum(len(images) for images in traced.thumbnails)
    assert shown == 4 + 4 + 4 + 3
    assert model.decoded == shown + (2 if size else 0)
    assert replace(traced.cost, seconds=0.0) == replace(plain.cost, seconds=0.0)
    assert torch.equal(traced.images, plain.images)


def test_plain_functions_are_rewards_and_features() -> None:
    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        assert len(images) == len(prompts)
        return images.mean((1, 2, 3))

    [result] = Search(tiny_generator(), FULL, reward=reward, features=lambda images: images.flatten(2)).run("a circle")
    assert result.cost.scorer_flops == 0
    assert len(result.rewards) == 2


@pytest.mark.parametrize(
    ("scorers", "message"),
    [
        ({"reward": lambda images, prompts: images.mean()}, r"the reward of 4 images has shape \(\): return one number per image"),
        ({"reward": lambda images, prompts: images}, r"the reward of 4 images has shape \(4, 3, 8, 8\): return one number per image"),
        ({"reward": lambda images, prompts: images.mean((1, 2, 3)) * torch.nan}, "the reward of an image is not finite"),
        (
            {"features": lambda images: images.mean((1, 2, 3))},
            r"the features of 4 images have shape \(4,\): return \(images, tokens, channels\)",
        ),
        ({"features": lambda images: images.flatten(1)[:, None]}, "projection=pca needs patch features"),
        ({"reward": 3}, "reward is 3: give a function of images"),
    ],
)
def test_scorers_of_another_form_are_refused(scorers: dict[str, Any], message: str) -> None:
    settings = {"reward": RedReward(), "features": PixelFeatures(grid=4)} | scorers
    config = SearchConfig([4, 4, 4, 2], [Event(3, "resample" if "reward" in scorers else "cluster")])
    with pytest.raises(UserError, match=message) as caught:
        Search(tiny_generator(), config, **settings).run("a circle")
    assert "\n" not in str(caught.value)


def test_misuse_of_the_search_is_refused_in_one_line() -> None:
    search = Search(tiny_generator())
    with pytest.raises(UserError, match="there are no prompts"):
        search.run([])
    with pytest.raises(UserError, match="config is a dict: give a SearchConfig"):
        Search(tiny_generator(), {"batch_schedule": [1]})  # type: ignore[arg-type]
    config = SearchConfig()
    config.events = [{"scale": 1, "kind": "cluster"}]  # type: ignore[list-item]
    with pytest.raises(UserError, match=r"search.events has \{'scale': 1.*give Event"):
        config.__post_init__()
    with pytest.raises(UserError, match=r"search.strength is 1e\+300: it must be between 0 .* use search.scheme=top"):
        SearchConfig(strength=1e300)


def test_memory_counts_old_and_new_caches_together() -> None:
    steps = plan(SearchConfig([4, 4, 2], [Event(1, "resample"), Event(2, "resample")]), 3)
    # Extension: 4 x (10 + 30), 4 x (30 + 70); selection: (4 + 4) x 30, (4 + 2) x 70.
    assert estimate_memory(steps, [10, 30, 70]) == max(160, 400, 240, 420)


def test_batches_fit_particles_and_memory() -> None:
    generator = tiny_generator()
    config = SearchConfig(num_images=4)
    assert Search(generator, config, reward=RedReward(), max_particles=64).batch_size == 16
    needed = estimate_memory(plan(config, 4), [generator.cache_bytes(scale) for scale in range(4)])
    assert Search(generator, config, reward=RedReward(), memory_bytes=3 * needed + 1).batch_size == 3
    assert Search(generator, config, reward=RedReward(), max_particles=1).batch_size == 1


@FAMILIES
def test_selecting_commutes_with_advancing(model: Callable[[], Any], prompts: list[str]) -> None:
    generator = model()
    condition = generator.encode(prompts[:2])
    particles = generator.start(condition, 3)

    for _ in range(2):
        particles = generator.advance(particles, condition, KeyedStreams([7, 8]))
    indices = torch.tensor([[2, 0], [1, 1]])
    all_logits, _ = generator.next_logits(particles, condition)
    chosen_logits, _ = generator.next_logits(particles.select(indices), condition)
    rows = torch.tensor([2, 0, 4, 4])
    torch.testing.assert_close(chosen_logits, all_logits[rows], atol=1e-5, rtol=0)


def test_only_events_and_the_final_choice_decode_and_cost_is_counted() -> None:
    model = tiny_generator()
    search = Search(model, FULL, reward=Script([1.0, 2.0, 3.0], [1.0, 2.0]), features=Recording(grid=4))
    [result] = search.run("a circle")
    # 4 particles at the clustering after scale 2, 3 at the resampling after scale 3, of which the 2 final images are two.
    assert result.cost.num_decodes == 4 + 3
    assert result.cost.num_tokens == 4 * (1 + 4 + 9) + 3 * 16
    condition = model.encode(["a circle"])
    assert result.cost.transformer_flops == sum(count * model.advance_flops(scale, condition) for scale, count in enumerate((4, 4, 4, 3)))
    assert result.cost.decoder_flops == 7 * model.decode_flops()
    assert result.cost.scorer_flops == 4 * 10 + (3 + 2) * 1e3
    assert result.cost.flops == result.cost.transformer_flops + result.cost.decoder_flops + result.cost.scorer_flops


def test_a_scorer_with_a_smaller_input_size_receives_smaller_images() -> None:
    class Small(RedReward):
        image_size = 4
        size: tuple[int, ...] = ()

        def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            if images.shape[-1] != 8:
                type(self).size = tuple(images.shape[-2:])
            return super().__call__(images, prompts)

    config = SearchConfig([2, 2, 1, 1], [Event(2, "resample")])
    Search(tiny_generator(), config, reward=Small()).run("a circle")
    assert Small.size == (4, 4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SearchConfig([2, 2, 2]), "4 scales"),
        (SearchConfig([2, 2, 2, 1]), "without an event"),
        (SearchConfig([2, 2, 2, 4], [Event(3, "cluster")]), "would grow"),
        (SearchConfig([2, 2, 2, 4], [Event(3, "resample")], scheme="top"), "cannot"),
        (SearchConfig([2, 2, 2, 2], [Event(4, "resample")]), "scales are 0 to 3"),
        (SearchConfig([2, 2, 2, 2], [Event(-1, "resample")]), "scales are 0 to 3"),
        (SearchConfig([2, 2, 2, 1], [Event(3, "cluster"), Event(3, "resample")]), "set keep for each but the last"),
    ],
)
def test_an_invalid_schedule_is_refused(config: SearchConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Search(tiny_generator(), config, reward=RedReward(), features=PixelFeatures(grid=4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"events": [Event(1, "resample", 0)]}, "keeps 0"),
        ({"strength": float("inf")}, "strength is inf"),
        ({"strength": -1.0}, "strength is -1"),
        ({"batch_schedule": [0]}, "at least one particle"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SearchConfig(**settings)


def test_features_and_logits_that_are_not_finite_are_refused() -> None:
    class Broken(PixelFeatures):
        def __call__(self, images: Tensor) -> Tensor:
            return super().__call__(images) * float("nan")

    model = tiny_generator()
    for projection in PROJECTIONS:
        config = replace(FULL, projection=projection)
        with pytest.raises(UserError, match="features of an image are not finite"):
            Search(model, config, reward=RedReward(), features=Broken(grid=4)).run("a circle")
    with torch.no_grad():
        model.transformer.head.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="logits are not finite"):
        Search(model).run("a circle")


def test_another_number_of_seeds_than_prompts_is_refused() -> None:
    with pytest.raises(UserError, match="2 seeds for 3 prompts"):
        Search(tiny_generator()).run(PROMPTS, seeds=[1, 2])
    [result] = Search(tiny_var()).run(1)
    assert result.prompt == "1"


def test_missing_scorers_and_too_little_memory_are_refused() -> None:
    generator = tiny_generator()
    with pytest.raises(UserError, match="no reward"):
        Search(generator, SearchConfig(num_images=2))
    with pytest.raises(UserError, match="no features"):
        Search(generator, FULL, reward=RedReward())
    with pytest.raises(UserError, match="MiB"):
        Search(generator, SearchConfig(num_images=64), reward=RedReward(), memory_bytes=2**16)
