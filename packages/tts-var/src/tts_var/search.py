"""Test-time scaling of a next-scale model: the scale loop with its clustering and resampling events.

A single sample, Best-of-N, importance sampling, clustering alone and resampling alone are settings of this loop
(`tts_var.numerics.schedule.SearchConfig`), so that comparisons differ in nothing else.

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
from tts_var.numerics.schedule import SearchConfig, Step, estimate_memory, plan
from tts_var.scorers import Features, Reward

# Decoding holds large activations: so many pixels at once, 4 pictures of 1024 x 1024 or 1024 of 64 x 64.
_DECODED_PIXELS = 2**22
# Thumbnails of a report are kept in memory and written into a page: longest side in pixels.
_THUMBNAIL = 128

# k-means starts from a fixed seed, as in the released code: clusters are a function of the pictures alone.
_KMEANS_SEED = 0


@dataclass(frozen=True)
class EventRecord:
    """What one event did to the particles of one prompt.

    Attributes:
        scale: after which scale.
        kind: `cluster` or `resample`.
        kept: slots that live on, in order; new slot j continues old slot `kept[j]`.
        rewards: of all particles before the event; empty for clustering.
        weights: resampling weights; empty for clustering.
        effective_sample_size: of the weights; None for clustering.
    """

    scale: int
    kind: str
    kept: tuple[int, ...]
    rewards: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    effective_sample_size: float | None = None


@dataclass
class SearchCost:
    """What a search spent on one prompt.

    Attributes:
        transformer_flops: operations of the transformer, all guidance branches.
        decoder_flops: operations of decoding pictures.
        scorer_flops: operations of reward and features.
        num_decodes: pictures decoded.
        num_tokens: tokens generated.
        seconds: wall time, a batch's time divided by its prompts.
    """

    transformer_flops: float = 0.0
    decoder_flops: float = 0.0
    scorer_flops: float = 0.0
    num_decodes: int = 0
    num_tokens: int = 0
    seconds: float = 0.0

    @property
    def flops(self) -> float:
        """All operations."""
        return self.transformer_flops + self.decoder_flops + self.scorer_flops


@dataclass(frozen=True)
class SearchResult:
    """What a search found for one prompt.

    Attributes:
        prompt: the prompt.
        chosen: index of the chosen picture among the final ones.
        images: all final pictures in [0, 1], (num_images, 3, height, width).
        rewards: their rewards; empty where the search has no reward.
        lineages: slots of their ancestors.
        events: what each event did.
        cost: what it took.
        thumbnails: with `trace`, the pictures of all live particles after each scale, before its events.
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
        """The chosen picture in [0, 1]."""
        return self.images[self.chosen]

    @property
    def reward(self) -> float | None:
        """Its reward; None where the search has no reward."""
        return self.rewards[self.chosen] if self.rewards else None

    @property
    def lineage(self) -> tuple[int, ...]:
        """Slot of its ancestor at every scale."""
        return self.lineages[self.chosen]


@dataclass
class _State:
    """A batch of prompts on its way through the scales."""

    particles: Particles
    history: Tensor
    cost: SearchCost
    events: list[list[EventRecord]] = field(default_factory=list)
    thumbnails: list[Tensor] = field(default_factory=list)


