"""The memory probe: a story's true past, one shot drawn after it, and what of it is right.

Whoever returns is named, not described: only the memory can tell the model how "ada" looked. The ceiling says what the
best reader of the same memory could know.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from captain_cinema.conditioning import MemoryPolicy
from captain_cinema.data.storyboard import Storyboard
from captain_cinema.evaluation import ProbeResult
from captain_cinema.models import KeyframeModel
from captain_cinema.numerics.memory import Grid
from captain_cinema.numerics.retrieval import is_covered
from captain_cinema.sampling import KeyframeSampler, SamplingConfig
from captain_cinema.toy.rendering import BODY_COLOURS, IMAGE_SIZE, Identity, Scene, Setting, render_images
from captain_cinema.toy.stories import Story, StoryShot, gap_of, next_shots, sample_story, storyboard_of
from captain_cinema.toy.verifier import IDENTITIES, SETTINGS, every_identity, every_setting, read_frames
from triptych.errors import UserError
from triptych.seeding import derive_seed, generator
from triptych.telemetry.logging import get_logger

_logger = get_logger("probe")

IDENTITY_PARTS = ("colour", "shape", "hat", "badge")
SETTING_PARTS = ("wall", "ground", "decoration")


@dataclass(frozen=True)
class Reappearance:
    """A story and the shot in which somebody returns to some place.

    Attributes:
        story: with the past as its shots.
        shot: what comes next.
        seed: of the noise.
    """

    story: Story
    shot: StoryShot
    seed: int

    @property
    def scene(self) -> Scene:
        """What the keyframe of the shot should show."""
        return self.story.scene(self.shot)

    @property
    def past(self) -> list[Scene]:
        """What the keyframes of the past show."""
        return [self.story.scene(shot) for shot in self.story.shots]

    @property
    def storyboard(self) -> Storyboard:
        """The story as captions alone; nobody is described."""
        whole = replace(self.story, shots=(*self.story.shots, self.shot))
        return storyboard_of(whole, title="probe", seed=self.seed, described=False)


@dataclass(frozen=True)
class Outcome:
    """What one drawn return came to.

    Attributes:
        right: of every part of identity and set whether it is right.
        character_gap: shots since the character was last shown.
        place_gap: shots since the place was.
        residual: distance to the nearest frame of this world, see `Reading`.
        tokens: of memory and shot.
        seconds: of sampling.
        identity_upper_bound, set_upper_bound: whether the best reader of the memory would know, 1 or 0; chance where it holds
            no view.
        colour_upper_bound: likewise for the colour.
        covered: whether the memory shows both the character and the place.
    """

    right: dict[str, bool]
    character_gap: int
    place_gap: int
    residual: float
    tokens: int
    seconds: float
    identity_upper_bound: float
    set_upper_bound: float
    colour_upper_bound: float
    covered: bool

    @property
    def identity(self) -> bool:
        """Whether colour, shape, hat and badge are all right."""
        return all(self.right[part] for part in IDENTITY_PARTS)

    @property
    def set(self) -> bool:
        """Whether wall, ground and decoration are all right."""
        return all(self.right[part] for part in SETTING_PARTS)


def fractions_right(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Share of the outcomes in which each part, the identity and the set are right."""
    found = {part: fmean(outcome.right[part] for outcome in outcomes) for part in (*IDENTITY_PARTS, *SETTING_PARTS)}
    return found | {"identity": fmean(outcome.identity for outcome in outcomes), "set": fmean(outcome.set for outcome in outcomes)}


