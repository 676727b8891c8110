"""Test-time scaling of a next-scale model: the scale loop with its clustering and resampling events.

A single sample, Best-of-N, importance sampling, clustering alone and resampling alone are settings of this loop
(`tts_var.numerics.schedule.SearchConfig`), so that comparisons differ in these settings only.

Source: TTS-VAR (arXiv 2507.18537), algorithm 1.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from triptych.errors import UserError
from triptych.seeding import derive_seed, generator
from tts_var.models import NextScaleModel
from tts_var.models.particles import Particles, flat_rows
from tts_var.models.random_streams import KeyedStreams, LineageStreams, RandomStreams
from tts_var.numerics.clustering import project, representatives
from tts_var.numerics.potentials import effective_sample_size, log_weights, potential
from tts_var.numerics.resampling import resample
from tts_var.numerics.schedule import SearchConfig, Step, estimate_memory, keeps_everyone, plan
from tts_var.scorers import Features, Reward, Scorer

# Pixels per decoder batch, which bounds the activations: 4 images of 1024 x 1024 or 1024 of 64 x 64.
_DECODED_PIXELS = 2**22
# Longest side in pixels of a report's thumbnails, which are held in memory until the page is written.
_THUMBNAIL = 128

# k-means starts from a fixed seed, as in the released code: clusters depend on the images only.
_KMEANS_SEED = 0


@dataclass(frozen=True)
class EventRecord:
    """Record of one event for the particles of one prompt.

    Attributes:
        scale: index of the scale after which the event ran.
        kind: `cluster` or `resample`.
        kept: surviving slots, in order; new slot j continues old slot `kept[j]`.
        rewards: rewards of all particles before the event; empty for clustering.
        weights: resampling weights; empty for clustering.
        effective_sample_size: effective sample size of the weights; None for clustering.
    """

    scale: int
    kind: str
    kept: tuple[int, ...]
    rewards: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    effective_sample_size: float | None = None


@dataclass
class SearchCost:
    """Compute and time of the search for one prompt.

    Attributes:
        transformer_flops: floating-point operations of the transformer, all guidance branches.
        decoder_flops: floating-point operations of decoding images.
        scorer_flops: floating-point operations of reward and features.
        num_decodes: images decoded.
        num_tokens: tokens generated.
        seconds: wall time of the batch divided by the number of its prompts.
    """

    transformer_flops: float = 0.0
    decoder_flops: float = 0.0
    scorer_flops: float = 0.0
    num_decodes: int = 0
    num_tokens: int = 0
    seconds: float = 0.0

    @property
    def flops(self) -> float:
        """Total floating-point operations."""
        return self.transformer_flops + self.decoder_flops + self.scorer_flops


@dataclass(frozen=True)
class SearchResult:
    """Result of the search for one prompt.

    Attributes:
        prompt: the prompt.
        chosen: index of the chosen image among the final ones.
        images: all final images in [0, 1], (num_images, 3, height, width).
        rewards: rewards of the final images; empty if the search has no reward.
        lineages: per final image the slot of its ancestor at every scale.
        events: one record per event.
        cost: compute and time of the search.
        thumbnails: with `trace`, the images of all live particles after each scale, before its events.
    """

    prompt: str
    chosen: int
    images: Float[Tensor, "num 3 height width"]
    rewards: tuple[float, ...]
    lineages: tuple[tuple[int, ...], ...]
    events: tuple[EventRecord, ...]
    cost: SearchCost
    thumbnails: tuple[Float[Tensor, "num 3 height width"], ...] = ()

    @property
    def image(self) -> Float[Tensor, "3 height width"]:
        """The chosen image in [0, 1]."""
        return self.images[self.chosen]

    @property
    def reward(self) -> float | None:
        """Reward of the chosen image; None if the search has no reward."""
        return self.rewards[self.chosen] if self.rewards else None

    @property
    def lineage(self) -> tuple[int, ...]:
        """Slot of the chosen image's ancestor at every scale."""
        return self.lineages[self.chosen]


@dataclass
class _State:
    """State of the scale loop for a batch of prompts."""

    particles: Particles
    history: Tensor
    cost: SearchCost
    events: list[list[EventRecord]] = field(default_factory=list)
    thumbnails: list[Tensor] = field(default_factory=list)
    decoded: dict[int | None, Tensor] = field(default_factory=dict)
    """Images of the live particles at the current scale, by the longest side they were decoded for; None for the full image."""
    counted: set[int | None] = field(default_factory=set)
    """Keys of `decoded` whose decoding is counted in the cost."""


