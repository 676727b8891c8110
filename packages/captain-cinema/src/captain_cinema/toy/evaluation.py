"""Evaluation of memory policies: identity and scene consistency, self-consistency of films, actions in clips, token cost."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from itertools import islice
from statistics import fmean
from typing import Any, ClassVar

import torch

from captain_cinema.evaluation import Conclusion
from captain_cinema.images import from_bytes
from captain_cinema.sampling import KeyframeSampler
from captain_cinema.toy.clips import TinyClips
from captain_cinema.toy.probe import IDENTITY_PARTS, Outcome, fractions_right, measure_reappearances, sample_reappearances
from captain_cinema.toy.rendering import ACTIONS, CLIP_FRAMES, IMAGE_SIZE
from captain_cinema.toy.stories import sample_story, storyboard_of
from captain_cinema.toy.verifier import read_action, read_frames
from captain_cinema.video import VideoGenerator
from triptych.distributed import World
from triptych.errors import UserError
from triptych.evaluation.statistics import bootstrap_interval, paired_difference
from triptych.report import Figure, ReportConfig, Samples
from triptych.seeding import derive_seed, generator

GAPS = ((1, 1), (2, 3), (4, 7), (8, 15), (16, 1000))

# Baselines of a memory: token-matched uniform compression, the other order, and whole frames.
BASELINES = (
    ("golden", "uniform_retrieved"),
    ("golden", "golden_time"),
    ("golden", "best"),
    ("golden", "full"),
    ("golden_time", "uniform"),
)


@dataclass
class EvaluationConfig:
    """Settings of the evaluation.

    Attributes:
        num_stories: stories per length and memory.
        lengths: shots of the past.
        gap_distribution: `uniform` or `recent`: distribution of the gap since a character was last shown.
        film_stories: films sampled from captions alone, for self-consistency; 0 for none.
        film_shots: shots of each.
        num_clips: clips whose action is evaluated; 0 for none.
        confidence: level of the bootstrap intervals.
        batch_size: stories in one batch.
    """

    num_stories: int = 60
    lengths: list[int] = field(default_factory=lambda: [8, 16, 32, 48])
    gap_distribution: str = "uniform"
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
    """One shot of a film sampled from captions, in which a character reappears.

    Attributes:
        same: for every part of the identity, whether it equals that of the first sampled appearance.
        described: for every part, whether it matches the caption of the first appearance.
        gap: shots since the character was last shown.
    """

    same: dict[str, bool]
    described: dict[str, bool]
    gap: int


def evaluate_reappearances(sampler: KeyframeSampler, config: EvaluationConfig, *, seed: int, world: World) -> dict[int, list[Outcome]]:
    """Outcomes by length, one per story, in order, the same stories for every memory."""
    found = {}
    for length in config.lengths:
        returns = sample_reappearances(config.num_stories, length, seed=seed, gap_distribution=config.gap_distribution)
        shard = world.shard(len(returns))
        outcomes, _ = (
            measure_reappearances(sampler, returns[shard.start : shard.stop], batch_size=config.batch_size) if len(shard) else ([], None)
        )
        gathered = world.gather_objects(list(zip(shard, outcomes, strict=True)))
        found[length] = [outcome for _, outcome in sorted(gathered, key=lambda pair: pair[0])]
    return found


def evaluate_films(sampler: KeyframeSampler, config: EvaluationConfig, *, seed: int, world: World) -> list[FilmOutcome]:
    """Films sampled shot by shot over their own keyframes: the first shot of a character is the reference."""
    shard = world.shard(config.film_stories)
    outcomes: list[FilmOutcome] = []
    if len(shard):
        stories = [sample_story(config.film_shots, generator=generator(seed, "film", index)) for index in shard]
        boards = [
            storyboard_of(story, title="film", seed=derive_seed(seed, "film noise", index), described=True)
            for story, index in zip(stories, shard, strict=True)
        ]
        for story, keyframes in zip(stories, sampler.sample_many(boards), strict=True):
            scenes = [story.scene(shot) for shot in story.shots]
            readings = read_frames(torch.stack([keyframe.frame for keyframe in keyframes]), scenes)
            # Shot indices of the first and the latest appearance of each character.
            first: dict[str, int] = {}
            last: dict[str, int] = {}
            for index, shot in enumerate(story.shots):
                if shot.name in first:
                    reference = readings[first[shot.name]].identity
                    own = readings[index].identity
                    same = {part: getattr(own, part) == getattr(reference, part) for part in IDENTITY_PARTS}
                    described = {part: getattr(own, part) == getattr(story.characters[shot.name], part) for part in IDENTITY_PARTS}
                    outcomes.append(FilmOutcome(same, described, index - last[shot.name]))
                first.setdefault(shot.name, index)
                last[shot.name] = index
    return list(world.gather_objects(outcomes))


def evaluate_actions(video: VideoGenerator, config: EvaluationConfig, *, seed: int) -> dict[str, float]:
    """Fraction of clips in which the verifier recognises the requested action, by action and over all, from true keyframes.

    `shuffled` is the fraction for the same clips with their frames in random order, the chance level.
    """
    rate = Fraction(CLIP_FRAMES)
    right: dict[str, list[bool]] = {action: [] for action in ACTIONS}
    shuffled = []
    for index, example in enumerate(TinyClips(config.num_clips, seed=derive_seed(seed, "clips")).examples(range(config.num_clips))):
        shot, scene = example.story.shots[example.index], example.story.scene(example.story.shots[example.index])
        # One second at the frame rate of the model, so that no frame is repeated or dropped.
        board = replace(example.storyboard, seed=derive_seed(seed, "clip noise", index))
        board = replace(board, shots=tuple(replace(own, seconds=1.0) for own in board.shots))
        clips = video.clips(board, list(example.keyframes), frames_per_second=rate)
        clip = from_bytes(next(islice(clips, example.index, None)).frames, scale=video.scale)
        right[shot.action].append(read_action(clip, scene) == shot.action)
        order = 1 + torch.randperm(len(clip) - 1, generator=generator(seed, "shuffle", index))
        shuffled.append(read_action(torch.cat((clip[:1], clip[order])), scene) == shot.action)
    found = {action: fmean(rows) for action, rows in right.items() if rows}
    return {**found, "all": fmean(holds for rows in right.values() for holds in rows), "shuffled": fmean(shuffled)}


def summarise(outcomes: Mapping[int, Sequence[Outcome]], *, confidence: float, seed: int) -> dict[str, Any]:
    """Fractions, intervals, cost and upper bounds of one memory: over all lengths, by length and by gap."""
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
    # A character and a location have different gaps, so that a span has other rows for identity than for set.
    found["by_gap"] = {}
    for low, high in GAPS:
        near = [row for row in rows if low <= row.character_gap <= high]
        there = [row for row in rows if low <= row.place_gap <= high]
        label = str(low) if low == high else f"{low}-{high}" if high < GAPS[-1][1] else f"{low}+"
        found["by_gap"][label] = {
            "identity": fmean(row.identity for row in near) if near else None,
            "colour": fmean(row.right["colour"] for row in near) if near else None,
            "identity_upper_bound": fmean(row.identity_upper_bound for row in near) if near else None,
            "characters": len(near),
            "set": fmean(row.set for row in there) if there else None,
            "set_upper_bound": fmean(row.set_upper_bound for row in there) if there else None,
            "places": len(there),
        }
    return found


def compare(outcomes: Mapping[str, Mapping[int, Sequence[Outcome]]], *, confidence: float, seed: int) -> list[dict[str, Any]]:
    """Paired differences between the memories of `BASELINES` that were evaluated, over the same stories.

    Returns:
        Rows of `memory`, `against`, and for `identity` and `set` the mean gain and its interval.
    """
    found: list[dict[str, Any]] = []
    for name, baseline in BASELINES:
        if name not in outcomes or baseline not in outcomes:
            continue
        row: dict[str, Any] = {"memory": name, "against": baseline}
        for part in ("identity", "set"):
            after, before = (
                torch.tensor([float(getattr(row, part)) for rows in outcomes[memory].values() for row in rows], dtype=torch.float64)
                for memory in (name, baseline)
            )
            gain = paired_difference(before, after, generator=generator(seed, "paired", part), confidence=confidence)
            row |= {part: gain.mean, f"{part}_interval": [gain.low, gain.high]}
        found.append(row)
    return found


def summarise_films(rows: Sequence[FilmOutcome]) -> dict[str, float]:
    """Self-consistency of films: fractions of reappearing characters that look as in their first shot, in every part and in all."""
    if not rows:
        return {}
    found = {f"same_{part}": fmean(row.same[part] for row in rows) for part in IDENTITY_PARTS}
    found["same_identity"] = fmean(all(row.same.values()) for row in rows)
    found["as_described"] = fmean(all(row.described.values()) for row in rows)
    return found


def _shares(rows: Sequence[Outcome]) -> dict[str, float]:
    others = ("identity_upper_bound", "set_upper_bound", "colour_upper_bound", "covered", "residual")
    return fractions_right(rows) | {name: fmean(getattr(row, name) for row in rows) for name in others}


@dataclass
class TinyCinemaBenchmark(EvaluationConfig):
    """Identity and set of reappearing characters beside their upper bounds, self-consistency of films, and actions of clips."""

    image_size: ClassVar[tuple[int, int]] = (IMAGE_SIZE, IMAGE_SIZE)

    def evaluate(self, sampler: KeyframeSampler, *, seed: int, world: World) -> dict[str, Any]:
        """Outcomes of reappearances by length, and of films; see `MemoryBenchmark`."""
        returns = evaluate_reappearances(sampler, self, seed=seed, world=world)
        films = evaluate_films(sampler, self, seed=seed, world=world)
        return {
            "returns": {str(length): [asdict(row) for row in rows] for length, rows in returns.items()},
            "films": [asdict(row) for row in films],
        }

    def metrics(self, outcomes: Mapping[str, Any], *, seed: int) -> dict[str, float]:
        """Fractions right, upper bounds and tokens over all lengths; see `MemoryBenchmark`."""
        found = summarise(_returns(outcomes), confidence=self.confidence, seed=seed)
        return {key: found[key] for key in ("identity", "identity_upper_bound", "set", "set_upper_bound", "colour", "tokens_per_shot")}

    def evaluate_video(self, video: VideoGenerator, *, seed: int) -> dict[str, float]:
        """Actions recognised in clips of true keyframes; see `MemoryBenchmark`."""
        return evaluate_actions(video, self, seed=seed) if video.animates and self.num_clips else {}

    def conclude(self, outcomes: Mapping[str, Mapping[str, Any]], actions: Mapping[str, float], *, seed: int, name: str) -> Conclusion:
        """Tables and curves by memory, length and gap; see `MemoryBenchmark`."""
        confidence = self.confidence
        returns = {memory: _returns(own) for memory, own in outcomes.items()}
        films = {memory: [FilmOutcome(**row) for row in own["films"]] for memory, own in outcomes.items()}
        memories = {
            memory: summarise(rows, confidence=confidence, seed=seed) | {"film": summarise_films(films[memory])}
            for memory, rows in returns.items()
        }
        compared = compare(returns, confidence=confidence, seed=seed)
        summary = {
            "seed": seed,
            "num_stories": self.num_stories,
            "memories": memories,
            "compared": compared,
            "actions": dict(actions),
        }
        rows = [
            {"memory": memory, "length": length, **asdict(row)}
            for memory, table in returns.items()
            for length, found in table.items()
            for row in found
        ]
        best = max(memories, key=lambda memory: memories[memory]["identity"])
        report = ReportConfig(
            title=f"Memories: {name}",
            headline={"stories per length": str(self.num_stories), "best identity": best},
            notes=[
                "A shot is sampled after a story's true past; a reappearing character is named, not described. The upper bound is an "
                "oracle with the same memory at its size and noise, and with all other facts about the remembered shots.",
                "Uniform downsampling is the token-matched baseline of GoldenMem, and retrieval has a larger effect than compression: "
                "compare golden with uniform_retrieved, and golden_time with uniform. At equal shots GoldenMem saves tokens; it "
                "contains no more information than the full memory.",
            ],
            figures=_figures(memories),
            samples=_tables(memories, compared, actions),
        )
        return Conclusion(summary, rows, report)


def _returns(outcomes: Mapping[str, Any]) -> dict[int, list[Outcome]]:
    return {int(length): [Outcome(**row) for row in rows] for length, rows in outcomes["returns"].items()}


def _tables(memories: Mapping[str, Any], compared: Sequence[Mapping[str, Any]], actions: Mapping[str, float]) -> list[Samples]:
    columns = (
        "memory", "tokens per shot", "seconds per shot", "identity", "its interval", "its upper bound", "set", "its interval",
        "its upper bound",
        "colour", "shape", "hat", "badge", "shows both", "film: as at first",
    )  # fmt: skip
    table = [
        (
            name,
            f"{row['tokens_per_shot']:.0f}",
            f"{row['seconds_per_shot']:.3f}",
            *(
                cell
                for part in ("identity", "set")
                for cell in (
                    f"{row[part]:.2f}",
                    "{:.2f} to {:.2f}".format(*row[f"{part}_interval"]),
                    f"{row[f'{part}_upper_bound']:.2f}",
                )
            ),
            *(f"{row[part]:.2f}" for part in ("colour", "shape", "hat", "badge", "covered")),
            f"{row['film']['same_identity']:.2f}" if row["film"] else "",
        )
        for name, row in memories.items()
    ]
    samples = [Samples("Memories, one set of weights", columns, table)]
    if compared:
        gains = [
            (
                row["memory"],
                row["against"],
                *("{:+.2f} [{:+.2f}, {:+.2f}]".format(row[part], *row[f"{part}_interval"]) for part in ("identity", "set")),
            )
            for row in compared
        ]
        samples.append(Samples("Gains, paired by story", ("memory", "against", "identity", "set"), gains))
    if actions:
        rows = [(key, f"{value:.2f}") for key, value in actions.items()]
        samples.append(Samples("Clips whose action is recognised", ("action", "fraction"), rows))
    return samples


def _figures(memories: Mapping[str, Any]) -> list[Figure]:
    found = [
        Figure(
            f"{part.capitalize()} right",
            "shots of the past",
            {name: [(float(length), own[part]) for length, own in row["by_length"].items()] for name, row in memories.items()},
        )
        for part in ("identity", "set", "colour")
    ]
    found += [
        Figure(
            f"{part.capitalize()} right",
            "shots since last shown (nearest of each span)",
            {
                name: [(float(span.split("-")[0].rstrip("+")), own[part]) for span, own in row["by_gap"].items() if own[part] is not None]
                for name, row in memories.items()
            },
        )
        for part in ("identity", "set")
    ]
    return found
