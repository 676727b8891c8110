"""The memory probe: accuracy of one shot that is sampled after the true past of a story.

The caption names the reappearing character without describing it, so that its look follows from the memory only. The upper
bound is the accuracy of an ideal reader of the same memory.
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
    """A story and a next shot in which a character and a place reappear.

    Attributes:
        story: the story, whose shots are the past.
        shot: the next shot.
        seed: seed of the noise.
    """

    story: Story
    shot: StoryShot
    seed: int

    @property
    def scene(self) -> Scene:
        """The true scene of the next shot."""
        return self.story.scene(self.shot)

    @property
    def past(self) -> list[Scene]:
        """The scenes of the past."""
        return [self.story.scene(shot) for shot in self.story.shots]

    @property
    def storyboard(self) -> Storyboard:
        """The storyboard of past and next shot, without descriptions."""
        whole = replace(self.story, shots=(*self.story.shots, self.shot))
        return storyboard_of(whole, title="probe", seed=self.seed, described=False)


@dataclass(frozen=True)
class Outcome:
    """The result of one sampled reappearance.

    Attributes:
        right: whether each detail of identity and set is right, by name.
        character_gap: number of shots since the last one with the character.
        place_gap: number of shots since the last one at the place.
        residual: distance to the nearest rendered frame, see `Reading`.
        tokens: image and text tokens of memory and shot.
        seconds: time of sampling.
        identity_upper_bound, set_upper_bound: whether the ideal reader of the memory is right, 1 or 0; chance if the memory has
            no view.
        colour_upper_bound: the same for the colour.
        covered: whether the memory contains both the character and the place.
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
    """Fraction of the outcomes in which each detail, the identity and the set are right."""
    found = {part: fmean(outcome.right[part] for outcome in outcomes) for part in (*IDENTITY_PARTS, *SETTING_PARTS)}
    return found | {"identity": fmean(outcome.identity for outcome in outcomes), "set": fmean(outcome.set for outcome in outcomes)}


