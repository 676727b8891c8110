"""`python -m captain_cinema.generate`: a storyline or an edited storyboard becomes a film."""

from dataclasses import dataclass, field
from typing import Any

from hydra.utils import instantiate
from omegaconf import MISSING

from captain_cinema.conditioning import MemoryPolicy
from captain_cinema.filming import FilmConfig, make_film, read_script
from captain_cinema.keyframes import DrawingConfig
from triptych.cli import entry_point
from triptych.run import Run, RunConfig


@dataclass
class FilmRun(RunConfig, FilmConfig):
    """Settings of `cinema-generate`: those of a film, and

    Attributes:
        memory: which earlier keyframes a shot looks at (group `memory`).
        drawing: how keyframes are drawn.
        model: the keyframe model (group `model`).
        video: what draws the clips (group `video`).
    """

    memory: MemoryPolicy = field(default_factory=MemoryPolicy)
    drawing: DrawingConfig = field(default_factory=DrawingConfig)
    model: Any = MISSING
    video: Any = MISSING

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        FilmConfig.__post_init__(self)


@entry_point("generate_cinema", FilmRun)
def main(config: FilmRun) -> None:
    """Draws the keyframes and the clips and writes film and storyboard page into the run's folder."""
    generate(config)


def generate(config: FilmRun) -> None:
    """Makes one film; one process draws, others wait."""
    script = read_script(config, seed=config.seed)
    tracker = None if config.tracker is None else instantiate(config.tracker)
    with Run.open(config, tracker=tracker) as run:
        model, video = instantiate(config.model, device=run.device), instantiate(config.video)
        make_film(run, config, script, model=model, video=video, memory=config.memory, drawing=config.drawing)


if __name__ == "__main__":
    main()