class Search:
    """Samples pictures for prompts under a batch schedule with clustering and resampling.

    Results are a pure function of the prompt, the seed and the settings: they do not depend on which prompts are
    run together or in which process. (Up to floating-point rounding: sums of another batch shape may differ in
    the last digit, and a draw that lies exactly there may turn.)

    Args:
        model: a next-scale model.
        config: schedule and events.
        reward: needed where something is resampled or chosen.
        features: needed where something is clustered.
        max_particles: prompts are run in batches that hold at most so many particles; one prompt always runs whole.
        memory_bytes: the caches of a batch must fit into this; None for no check.

    Raises:
        UserError: if the schedule cannot be honoured, a judge is missing, or one prompt's caches do not fit.
    """

    def __init__(
        self,
        model: NextScaleModel,
        config: SearchConfig | None = None,
        *,
        reward: Reward | None = None,
        features: Features | None = None,
        max_particles: int = 64,
        memory_bytes: int | None = None,
    ) -> None:
        self.model = model
        self.config = config or SearchConfig()
        self.steps = plan(self.config, len(model.scales))
        self.reward = reward
        self.features = features
        if max_particles < 1:
            raise UserError(f"max_particles is {max_particles}: it must be 1 or more")
        kinds = {kind for step in self.steps for kind, _ in step.events}
        if reward is None and ("resample" in kinds or self.num_final > 1):
            raise UserError("the search resamples or chooses among final pictures but has no reward: name one")
        if features is None and "cluster" in kinds:
            raise UserError("the search clusters but has no features: name some")
        needed = estimate_memory(self.steps, [model.cache_bytes(scale) for scale in range(len(model.scales))])
        if memory_bytes is not None and needed > memory_bytes:
            raise UserError(
                f"the search needs {needed / 2**20:.0f} MiB for the caches of one prompt but may use {memory_bytes / 2**20:.0f} MiB: "
                "lower search.num_images or the batch schedule, or raise memory_gib"
            )
        at_once = max_particles // max(step.particles for step in self.steps)
        if memory_bytes is not None and needed:
            at_once = min(at_once, memory_bytes // needed)
        self.batch_size = max(1, at_once)

    @property
    def num_final(self) -> int:
        """Final pictures per prompt."""
        last = self.steps[-1]
        return last.events[-1][1] if last.events else last.particles

    def run(
        self, prompts: str | int | Sequence[str | int], *, seed: int = 0, seeds: Sequence[int] | None = None, trace: bool = False
    ) -> list[SearchResult]:
        """One result per prompt.

        Args:
            prompts: texts (class numbers for VAR), one or several.
            seed: seed of all prompts; equal prompts then give equal pictures.
            seeds: one seed per prompt instead.
            trace: also keep small pictures of every live particle after each scale, for a report; not counted as cost.

        Raises:
            UserError: if the seeds are not as many as the prompts, or the model or a judge turns non-finite.
        """
        return list(self.stream(prompts, seed=seed, seeds=seeds, trace=trace))

    def stream(
        self, prompts: str | int | Sequence[str | int], *, seed: int = 0, seeds: Sequence[int] | None = None, trace: bool = False
    ) -> Iterator[SearchResult]:
        """The results of `run`, each batch as soon as it is done."""
        texts = [prompts] if isinstance(prompts, str | int) else list(prompts)
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
        """The picture that the ancestors in `lineage` lead to, drawn as a single particle without any event."""
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
            condition: what `model.encode` made of the prompts.
            prompts: the prompts, for the reward.
            streams: randomness of the pictures.
            resampling: from prompt, scale and event number to the generator that a resampling draws from.
            trace: see `run`.
        """
        started = time.perf_counter()
        first = self.model.start(condition, self.steps[0].particles)
        state = _State(first, torch.zeros(len(first.latent), 0), SearchCost(), [[] for _ in prompts])
        for scale, step in enumerate(self.steps):
            state.particles = self.model.advance(state.particles, condition, streams)
            state.cost.transformer_flops += step.particles * self.model.advance_flops(scale, condition)
            state.cost.num_tokens += step.particles * self.model.scales.lengths[scale]
            if trace:
                paused = _clock(state.particles)
                state.thumbnails.append(_shrink(self._decode(state.particles.latent), _THUMBNAIL).cpu())
                started += time.perf_counter() - paused
            self._events(state, scale, step, prompts, resampling)
        return self._conclude(state, prompts, started)

    def _events(
        self, state: _State, scale: int, step: Step, prompts: Sequence[str | int], resampling: Callable[[int, int, int], torch.Generator]
    ) -> None:
        for number, (kind, keep) in enumerate(step.events):
            if kind == "cluster":
                indices = self._cluster(state, scale, keep)
            else:
                indices = self._resample(state, scale, keep, prompts, [resampling(prompt, scale, number) for prompt in range(len(prompts))])
            rows = flat_rows(indices, state.particles.per_prompt)
            state.particles = state.particles.select(indices)
            state.history = state.history[rows]

    def _cluster(self, state: _State, scale: int, keep: int) -> Tensor:
        assert self.features is not None
        images = self._look(state, self.features.image_size, self.features.flops_per_image)
        features = self.features(images).float().cpu()
        if not torch.isfinite(features).all():
            raise UserError("the features of a picture are not finite: the feature model does not fit these pictures")
        kept = []
        for prompt, patches in enumerate(features.unflatten(0, (state.particles.num_prompts, -1))):
            chosen = representatives(project(patches, self.config.projection), keep, seed=_KMEANS_SEED)
            state.events[prompt].append(EventRecord(scale, "cluster", tuple(chosen.tolist())))
            kept.append(chosen)
        return torch.stack(kept)

    def _resample(self, state: _State, scale: int, keep: int, prompts: Sequence[str | int], streams: Sequence[torch.Generator]) -> Tensor:
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

    def _rewards(self, state: _State, prompts: Sequence[str | int], images: Tensor | None = None) -> Float[Tensor, "prompts particles"]:
        assert self.reward is not None
        if images is None:
            images = self._look(state, self.reward.image_size, self.reward.flops_per_image)
        else:
            state.cost.scorer_flops += state.particles.per_prompt * self.reward.flops_per_image
        return self._judge(images, prompts)

    def _judge(self, images: Tensor, prompts: Sequence[str | int]) -> Float[Tensor, "prompts particles"]:
        assert self.reward is not None
        texts = [str(prompt) for prompt in prompts for _ in range(len(images) // len(prompts))]
        rewards = self.reward(images, texts).float().cpu()
        if not torch.isfinite(rewards).all():
            raise UserError("the reward of a picture is not finite: the reward model does not fit these pictures")
        return rewards.unflatten(0, (len(prompts), -1))

    def _look(self, state: _State, image_size: int | None, flops_per_image: float) -> Tensor:
        """The live particles' pictures, as large as a judge looks."""
        count = state.particles.per_prompt
        state.cost.num_decodes += count
        state.cost.decoder_flops += count * self.model.decode_flops(max_size=image_size)
        state.cost.scorer_flops += count * flops_per_image
        return self._decode(state.particles.latent, max_size=image_size)

    def _decode(self, latent: Tensor, *, max_size: int | None = None) -> Tensor:
        height, width = self.model.image_size
        rows = max(1, _DECODED_PIXELS // (height * width))
        return torch.cat([self.model.decode(part, max_size=max_size) for part in latent.split(rows)])

    def _conclude(self, state: _State, prompts: Sequence[str | int], started: float) -> list[SearchResult]:
        count = state.particles.per_prompt
        images = self._decode(state.particles.latent)
        state.cost.num_decodes += count
        state.cost.decoder_flops += count * self.model.decode_flops()
        rewards = self._rewards(state, prompts, images) if count > 1 else None
        seconds = (_clock(state.particles) - started) / len(prompts)
        if rewards is None and self.reward is not None:  # for the record alone: nothing has to be chosen, and it costs the search nothing
            rewards = self._judge(images, prompts)
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
                    thumbnails=tuple(pictures.unflatten(0, (len(prompts), -1))[index] for pictures in state.thumbnails),
                )
            )
        return results


def _clock(particles: Particles) -> float:
    """Seconds on the clock when all that was asked of the device is done."""
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