def sample_reappearances(
    count: int, num_past: int, *, seed: int, gap_distribution: str = "uniform", min_gap: int = 1
) -> list[Reappearance]:
    """Stories of `num_past` shots with a reappearance, from random streams that training does not use.

    Args:
        count: number of stories.
        num_past: shots of the past.
        seed: seed of the stories.
        gap_distribution: see `next_shots`.
        min_gap: smallest number of shots since the last one with the character; 2 for a character absent from the newest shot.
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
    """Samples the next shot of every story over its true past and verifies it.

    Args:
        sampler: the model and its memory policy.
        returns: stories with pasts of equal length.
        batch_size: stories per batch.
        upper_bounds: whether to compute upper bounds; otherwise all are chance.

    Returns:
        Outcomes and sampled frames.
    """
    patch, context_noise = sampler.pixels_per_token, sampler.sampling.context_noise
    outcomes: list[Outcome] = []
    frames: list[Tensor] = []
    for begin in range(0, len(returns), batch_size):
        part = returns[begin : begin + batch_size]
        # The true past (stories, past, 3, side, side) is fixed; only the keyframe after it is sampled.
        pasts = torch.stack([render_images(item.past) for item in part])
        num_past = pasts.shape[1]
        sampled = [
            keyframes[num_past]
            for keyframes in sampler.sample_many(
                [item.storyboard for item in part], fixed={index: pasts[:, index] for index in range(num_past)}
            )
        ]
        scenes = [item.scene for item in part]
        readings = read_frames(torch.stack([keyframe.frame for keyframe in sampled]), scenes)
        for item, keyframe, reading in zip(part, sampled, readings, strict=True):
            wanted = item.scene
            right = {name: getattr(reading.identity, name) == getattr(wanted.identity, name) for name in IDENTITY_PARTS}
            right |= {name: getattr(reading.setting, name) == getattr(wanted.setting, name) for name in SETTING_PARTS}
            kept = {entry.source: entry.grid for entry in keyframe.remembered}
            best_identity = read_identity(item, kept, patch=patch, context_noise=context_noise) if upper_bounds else None
            best_setting = read_setting(item, kept, patch=patch, context_noise=context_noise) if upper_bounds else None
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
                    _chance(best_identity, wanted.identity, len(IDENTITIES)),
                    _chance(best_setting, wanted.setting, len(SETTINGS)),
                    _chance(best_identity and best_identity.colour, wanted.identity.colour, len(BODY_COLOURS)),
                    is_covered(list(kept), [shot.tags for shot in item.story.shots], item.shot.tags, len(kept)),
                )
            )
            frames.append(keyframe.frame)
    return outcomes, torch.stack(frames)


def _chance(best: object | None, wanted: object, count: int) -> float:
    """Accuracy of the best guess: chance among `count` values without one."""
    return 1 / count if best is None else float(best == wanted)


def read_identity(
    item: Reappearance, kept: Mapping[int, Grid], *, patch: int, context_noise: float, image_size: int = 64
) -> Identity | None:
    """The most likely identity given the memory frames of the reappearing character; None if there are none.

    All other details of the memory frames are given and their props are left out, so that no model can do better: only the size
    and the noise of the memory limit the result.

    Args:
        item: the reappearance.
        kept: rows and columns of tokens of the memory frames, by index of the shot.
        patch: side of a token, in pixels.
        context_noise: noise level of the memory frames.
        image_size: side of a full frame, in pixels.
    """
    shown = {index: grid for index, grid in kept.items() if index >= 0 and item.story.shots[index].name == item.shot.name}
    best = _most_likely(item, shown, IDENTITIES, item.scene.identity, every_identity, patch, context_noise, image_size)
    return None if best is None else IDENTITIES[best]


def read_setting(item: Reappearance, kept: Mapping[int, Grid], *, patch: int, context_noise: float, image_size: int = 64) -> Setting | None:
    """The most likely set given the memory frames of the place; None if there are none. See `read_identity`."""
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
    """Index of the candidate under which the noisy memory frames are most likely."""
    if context_noise <= 1 / 3 and any(grid[0] * patch == image_size for grid in shown.values()):
        # Shortcut: the verifier is exact on a full-size frame at this noise level.
        return candidates.index(truth)
    # Gaussian noise: the log-likelihood is a sum of squared distances over all memory frames, one per candidate. All candidates
    # (candidates, 3, side, side) are rendered at full size and then resized and scaled like the memory frame (1, 3, rows, columns).
    cost: Tensor | None = None
    for index, grid in sorted(shown.items()):
        scene = item.story.scene(item.story.shots[index])
        size = (grid[0] * patch, grid[1] * patch)
        rendered = functional.interpolate(every(scene, image_size=image_size), size, mode="area")
        frame = functional.interpolate(render_images([replace(scene, prop="none")], image_size=image_size), size, mode="area")
        noise = torch.randn(frame.shape, generator=generator(item.seed, "reader", index))
        noisy = (1 - context_noise) * frame + context_noise * noise
        distances = ((1 - context_noise) * rendered - noisy).square().flatten(1).sum(1)
        cost = distances if cost is None else cost + distances
    return None if cost is None else int(cost.argmin())


class MemoryProbe:
    """Accuracy of reappearing characters and places by memory policy, measured after training.

    Args:
        num_stories: number of sampled reappearances.
        num_past: shots before each.
        memories: names of the compared memory policies.
        seed: seed of the stories, which training does not use.

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
        """Samples and verifies the reappearances under every memory policy; see `Probe`."""
        returns = sample_reappearances(self._num_stories, self._num_past, seed=self._seed, min_gap=2)
        fractions: dict[str, dict[str, float]] = {}
        for name in self.memories:
            sampler = KeyframeSampler(model, memories[name], sampling, image_size=(IMAGE_SIZE, IMAGE_SIZE))
            outcomes, _ = measure_reappearances(sampler, returns, upper_bounds=False)
            fractions[name] = fractions_right(outcomes)
            _logger.info("memory %-11s %s", name, ", ".join(f"{key} {value:.2f}" for key, value in fractions[name].items()))
        headline = {f"colour of reappearing characters, memory {name}": found["colour"] for name, found in fractions.items()}
        return ProbeResult({"returns": fractions}, headline)