def sample_reappearances(
    count: int, num_past: int, *, seed: int, gap_distribution: str = "uniform", min_gap: int = 1
) -> list[Reappearance]:
    """Stories of `num_past` shots after which somebody returns, from streams that no training uses.

    Args:
        count: how many.
        num_past: shots of the past.
        seed: of the stories.
        gap_distribution: see `next_shots`.
        min_gap: the character was last shown at least so many shots ago; 2 for somebody who was absent.
    """
    found: list[Reappearance] = []
    index = 0
    while len(found) < count:
        stream = generator(seed, "return", num_past, index)
        story = sample_story(num_past, generator=stream)
        (shot,) = next_shots(story, 1, gap_distribution=gap_distribution, generator=stream)
        index += 1
        gap = gap_of(story.shots, shot.name)
        assert gap is not None
        if gap >= min_gap or len({other.name for other in story.shots}) == 1:
            found.append(Reappearance(story, shot, derive_seed(seed, "noise", num_past, index)))
    return found


def measure_reappearances(
    sampler: KeyframeSampler, returns: Sequence[Reappearance], *, batch_size: int = 20, upper_bounds: bool = True
) -> tuple[list[Outcome], Float[Tensor, "returns 3 height width"]]:
    """Samples the return of every story over its true past and reads it.

    Args:
        sampler: the model and its memory.
        returns: stories of equally long pasts.
        batch_size: stories drawn side by side.
        upper_bounds: whether to read the memories; else all upper_bounds are chance.

    Returns:
        Outcomes and drawn frames.
    """
    patch, context_noise = sampler.pixels_per_token, sampler.sampling.context_noise
    outcomes: list[Outcome] = []
    frames: list[Tensor] = []
    for begin in range(0, len(returns), batch_size):
        part = returns[begin : begin + batch_size]
        pasts = torch.stack([render_images(item.past) for item in part])
        num_past = pasts.shape[1]
        drawn = [
            keyframes[num_past]
            for keyframes in sampler.sample_many(
                [item.storyboard for item in part], fixed={index: pasts[:, index] for index in range(num_past)}
            )
        ]
        scenes = [item.scene for item in part]
        readings = read_frames(torch.stack([keyframe.frame for keyframe in drawn]), scenes)
        for item, keyframe, reading in zip(part, drawn, readings, strict=True):
            wanted = item.scene
            right = {name: getattr(reading.identity, name) == getattr(wanted.identity, name) for name in IDENTITY_PARTS}
            right |= {name: getattr(reading.setting, name) == getattr(wanted.setting, name) for name in SETTING_PARTS}
            kept = {entry.source: entry.grid for entry in keyframe.remembered}
            known_identity = read_identity(item, kept, patch=patch, context_noise=context_noise) if upper_bounds else None
            known_setting = read_setting(item, kept, patch=patch, context_noise=context_noise) if upper_bounds else None
            name_gap, place_gap = (gap_of(item.story.shots, tag) for tag in item.shot.tags)
            assert name_gap is not None
            assert place_gap is not None
            outcomes.append(
                Outcome(
                    right,
                    name_gap,
                    place_gap,
                    reading.residual,
                    keyframe.tokens,
                    keyframe.seconds,
                    _chance(known_identity, wanted.identity, len(IDENTITIES)),
                    _chance(known_setting, wanted.setting, len(SETTINGS)),
                    _chance(known_identity and known_identity.colour, wanted.identity.colour, len(BODY_COLOURS)),
                    is_covered(list(kept), [shot.tags for shot in item.story.shots], item.shot.tags, len(kept)),
                )
            )
            frames.append(keyframe.frame)
    return outcomes, torch.stack(frames)


def _chance(known: object | None, wanted: object, count: int) -> float:
    """How likely the best guess is right: one of `count` where nothing is known."""
    return 1 / count if known is None else float(known == wanted)


def read_identity(
    item: Reappearance, kept: Mapping[int, Grid], *, patch: int, context_noise: float, image_size: int = 64
) -> Identity | None:
    """The identity that fits best what a memory holds of the returning character; None where it holds nothing.

    The reader knows everything else of the remembered shots, and no prop is in its way, so that no model can do better;
    only the memory's size and its noise stand between.

    Args:
        item: the return.
        kept: rows and columns of tokens by index of the remembered shots.
        patch: pixels per side of a token.
        context_noise: noise level of the remembered frames.
        image_size: pixels of a side of a full frame.
    """
    shown = {index: grid for index, grid in kept.items() if index >= 0 and item.story.shots[index].name == item.shot.name}
    best = _most_likely(item, shown, IDENTITIES, item.scene.identity, every_identity, patch, context_noise, image_size)
    return None if best is None else IDENTITIES[best]