class Search:
    """Sampler of images for prompts under a batch schedule with clustering and resampling.

    Results are a pure function of the prompt, the seed and the settings: they do not depend on which prompts share a
    batch or on the process. (Up to floating-point rounding: sums of another batch shape may differ in the last digit,
    which can change a sample whose uniform number is that close to a class boundary.)

    Args:
        model: a next-scale model.
        config: schedule and events.
        reward: required for resampling and for the choice among several final images; an object with the contract of `Reward`, or
            a function of images and prompts.
        features: required for clustering; likewise, a function of images.
        max_particles: upper bound on the particles of a batch of prompts; a single prompt is never split.
        memory_bytes: upper bound on the caches of a batch; None for no check.

    Raises:
        UserError: if the schedule is invalid, a scorer is missing, or one prompt's caches exceed `memory_bytes`.
    """

    def __init__(
        self,
        model: NextScaleModel,
        config: SearchConfig | None = None,
        *,
        reward: Reward | Callable[..., Any] | None = None,
        features: Features | Callable[..., Any] | None = None,
        max_particles: int = 64,
        memory_bytes: int | None = None,
    ) -> None:
        if config is not None and not isinstance(config, SearchConfig):
            raise UserError(f"config is a {type(config).__name__}: give a SearchConfig, such as SearchConfig(**settings)")
        self.model = model
        self.config = config or SearchConfig()
        self.steps = plan(self.config, len(model.scales))
        self.reward = None if reward is None else Scorer.of("reward", reward)
        self.features = None if features is None else Scorer.of("features", features)
        if max_particles < 1:
            raise UserError(f"max_particles is {max_particles}: it must be 1 or more")
        kinds = {kind for step in self.steps for kind, _ in step.events}
        if reward is None and ("resample" in kinds or self.num_final > 1):
            raise UserError("the search resamples or chooses among final images but has no reward: set reward")
        if features is None and "cluster" in kinds:
            raise UserError("the search clusters but has no features: set features")
        needed = estimate_memory(self.steps, [model.cache_bytes(scale) for scale in range(len(model.scales))])
        if memory_bytes is not None and needed > memory_bytes:
            raise UserError(
                f"the caches of one prompt need {needed / 2**20:.0f} MiB but the limit is {memory_bytes / 2**20:.0f} MiB: "
                "lower search.num_images or the batch schedule, or raise memory_gib"
            )
        at_once = max_particles // max(step.particles for step in self.steps)
        if memory_bytes is not None and needed:
            at_once = min(at_once, memory_bytes // needed)
        self.batch_size = max(1, at_once)

    @property
    def num_final(self) -> int:
        """Number of final images per prompt."""
        last = self.steps[-1]
        return last.events[-1][1] if last.events else last.particles

    def run(
        self, prompts: str | int | Sequence[str | int], *, seed: int = 0, seeds: Sequence[int] | None = None, trace: bool = False
    ) -> list[SearchResult]:
        """One result per prompt.

        Args:
            prompts: one or several texts (class numbers for VAR).
            seed: seed of all prompts; equal prompts give equal images.
            seeds: one seed per prompt instead.
            trace: also keep thumbnails of all live particles after each scale, for a report; not counted as cost.

        Raises:
            UserError: if there are no prompts, the numbers of seeds and prompts differ, or an output of the model or a scorer is not
                finite or has another shape.
        """
        return list(self.stream(prompts, seed=seed, seeds=seeds, trace=trace))

    def stream(
        self, prompts: str | int | Sequence[str | int], *, seed: int = 0, seeds: Sequence[int] | None = None, trace: bool = False
    ) -> Iterator[SearchResult]:
        """The results of `run`, yielded batch by batch."""
        texts = [prompts] if isinstance(prompts, str | int) else list(prompts)
        if not texts:
            raise UserError("there are no prompts: give one or more")
        chosen = [seed] * len(texts) if seeds is None else list(seeds)
        if len(chosen) != len(texts):
            raise UserError(f"there are {len(chosen)} seeds for {len(texts)} prompts: give one per prompt, or leave seeds out")
        for begin in range(0, len(texts), self.batch_size):
            batch = texts[begin : begin + self.batch_size]
            keys = [derive_seed(key, "prompt", str(text)) for key, text in zip(chosen[begin : begin + len(batch)], batch, strict=True)]
            started = time.perf_counter()
            condition = self.model.encode(batch)
            encoding = (time.perf_counter() - started) / len(batch)
            found = self.run_condition(condition, batch, KeyedStreams(keys), _keyed_resampling(keys), trace=trace)
            for result in found:
                yield replace(result, cost=replace(result.cost, seconds=result.cost.seconds + encoding))

    def replay(self, prompt: str | int, lineage: Sequence[int], *, seed: int = 0) -> Float[Tensor, "3 height width"]:
        """The image of a lineage, sampled again as a single particle without events."""
        condition = self.model.encode([prompt])
        streams = LineageStreams([derive_seed(seed, "prompt", str(prompt))], [lineage])
        particles = self.model.start(condition, 1)
        for _ in range(len(self.model.scales)):
            particles = self.model.advance(particles, condition, streams)
        return self.model.decode(particles.latent)[0]

    @torch.no_grad()
    def run_condition(
        self,
        condition: Any,
        prompts: Sequence[str | int],
        streams: RandomStreams,
        resampling: Callable[[int, int, int], torch.Generator],
        *,
        trace: bool = False,
    ) -> list[SearchResult]:
        """The loop for one batch of encoded prompts.

        Args:
            condition: output of `model.encode` for the prompts.
            prompts: the prompts, for the reward.
            streams: random streams of the particles.
            resampling: maps prompt index, scale and event number to the generator of that resampling.
            trace: see `run`.
        """
        started = time.perf_counter()
        first = self.model.start(condition, self.steps[0].particles)
        state = _State(first, torch.zeros(len(first.latent), 0), SearchCost(), [[] for _ in prompts])
        for scale, step in enumerate(self.steps):
            state.particles = self.model.advance(state.particles, condition, streams)
            state.decoded, state.counted = {}, set()
            state.cost.transformer_flops += step.particles * self.model.advance_flops(scale, condition)
            state.cost.num_tokens += step.particles * self.model.scales.lengths[scale]
            if trace:
                paused = _clock(state.particles)
                state.thumbnails.append(_shrink(self._images(state, self._thumbnail_size(scale, step)), _THUMBNAIL).cpu())
                started += time.perf_counter() - paused
            self._events(state, scale, step, prompts, resampling)
        return self._results(state, prompts, started)

    def _events(
        self, state: _State, scale: int, step: Step, prompts: Sequence[str | int], resampling: Callable[[int, int, int], torch.Generator]
    ) -> None:
        for number, (kind, keep) in enumerate(step.events):
            if keeps_everyone(self.config, step, number):
                for events in state.events:
                    events.append(EventRecord(scale, kind, tuple(range(keep))))
                continue
            if kind == "cluster":
                indices = self._cluster(state, scale, keep)
            else:
                indices = self._resample(state, scale, keep, prompts, [resampling(prompt, scale, number) for prompt in range(len(prompts))])
            # indices (prompts, kept) are slots within a prompt; rows (prompts * kept,) index the prompt-major batch.
            rows = flat_rows(indices, state.particles.per_prompt)
            state.particles = state.particles.select(indices)
            state.history = state.history[rows]
            state.decoded = {size: images[rows.to(images.device)] for size, images in state.decoded.items()}

    def _cluster(self, state: _State, scale: int, keep: int) -> Tensor:
        assert self.features is not None
        features = self.features(self._images_for(state, self.features))
        # features (prompts * particles, tokens, channels); each prompt clusters its own (particles, tokens, channels).
        kept = []
        for prompt, patches in enumerate(features.unflatten(0, (state.particles.num_prompts, -1))):
            chosen = representatives(project(patches, self.config.projection), keep, seed=_KMEANS_SEED)
            state.events[prompt].append(EventRecord(scale, "cluster", tuple(chosen.tolist())))
            kept.append(chosen)
        return torch.stack(kept)

    def _resample(self, state: _State, scale: int, keep: int, prompts: Sequence[str | int], streams: Sequence[torch.Generator]) -> Tensor:
        # history (prompts * particles, events) follows the lineage: `_events` selects its rows together with the particles,
        # so one new column of rewards (prompts, particles) extends every particle's own past.
        rewards = self._rewards(state, prompts)
        state.history = torch.cat((state.history, rewards.flatten()[:, None]), dim=1)
        potentials = potential(state.history.unflatten(0, rewards.shape), self.config.potential)
        weights = log_weights(potentials, self.config.strength)
        kept = []
        for prompt, row in enumerate(weights):
            chosen = resample(row, keep, self.config.scheme, generator=streams[prompt])
            state.events[prompt].append(
                EventRecord(
                    scale,
                    "resample",
                    tuple(chosen.tolist()),
                    tuple(rewards[prompt].tolist()),
                    tuple(row.exp().tolist()),
                    float(effective_sample_size(row)),
                )
            )
            kept.append(chosen)
        return torch.stack(kept)

    def _rewards(self, state: _State, prompts: Sequence[str | int]) -> Float[Tensor, "prompts particles"]:
        assert self.reward is not None
        return self._score(self._images_for(state, self.reward), prompts)

    def _score(self, images: Tensor, prompts: Sequence[str | int]) -> Float[Tensor, "prompts particles"]:
        assert self.reward is not None
        texts = [str(prompt) for prompt in prompts for _ in range(len(images) // len(prompts))]
        return self.reward(images, texts).unflatten(0, (len(prompts), -1))

    def _images_for(self, state: _State, scorer: Scorer) -> Tensor:
        """Images of the live particles at the scorer's input size; adds decoding and scoring to the cost."""
        state.cost.scorer_flops += state.particles.per_prompt * scorer.flops_per_image
        return self._images(state, scorer.image_size, counted=True)

    def _images(self, state: _State, max_size: int | None, *, counted: bool = False) -> Tensor:
        """Images of the live particles, decoded once per scale and size; with `counted` the first use adds to the cost."""
        size = self._size(max_size)
        if size not in state.decoded:
            state.decoded[size] = self._decode(state.particles.latent, max_size=size)
        if counted and size not in state.counted:
            state.counted.add(size)
            state.cost.num_decodes += state.particles.per_prompt
            state.cost.decoder_flops += state.particles.per_prompt * self.model.decode_flops(max_size=size)
        return state.decoded[size]

    def _size(self, max_size: int | None) -> int | None:
        """None for a size that is no smaller than the image."""
        return None if max_size is None or max_size >= max(self.model.image_size) else max_size

    def _thumbnail_size(self, scale: int, step: Step) -> int | None:
        """The size that the events of the scale decode, so that a thumbnail costs no decode of its own where there is one."""
        kinds = [kind for number, (kind, _) in enumerate(step.events) if not keeps_everyone(self.config, step, number)]
        scorer = {"cluster": self.features, "resample": self.reward}[kinds[0]] if kinds else None
        if scorer is not None:
            return scorer.image_size
        return None if scale == len(self.steps) - 1 else _THUMBNAIL

    def _decode(self, latent: Tensor, *, max_size: int | None = None) -> Tensor:
        height, width = self.model.image_size
        rows = max(1, _DECODED_PIXELS // (height * width))
        return torch.cat([self.model.decode(part, max_size=max_size) for part in latent.split(rows)])

    def _results(self, state: _State, prompts: Sequence[str | int], started: float) -> list[SearchResult]:
        count = state.particles.per_prompt
        images = self._images(state, None, counted=True)
        rewards = None
        if count > 1:
            assert self.reward is not None
            state.cost.scorer_flops += count * self.reward.flops_per_image
            rewards = self._score(images, prompts)
        seconds = (_clock(state.particles) - started) / len(prompts)
        if rewards is None and self.reward is not None:  # reported only: no choice depends on it, so it is not counted as cost
            rewards = self._score(images, prompts)
        # Prompt-major rows to (prompts, particles, ...): images, lineages and thumbnails alike.
        images = images.cpu().unflatten(0, (len(prompts), -1))
        lineages = state.particles.lineage.unflatten(0, (len(prompts), -1))
        results = []
        for index, prompt in enumerate(prompts):
            results.append(
                SearchResult(
                    prompt=str(prompt),
                    chosen=int(rewards[index].argmax()) if rewards is not None else 0,
                    images=images[index],
                    rewards=tuple(rewards[index].tolist()) if rewards is not None else (),
                    lineages=tuple(tuple(row) for row in lineages[index].tolist()),
                    events=tuple(state.events[index]),
                    cost=replace(state.cost, seconds=seconds),
                    thumbnails=tuple(stage.unflatten(0, (len(prompts), -1))[index] for stage in state.thumbnails),
                )
            )
        return results


def _clock(particles: Particles) -> float:
    """Seconds of the performance counter after all queued device work has finished."""
    if particles.latent.is_cuda:
        torch.cuda.synchronize(particles.latent.device)
    return time.perf_counter()


def _shrink(images: Tensor, longest: int) -> Tensor:
    height, width = images.shape[-2:]
    if max(height, width) <= longest:
        return images
    factor = longest / max(height, width)
    return functional.interpolate(images, (max(1, round(height * factor)), max(1, round(width * factor))), mode="area")


def _keyed_resampling(prompt_seeds: Sequence[int]) -> Callable[[int, int, int], torch.Generator]:
    return lambda prompt, scale, number: generator(prompt_seeds[prompt], "resample", scale, number)
