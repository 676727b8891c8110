"""Batch schedule and events of a search, their plan for a model's scales, and the memory they need."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from triptych.errors import UserError
from tts_var.numerics.clustering import PROJECTIONS
from tts_var.numerics.potentials import POTENTIALS
from tts_var.numerics.resampling import SCHEMES

EVENT_KINDS = ("cluster", "resample")

MAX_STRENGTH = 1e6
"""Largest lambda: rewards that differ by a rounding error then have weights 0 and 1, which is what `scheme=top` does by intent."""


@dataclass
class Event:
    """A clustering or resampling step after one scale.

    Attributes:
        scale: index of the scale after which it runs, from 0.
        kind: `cluster` or `resample`.
        keep: surviving particles per final image; None, allowed only for the last event of a scale, for the number in
            the batch schedule at this scale.
    """

    scale: int
    kind: str
    keep: int | None = None


@dataclass
class SearchConfig:
    """The settings of a search.

    The loop generates scale i with the particles alive after scale i - 1, then runs the events of scale i in
    order, after which `batch_schedule[i]` particles are alive. Numbers are per final image: with `num_images` N everything
    is multiplied by N, and the best of the N final images by the last reward is the result.

    Source: TTS-VAR (arXiv 2507.18537), sections 3.1 to 3.3; the paper's schedule for 13 scales is
    8 8 6 6 6 4 2 2 2 1 1 1 1 with clustering at scales 2 and 5 and resampling at 6 and 9.

    Attributes:
        batch_schedule: particles alive after each scale; one number stands for all scales.
        events: clustering and resampling events, in order.
        num_scales: number of scales for which `batch_schedule` and `events` are written; for a model with another number
            they are mapped by relative position, see `rescaled`. None: they are written for the model in use.
        num_images: number of final images per prompt, of which the best is returned (N).
        potential: one of `POTENTIALS`.
        strength: lambda, the factor of the potential in the log-weights.
        scheme: one of `SCHEMES`.
        projection: one of `PROJECTIONS`.

    Raises:
        UserError: if a name is unknown or a number out of range.
    """

    batch_schedule: list[int] = field(default_factory=lambda: [1])
    events: list[Event] = field(default_factory=list)
    num_scales: int | None = None
    num_images: int = 1
    potential: str = "value"
    strength: float = 10.0
    scheme: str = "multinomial"
    projection: str = "pca"

    def __post_init__(self) -> None:
        for name, value, options in (
            ("potential", self.potential, POTENTIALS),
            ("scheme", self.scheme, SCHEMES),
            ("projection", self.projection, PROJECTIONS),
        ):
            if value not in options:
                raise UserError(f"search.{name} is '{value}': choose one of {', '.join(options)}")
        if self.num_scales is not None and len(self.batch_schedule) not in (1, self.num_scales):
            raise UserError(
                f"search.batch_schedule has {len(self.batch_schedule)} numbers but search.num_scales is {self.num_scales}: give one per "
                "scale, or search.num_scales=null for a schedule of the model's own scales"
            )
        if self.num_scales is not None and self.num_scales < 1:
            raise UserError(f"search.num_scales is {self.num_scales}: it must be 1 or more, or null")
        if self.num_images < 1:
            raise UserError(f"search.num_images is {self.num_images}: it must be 1 or more")
        if not self.batch_schedule or min(self.batch_schedule) < 1:
            raise UserError(f"search.batch_schedule is {self.batch_schedule}: every scale needs at least one particle")
        if not 0 <= self.strength <= MAX_STRENGTH:
            raise UserError(
                f"search.strength is {self.strength:g}: it must be between 0 (uniform weights) and {MAX_STRENGTH:g}; for the best "
                "particles use search.scheme=top"
            )
        for event in self.events:
            if not isinstance(event, Event):
                raise UserError(f"search.events has {event!r}: give Event(scale=..., kind=...)")
            if event.kind not in EVENT_KINDS:
                raise UserError(
                    f"search.events has an event of kind '{event.kind}' at scale {event.scale}: choose one of {', '.join(EVENT_KINDS)}"
                )
            if event.keep is not None and event.keep < 1:
                raise UserError(f"search.events has an event at scale {event.scale} that keeps {event.keep} particles: keep 1 or more")


@dataclass(frozen=True)
class Step:
    """One scale of a plan.

    Attributes:
        particles: number of particles per prompt that generate this scale.
        events: kind and number of survivors of each event after this scale.
    """

    particles: int
    events: tuple[tuple[str, int], ...]


def rescaled(config: SearchConfig, num_scales: int) -> SearchConfig:
    """The search mapped to another number of scales, with every event at its relative position.

    Scale s of S is mapped to the scale nearest to s (n - 1) / (S - 1) of n, rounding half up, or to the next free scale if that
    one already has events. Between events the number of particles is constant.

    Raises:
        UserError: if the schedule is invalid as written, see `plan`, or there are fewer scales than scales with events.

    Example:
        >>> paper = [8, 8, 6, 6, 6, 4, 2, 2, 2, 1, 1, 1, 1]
        >>> events = [Event(2, "cluster"), Event(5, "cluster"), Event(6, "resample"), Event(9, "resample")]
        >>> found = rescaled(SearchConfig(paper, events, num_scales=13), 7)
        >>> found.batch_schedule, [event.scale for event in found.events]
        ([8, 6, 6, 4, 2, 1, 1], [1, 3, 4, 5])
    """
    written = config.num_scales
    if written is None or written == num_scales:
        return replace(config, num_scales=None)
    plan(replace(config, num_scales=None), written)  # errors name the scales as written, before the mapping
    schedule = config.batch_schedule * written if len(config.batch_schedule) == 1 else config.batch_schedule
    target: dict[int, int] = {}  # written scale with events -> mapped scale, kept strictly increasing
    for scale in sorted({event.scale for event in config.events}):
        nearest = math.floor(scale * (num_scales - 1) / max(1, written - 1) + 0.5)
        target[scale] = max(nearest, max(target.values(), default=-1) + 1)
    if target and max(target.values()) >= num_scales:
        raise UserError(
            f"search.events has events at {len(target)} scales, written for {written}, too many for {num_scales} scales in order: use fewer"
        )
    alive, found = schedule[0], []
    after = {target[scale]: schedule[scale] for scale in target}
    for scale in range(num_scales):
        alive = after.get(scale, alive)
        found.append(alive)
    return replace(
        config, batch_schedule=found, events=[replace(event, scale=target[event.scale]) for event in config.events], num_scales=None
    )


def plan(config: SearchConfig, num_scales: int) -> tuple[Step, ...]:
    """The steps of the search at each scale, with numbers of particles per prompt.

    Raises:
        UserError: if the schedule is invalid: not one number per scale, an event outside the scales, a change of the number
            without an event, a clustering that increases it, or events that end at another number.

    Example:
        >>> config = SearchConfig([2, 1], [Event(1, "resample")])
        >>> plan(config, 2)
        (Step(particles=2, events=()), Step(particles=2, events=(('resample', 1),)))
    """
    config = rescaled(config, num_scales)
    schedule = config.batch_schedule * num_scales if len(config.batch_schedule) == 1 else config.batch_schedule
    if len(schedule) != num_scales:
        raise UserError(
            f"search.batch_schedule has {len(schedule)} numbers but the model has {num_scales} scales: give one per scale, or one for all"
        )
    outside = [event.scale for event in config.events if not 0 <= event.scale < num_scales]
    if outside:
        raise UserError(f"search.events has an event at scale {outside[0]}: the scales are 0 to {num_scales - 1}")
    alive, steps = schedule[0], []
    for scale in range(num_scales):
        began, target = alive, schedule[scale]
        here = [event for event in config.events if event.scale == scale]
        done: list[tuple[str, int]] = []
        for position, event in enumerate(here):
            if event.keep is None and position < len(here) - 1:
                raise UserError(f"search.events has several events at scale {scale}: set keep for each but the last")
            keep = target if event.keep is None else event.keep
            if keep > alive and event.kind == "cluster":
                raise UserError(f"clustering at scale {scale} would grow {alive} particles to {keep}: use a resample event there")
            if keep > alive and config.scheme in ("without_replacement", "top"):
                raise UserError(
                    f"resampling at scale {scale} would grow {alive} particles to {keep} but scheme {config.scheme} cannot: "
                    "use multinomial or systematic"
                )
            done.append((event.kind, keep * config.num_images))
            alive = keep
        if alive != target:
            change = f"changes the number of particles at scale {scale} from {alive} to {target}"
            raise UserError(f"search.batch_schedule {change} without an event: add a cluster or resample event there")
        steps.append(Step(began * config.num_images, tuple(done)))
    return tuple(steps)


def keeps_everyone(config: SearchConfig, step: Step, number: int) -> bool:
    """Whether event `number` of a step changes nothing: as many distinct particles survive as there are.

    Resampling with replacement copies particles even then, and a reward enters the history of every potential but `value`.
    """
    kind, keep = step.events[number]
    before = step.events[number - 1][1] if number else step.particles
    distinct = kind == "cluster" or (config.scheme in ("without_replacement", "top") and config.potential == "value")
    return distinct and keep == before


def memory_limit(gibibytes: float) -> int:
    """A limit in GiB as bytes.

    Raises:
        UserError: if it is not a finite number above 0.
    """
    if not 0 < gibibytes < math.inf:
        raise UserError(f"memory_gib is {gibibytes}: it must be a finite number above 0")
    return int(gibibytes * 2**30)


def estimate_memory(steps: Sequence[Step], cache_bytes: Sequence[int]) -> int:
    """Largest total of cache bytes of one prompt over the scales.

    Old and new caches coexist while a cache is extended and while particles are selected.
    """
    largest = 0
    for scale, step in enumerate(steps):
        before = cache_bytes[scale - 1] if scale else 0
        alive = step.particles
        largest = max(largest, alive * (cache_bytes[scale] + before))
        for _, keep in step.events:
            largest = max(largest, (alive + keep) * cache_bytes[scale])
            alive = keep
    return largest