def read_setting(item: Reappearance, kept: Mapping[int, Grid], *, patch: int, context_noise: float, image_size: int = 64) -> Setting | None:
    """The set that fits best what a memory holds of the place; None where it holds nothing. See `read_identity`."""
    shown = {index: grid for index, grid in kept.items() if index >= 0 and item.story.shots[index].place == item.shot.place}
    best = _most_likely(item, shown, SETTINGS, item.scene.setting, every_setting, patch, context_noise, image_size)
    return None if best is None else SETTINGS[best]


def _most_likely(
    item: Reappearance,
    shown: Mapping[int, Grid],
    candidates: Sequence[Any],
    truth: Any,
    every: Callable[..., Tensor],
    patch: int,
    context_noise: float,
    image_size: int,
) -> int | None:
    """Index of the candidate under which the noisy remembered frames are most likely."""
    if context_noise <= 1 / 3 and any(grid[0] * patch == image_size for grid in shown.values()):
        # The judge reads a frame in full at such noise without an error.
        return candidates.index(truth)
    cost: Tensor | None = None
    for index, grid in sorted(shown.items()):
        scene = item.story.scene(item.story.shots[index])
        size = (grid[0] * patch, grid[1] * patch)
        scenes = functional.interpolate(every(scene, image_size=image_size), size, mode="area")
        frame = functional.interpolate(render_images([replace(scene, prop="none")], image_size=image_size), size, mode="area")
        noise = torch.randn(frame.shape, generator=generator(item.seed, "reader", index))
        seen = (1 - context_noise) * frame + context_noise * noise
        distances = ((1 - context_noise) * scenes - seen).square().flatten(1).sum(1)
        cost = distances if cost is None else cost + distances
    return None if cost is None else int(cost.argmin())


class MemoryProbe:
    """How often somebody who was absent comes back as they were, by memory: the probe of a training.

    Args:
        num_stories: returns that are drawn.
        num_past: shots before each.
        memories: names of the memories that are compared.
        seed: of the stories; training never sees them.

    Raises:
        UserError: if a number is out of range.
    """

    def __init__(self, *, num_stories: int = 100, num_past: int = 8, memories: Sequence[str] = ("golden", "none"), seed: int = 1) -> None:
        if num_stories < 1 or num_past < 2:
            raise UserError(f"probe.num_stories is {num_stories} and probe.num_past {num_past}: give 1 and 2 or more")
        self.memories = tuple(memories)
        self._num_stories = num_stories
        self._num_past = num_past
        self._seed = seed

    def __call__(self, model: KeyframeModel, memories: Mapping[str, MemoryPolicy], sampling: SamplingConfig) -> ProbeResult:
        """Samples and reads the returns under every memory of the probe; see `Probe`."""
        returns = sample_reappearances(self._num_stories, self._num_past, seed=self._seed, min_gap=2)
        shares: dict[str, dict[str, float]] = {}
        for name in self.memories:
            sampler = KeyframeSampler(model, memories[name], sampling, image_size=(IMAGE_SIZE, IMAGE_SIZE))
            outcomes, _ = measure_reappearances(sampler, returns, upper_bounds=False)
            shares[name] = fractions_right(outcomes)
            _logger.info("memory %-11s %s", name, ", ".join(f"{key} {value:.2f}" for key, value in shares[name].items()))
        headline = {f"colour of who returns, memory {name}": found["colour"] for name, found in shares.items()}
        return ProbeResult({"returns": shares}, headline)
