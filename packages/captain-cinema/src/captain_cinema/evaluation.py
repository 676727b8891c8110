"""What memories are worth: identity and set of who returns, how alike they stay over a film, what acts in clips, at what cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from captain_cinema.data.captions import caption_indices
from captain_cinema.data.clips import TinyClips
from captain_cinema.data.drawing import ACTIONS
from captain_cinema.data.judge import read_action, read_frames
from captain_cinema.data.stories import sample_story
from captain_cinema.keyframes import KeyframeSampler
from captain_cinema.probe import IDENTITY_PARTS, Outcome, draw_returns, sample_returns, shares_right, storyboard_of
from captain_cinema.video.mmdit import DiffusionClips
from triptych.distributed import World
from triptych.errors import UserError
from triptych.evaluation.statistics import bootstrap_interval, paired_difference
from triptych.seeding import derive_seed, generator

GAPS = ((1, 1), (2, 3), (4, 7), (8, 15), (16, 1000))

# What a memory must be held against: the other compression at as many tokens, the other order, and whole frames.
RIVALS = (
    ("golden", "uniform_retrieved"),
    ("golden", "golden_time"),
    ("golden", "best"),
    ("golden", "full"),
    ("golden_time", "uniform"),
)


@dataclass
class EvaluationConfig:
    """How much is measured.

    Attributes:
        num_stories: returns per length and memory.
        lengths: shots of the past.
        gap_law: `uniform` or `recent`: how long ago who returns was last shown.
        film_stories: films drawn from captions alone, for self-consistency; 0 for none.
        film_shots: shots of each.
        num_clips: clips whose action is read; 0 for none.
        confidence: level of the bootstrap intervals.
        batch_size: stories drawn side by side.
    """

    num_stories: int = 60
    lengths: list[int] = field(default_factory=lambda: [8, 16, 32, 48])
    gap_law: str = "uniform"
    film_stories: int = 8
    film_shots: int = 16
    num_clips: int = 40
    confidence: float = 0.95
    batch_size: int = 20

    def __post_init__(self) -> None:
        if self.num_stories < 1 or self.batch_size < 1 or min(self.film_stories, self.num_clips) < 0:
            raise UserError(
                f"evaluation.num_stories is {self.num_stories}, batch_size {self.batch_size}, film_stories {self.film_stories}, "
                f"num_clips {self.num_clips}: give 1, 1, 0 and 0 or more"
            )
        if not self.lengths or min(self.lengths) < 1 or self.film_shots < 2:
            raise UserError(
                f"evaluation.lengths is {self.lengths} and film_shots {self.film_shots}: give lengths of 1 or more, and 2 or more"
            )
        if not 0 < self.confidence < 1:
            raise UserError(f"evaluation.confidence is {self.confidence}: it must lie between 0 and 1")


@dataclass(frozen=True)
class FilmOutcome:
    """One shot of a film drawn from captions, in which somebody appears again.

    Attributes:
        same: of every part of the identity whether it is as in the first drawn appearance.
        described: of every part whether it is as the caption of that first appearance said.
        gap: shots since the character was last shown.
    """

    same: dict[str, bool]
    described: dict[str, bool]
    gap: int


class OutcomeStore:
    """Outcomes of the memories that are done, as a component of a checkpoint: an evaluation goes on with the next one.

    Args:
        world: rank 0 writes, every rank reads.

    Attributes:
        returns: by memory and length.
        films: by memory.
    """

    def __init__(self, world: World) -> None:
        self.returns: dict[str, dict[int, list[Outcome]]] = {}
        self.films: dict[str, list[FilmOutcome]] = {}
        self._world = world

    def save(self, directory: Path) -> None:
        """Writes all outcomes into `directory`."""
        if self._world.is_main:
            returns = {
                name: {str(length): [asdict(row) for row in rows] for length, rows in table.items()} for name, table in self.returns.items()
            }
            films = {name: [asdict(row) for row in rows] for name, rows in self.films.items()}
            (directory / "outcomes.json").write_text(json.dumps({"returns": returns, "films": films}))

    def load(self, directory: Path) -> None:
        """Restores what `save` wrote."""
        tree = json.loads((directory / "outcomes.json").read_text())
        self.returns = {
            name: {int(length): [Outcome(**row) for row in rows] for length, rows in table.items()}
            for name, table in tree["returns"].items()
        }
        self.films = {name: [FilmOutcome(**row) for row in rows] for name, rows in tree["films"].items()}


def evaluate_returns(sampler: KeyframeSampler, config: EvaluationConfig, *, seed: int, world: World) -> dict[int, list[Outcome]]:
    """Outcomes by length, one per story, in order, the same stories for every memory."""
    found = {}
    for length in config.lengths:
        returns = sample_returns(config.num_stories, length, seed=seed, gap_law=config.gap_law)
        share = world.share(len(returns))
        mine, _ = draw_returns(sampler, returns[share.start : share.stop], batch_size=config.batch_size) if len(share) else ([], None)
        gathered = world.gather_objects(list(zip(share, mine, strict=True)))
        found[length] = [outcome for _, outcome in sorted(gathered, key=lambda pair: pair[0])]
    return found


def evaluate_films(sampler: KeyframeSampler, config: EvaluationConfig, *, seed: int, world: World) -> list[FilmOutcome]:
    """Films drawn shot by shot over their own keyframes: the first drawn appearance of a character is the reference."""
    share = world.share(config.film_stories)
    mine: list[FilmOutcome] = []
    if len(share):
        stories = [sample_story(config.film_shots, generator=generator(seed, "film", index)) for index in share]
        boards = [
            storyboard_of(story, title="film", seed=derive_seed(seed, "film noise", index), described=True)
            for story, index in zip(stories, share, strict=True)
        ]
        for story, keyframes in zip(stories, sampler.draw_many(boards), strict=True):
            pictures = [story.picture(shot) for shot in story.shots]
            readings = read_frames(torch.stack([keyframe.frame for keyframe in keyframes]), pictures)
            first: dict[str, int] = {}
            last: dict[str, int] = {}
            for index, shot in enumerate(story.shots):
                if shot.name in first:
                    reference = readings[first[shot.name]].identity
                    own = readings[index].identity
                    same = {part: getattr(own, part) == getattr(reference, part) for part in IDENTITY_PARTS}
                    told = {part: getattr(own, part) == getattr(story.characters[shot.name], part) for part in IDENTITY_PARTS}
                    mine.append(FilmOutcome(same, told, index - last[shot.name]))
                first.setdefault(shot.name, index)
                last[shot.name] = index
    return list(world.gather_objects(mine))


def evaluate_actions(clips: DiffusionClips, config: EvaluationConfig, *, seed: int) -> dict[str, float]:
    """Share of clips in which the judge reads the action asked for, by action and over all, from true keyframes.

    `shuffled` is the share over the same clips with their frames in a random order: what it says is chance.
    """
    data = TinyClips(config.num_clips, seed=derive_seed(seed, "clips"))
    right: dict[str, list[bool]] = {action: [] for action in ACTIONS}
    shuffled = []
    for begin in range(0, config.num_clips, config.batch_size):
        indices = range(begin, min(begin + config.batch_size, config.num_clips))
        examples = data.examples(indices)
        captions = torch.stack([caption_indices([shot.caption for shot in example.story.shots]) for example in examples])
        drawn = clips.animate(
            torch.stack([example.keyframes for example in examples]),
            captions,
            [example.index for example in examples],
            seeds=[derive_seed(seed, "clip noise", index) for index in indices],
        )
        for index, example, clip in zip(indices, examples, drawn, strict=True):
            shot = example.story.shots[example.index]
            picture = example.story.picture(shot)
            right[shot.action].append(read_action(clip, picture) == shot.action)
            order = 1 + torch.randperm(len(clip) - 1, generator=generator(seed, "shuffle", index))
            mixed = torch.cat((clip[:1], clip[order]))
            shuffled.append(read_action(mixed, picture) == shot.action)
    found = {action: fmean(rows) for action, rows in right.items() if rows}
    return {**found, "all": fmean(holds for rows in right.values() for holds in rows), "shuffled": fmean(shuffled)}


def summarise(outcomes: Mapping[int, Sequence[Outcome]], *, confidence: float, seed: int) -> dict[str, Any]:
    """Shares, intervals, cost and ceilings of one memory: over all lengths, by length and by gap."""
    rows = [row for length in outcomes for row in outcomes[length]]
    found: dict[str, Any] = {**_shares(rows), "tokens_per_shot": fmean(row.tokens for row in rows)}
    found["seconds_per_shot"] = fmean(row.seconds for row in rows)
    for name in ("identity", "set"):
        values = torch.tensor([float(getattr(row, name)) for row in rows], dtype=torch.float64)
        interval = bootstrap_interval(values, generator=generator(seed, "bootstrap", name), confidence=confidence)
        found[f"{name}_interval"] = list(interval[1:])
    found["by_length"] = {
        str(length): {
            **_shares(own),
            "tokens_per_shot": fmean(row.tokens for row in own),
            "seconds_per_shot": fmean(row.seconds for row in own),
        }
        for length, own in outcomes.items()
    }
    found["by_gap"] = {}
    for low, high in GAPS:
        near = [row for row in rows if low <= row.character_gap <= high]
        there = [row for row in rows if low <= row.place_gap <= high]
        label = str(low) if low == high else f"{low}-{high}" if high < GAPS[-1][1] else f"{low}+"
        found["by_gap"][label] = {
            "identity": fmean(row.identity for row in near) if near else None,
            "colour": fmean(row.right["colour"] for row in near) if near else None,
            "identity_ceiling": fmean(row.identity_ceiling for row in near) if near else None,
            "characters": len(near),
            "set": fmean(row.set for row in there) if there else None,
            "set_ceiling": fmean(row.set_ceiling for row in there) if there else None,
            "places": len(there),
        }
    return found


def compare(outcomes: Mapping[str, Mapping[int, Sequence[Outcome]]], *, confidence: float, seed: int) -> list[dict[str, Any]]:
    """Paired differences between the memories of `RIVALS` that were evaluated, over the same stories.

    Returns:
        Rows of `memory`, `against`, and for `identity` and `set` the mean gain and its interval.
    """
    found: list[dict[str, Any]] = []
    for name, rival in RIVALS:
        if name not in outcomes or rival not in outcomes:
            continue
        row: dict[str, Any] = {"memory": name, "against": rival}
        for part in ("identity", "set"):
            after, before = (
                torch.tensor([float(getattr(row, part)) for rows in outcomes[memory].values() for row in rows], dtype=torch.float64)
                for memory in (name, rival)
            )
            gain = paired_difference(before, after, generator=generator(seed, "paired", part), confidence=confidence)
            row |= {part: gain.mean, f"{part}_interval": [gain.low, gain.high]}
        found.append(row)
    return found


def summarise_films(rows: Sequence[FilmOutcome]) -> dict[str, float]:
    """Self-consistency of films: shares of returning characters that look as at first, in every part and in all."""
    if not rows:
        return {}
    found = {f"same_{part}": fmean(row.same[part] for row in rows) for part in IDENTITY_PARTS}
    found["same_identity"] = fmean(all(row.same.values()) for row in rows)
    found["as_described"] = fmean(all(row.described.values()) for row in rows)
    return found


def _shares(rows: Sequence[Outcome]) -> dict[str, float]:
    others = ("identity_ceiling", "set_ceiling", "colour_ceiling", "covered", "residual")
    return shares_right(rows) | {name: fmean(getattr(row, name) for row in rows) for name in others}
