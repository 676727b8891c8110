"""`python -m captain_cinema.commands.generate`: generates a film from a storyline or an edited storyboard."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from captain_cinema.conditioning import MemoryPolicy
from captain_cinema.movie.film import FilmConfig, Studio, make_film, read_script
from captain_cinema.sampling import SamplingConfig
from triptych.commands.build import build
from triptych.commands.entry_point import entry_point
from triptych.run.config import RunConfig
from triptych.run.session import Run


@dataclass
class FilmRun(RunConfig, FilmConfig):
    """Settings of `cinema-generate`, in addition to those of a film.

    Attributes:
        planner: converts a storyline to a storyboard (group `planner`).
        memory: which earlier keyframes a shot attends to (group `memory`).
        sampling: steps and mode of the keyframe sampler.
        model: the keyframe model (group `model`).
        video: the video generator (group `video`).
        verifier: checks the details of a shot (group `verifier`).
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        "drawing": "sampling",
    }

    planner: Any = MISSING
    memory: MemoryPolicy = field(default_factory=MemoryPolicy)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    model: Any = MISSING
    video: Any = MISSING
    verifier: Any = MISSING

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        FilmConfig.__post_init__(self)


@entry_point("cinema", "generate", FilmRun)
def main(config: FilmRun) -> None:
    """Samples the keyframes and the clips and writes film and storyboard page into the run's folder."""
    generate(config)


def generate(config: FilmRun) -> None:
    """Makes one film; rank 0 samples, the other ranks wait."""
    script = read_script(config, build(config.planner), seed=config.seed)
    tracker = None if config.tracker is None else build(config.tracker)
    with Run.open(config, tracker=tracker) as run:
        studio = Studio(
            model=build(config.model, device=run.device),
            memory=config.memory,
            sampling=config.sampling,
            video=build(config.video, device=run.device),
            verifier=build(config.verifier),
        )
        make_film(run, config, script, studio)


if __name__ == "__main__":
    main()
