"""How many particles live after each scale, what happens where the number changes, and what that costs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from triptych.errors import UserError
from tts_var.numerics.clustering import PROJECTIONS
from tts_var.numerics.potentials import POTENTIALS
from tts_var.numerics.resampling import SCHEMES

EVENT_KINDS = ("cluster", "resample")


@dataclass
class Event:
    """A decision after one scale.

    Attributes:
        scale: after which scale, 0-based.
        kind: `cluster` or `resample`.
        keep: particles that live on, per final picture; None, which only the last event of a scale may have, for the
            number of the batch schedule at this scale.
    """

    scale: int
    kind: str
    keep: int | None = None


@dataclass
class SearchConfig:
    """The settings of a search.

    The loop generates scale i with the particles alive after scale i - 1, then runs the events of scale i in their
    order; `batch_schedule[i]` particles live on. Numbers are per final picture: with `num_images` N everything
    is multiplied by N, and the best of the N final pictures by the last reward is the result.

    Source: TTS-VAR (arXiv 2507.18537), sections 3.1 to 3.3; the paper's schedule for 13 scales is
    8 8 6 6 6 4 2 2 2 1 1 1 1 with clustering at scales 2 and 5 and resampling at 6 and 9.

    Attributes:
        batch_schedule: particles alive after each scale; one number stands for all scales.
        events: decisions, in order.
        num_scales: number of scales that `batch_schedule` and `events` are written for; a model with another number has them
            by place, see `rescaled`. None: they are written for the model at hand.
        num_images: final pictures per prompt among which the best is chosen (N).
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
        if not 0 <= self.strength < math.inf:
            raise UserError(f"search.strength is {self.strength}: it must be 0 (uniform weights) or more, and finite")
        for event in self.events:
            if event.kind not in EVENT_KINDS:
                raise UserError(f"an event at scale {event.scale} is of kind '{event.kind}': choose one of {', '.join(EVENT_KINDS)}")
            if event.keep is not None and event.keep < 1:
                raise UserError(f"an event at scale {event.scale} keeps {event.keep} particles: it must keep 1 or more")


@dataclass(frozen=True)
class Step:
    """One scale of a plan.

    Attributes:
        particles: how many generate this scale, per prompt.
        events: what happens after it: kind, and how many live on.
    """

    particles: int
    events: tuple[tuple[str, int], ...]


def rescaled(config: SearchConfig, num_scales: int) -> SearchConfig:
    """The search for a model of another number of scales: every decision at the place that it has among the scales.

    Scale s of S goes to the scale nearest to s (n - 1) / (S - 1) of n, halves upwards, and behind it where an earlier decision
    already stands. Between decisions the number of particles stays what it was.

    Raises:
        UserError: if the schedule cannot be honoured as it is written, see `plan`, or there are fewer scales than decisions.

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
    plan(replace(config, num_scales=None), written)  # refused in the words of whoever wrote it
    schedule = config.batch_schedule * written if len(config.batch_schedule) == 1 else config.batch_schedule
    place: dict[int, int] = {}  # of each scale with a decision
    for scale in sorted({event.scale for event in config.events}):
        nearest = math.floor(scale * (num_scales - 1) / max(1, written - 1) + 0.5)
        place[scale] = max(nearest, max(place.values(), default=-1) + 1)
    if place and max(place.values()) >= num_scales:
        raise UserError(f"the search decides at {len(place)} scales, written for {written}: {num_scales} scales cannot hold them in order")
    alive, found = schedule[0], []
    after = {place[scale]: schedule[scale] for scale in place}
    for scale in range(num_scales):
        alive = after.get(scale, alive)
        found.append(alive)
    return replace(
        config, batch_schedule=found, events=[replace(event, scale=place[event.scale]) for event in config.events], num_scales=None
    )


def plan(config: SearchConfig, num_scales: int) -> tuple[Step, ...]:
    """What the search does at each scale, numbers per prompt.

    Raises:
        UserError: if the schedule cannot be honoured: not one number per scale, an event outside the scales, a
            change of the number without an event, a clustering that grows it, or events that do not end at it.

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
                raise UserError(f"scale {scale} has several events: each but the last must say how many it keeps")
            keep = target if event.keep is None else event.keep
            if keep > alive and event.kind == "cluster":
                raise UserError(f"clustering at scale {scale} would grow {alive} particles to {keep}: only resampling can")
            if keep > alive and config.scheme in ("without_replacement", "top"):
                raise UserError(f"resampling at scale {scale} would grow {alive} particles to {keep}: scheme {config.scheme} cannot")
            done.append((event.kind, keep * config.num_images))
            alive = keep
        if alive != target:
            change = f"changes the number of particles at scale {scale} from {alive} to {target}"
            raise UserError(f"search.batch_schedule {change} without an event that does it: add a cluster or resample event there")
        steps.append(Step(began * config.num_images, tuple(done)))
    return tuple(steps)


def memory_limit(gibibytes: float) -> int:
    """A limit in GiB as bytes.

    Raises:
        UserError: if it is no number above 0.
    """
    if not 0 < gibibytes < math.inf:
        raise UserError(f"memory_gib is {gibibytes}: it must be a number above 0")
    return int(gibibytes * 2**30)


def estimate_memory(steps: Sequence[Step], cache_bytes: Sequence[int]) -> int:
    """Largest total of cache bytes of one prompt over the scales.

    While a cache grows, and while particles are chosen, old and new exist together.
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
