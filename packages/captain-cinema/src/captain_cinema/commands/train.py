"""`python -m captain_cinema.commands.train`: trains the models of tiny cinema, probes the memory and generates a film."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from omegaconf import MISSING

from captain_cinema.commands.generate import FilmRun, generate
from captain_cinema.conditioning import MemoryPolicy
from captain_cinema.evaluation import Probe
from captain_cinema.models.folder import PARTS
from captain_cinema.movie.film import FilmConfig, read_script
from captain_cinema.numerics.curriculum import Stage as CurriculumStage
from captain_cinema.numerics.curriculum import stage_at
from captain_cinema.sampling import SamplingConfig
from captain_cinema.training.keyframe_stage import KeyframeLossConfig, KeyframeStage
from captain_cinema.training.video_stage import VideoLossConfig, VideoStage
from captain_cinema.video.diffusion import ClipConditioning
from triptych.checkpoint.model_folder import ModelFolder
from triptych.commands.build import build
from triptych.commands.entry_point import entry_point
from triptych.errors import UserError
from triptych.optim import OptimizerConfig, learning_rate_at
from triptych.report import Chart
from triptych.run.config import RunConfig
from triptych.run.session import Run
from triptych.training.loop import LoopConfig, TrainerConfig
from triptych.training.stages import StageFindings, StagePlan, model_sizes, train_stage, training_processes

STAGES = PARTS.stages
COLUMNS = ("loss", "error", "timing/examples_per_second")
CHARTS = (Chart("Loss", {"loss": "loss", "error": "squared error"}),)


@dataclass
class KeyframeSettings:
    """The keyframe model's stage.

    Attributes:
        model: as a Hydra node; its arguments are the sizes that a model folder keeps.
        loss: regimes, memories and noise.
        curriculum: lengths of sequences; the learning rate decays over all of them and warms up again in each.
        optimizer: AdamW and its learning-rate curve.
        trainer: the loop.
    """

    model: Any = MISSING
    loss: KeyframeLossConfig = field(default_factory=KeyframeLossConfig)
    curriculum: list[CurriculumStage] = field(default_factory=list)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if not self.curriculum:
            raise UserError("keyframes.curriculum has no stage: give at least one")

    @property
    def num_steps(self) -> int:
        """Optimizer steps of all stages of the curriculum."""
        return sum(part.num_steps for part in self.curriculum)


@dataclass
class VideoSettings:
    """The video model's stage.

    Attributes:
        data: shots in motion, as a Hydra node.
        model: as a Hydra node; its arguments are the sizes that a model folder keeps.
        conditioning: keyframes of other shots.
        from_keyframes: start from the keyframe model in the same folder, of the same sizes; otherwise from scratch.
        loss: noise.
        optimizer: AdamW and its learning-rate curve.
        trainer: the loop.
    """

    data: Any = MISSING
    model: Any = MISSING
    from_keyframes: bool = True
    conditioning: ClipConditioning = field(default_factory=ClipConditioning)
    loss: VideoLossConfig = field(default_factory=VideoLossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass
class FilmSettings(FilmConfig):
    """Settings of the film that is generated after training.

    Attributes:
        planner: converts the storyline to a storyboard (group `planner`).
        model: loads the trained keyframe model; its path is set by the training.
        video: loads the trained video model; its path and conditioning are set by the training.
        camera: the video generator if no video model was trained (group `video`).
        verifier: checks the details of a shot (group `verifier`).
    """

    planner: Any = MISSING
    model: Any = MISSING
    video: Any = MISSING
    camera: Any = MISSING
    verifier: Any = MISSING


@dataclass
class TrainConfig(RunConfig):
    """Settings of `cinema-train`.

    Attributes:
        stages: which models to train.
        data: stories, as a Hydra node.
        memories: memories by name (group `memory`).
        strategy: placement and optimizer step of a model (group `strategy`).
        sampling: steps and mode of the keyframe sampler, for the probe and the film.
        keyframes: the keyframe model's stage.
        video: the video model's stage.
        probe: probe of the memory, as a Hydra node.
        film: the film after training; a null storyline skips it.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        "drawing": "sampling",
        "keyframes.loss.slot_gap": "keyframes.loss.position_gap",
        "keyframes.loss.share_at_one": "keyframes.loss.fraction_at_one",
        "video.loss.share_at_one": "video.loss.fraction_at_one",
        "data.gap_law": "data.gap_distribution",
    }

    stages: list[str] = field(default_factory=lambda: list(STAGES))
    data: Any = MISSING
    memories: dict[str, MemoryPolicy] = field(default_factory=dict)
    strategy: Any = MISSING
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    keyframes: KeyframeSettings = MISSING
    video: VideoSettings = field(default_factory=VideoSettings)
    probe: Any = MISSING
    film: FilmSettings = field(default_factory=FilmSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [stage for stage in self.stages if stage not in STAGES]
        if unknown or not self.stages:
            raise UserError(f"stages is {self.stages}: choose among {', '.join(STAGES)}")
        used_by = {
            "probe.memories": self.probe["memories"],
            "keyframes.loss.policies": self.keyframes.loss.policies,
            "the film": ["golden"],
        }
        for name, used in used_by.items():
            unknown = [memory for memory in used if memory not in self.memories]
            if unknown:
                raise UserError(f"{name} has '{unknown[0]}', which is not a memory: choose among {', '.join(self.memories)}")


@dataclass
class _StageRun(RunConfig):
    """Settings that identify the run of one stage.

    Attributes:
        data: the data node.
        memories: memories by name.
        sampling: sampling settings of the probe.
        probe: the probe.
        settings: the stage's settings as a plain tree.
    """

    data: Any = None
    memories: Any = None
    sampling: Any = None
    probe: Any = None
    settings: Any = None


def check_parts(config: TrainConfig) -> None:
    """Checks probe, script and model sizes before the first stage.

    Raises:
        UserError: if one is invalid.
    """
    build(config.probe)
    with torch.device("meta"):
        keyframes, video = build(config.keyframes.model), build(config.video.model)
    if "keyframes" in config.stages and "video" in config.stages and config.video.from_keyframes:
        try:
            video.check_start(keyframes)
        except UserError as error:
            raise UserError(f"video.model starts from keyframes.model: {error}, or set video.from_keyframes=false") from error
    if config.film.storyline is not None:
        read_script(config.film, build(config.film.planner), seed=config.seed)


@entry_point("cinema", "train", TrainConfig, check=check_parts)
def main(config: TrainConfig) -> None:
    """Trains the requested stages, probes the memory and generates a film; finished stages are skipped."""
    builders = {"keyframes": _keyframes, "video": _video}
    tracker = None if config.tracker is None else build(config.tracker)
    with training_processes(config):
        for name in config.stages:
            with Run.open(_stage_run(config, name), tracker=tracker) as run:
                train_stage(
                    run,
                    name,
                    partial(builders[name], config),
                    _folder(config),
                    lambda world, norm: build(config.strategy, world, max_grad_norm=norm),
                    max_steps=config.keyframes.num_steps if name == "keyframes" else config.video.trainer.max_steps,
                )
        _film(config)


def _stage_run(config: TrainConfig, name: str) -> _StageRun:
    settings = asdict(getattr(config, name))
    if name == "video":
        return config.nested(_StageRun, name, settings=settings)
    memories = {key: asdict(policy) for key, policy in config.memories.items()}
    sampling = asdict(config.sampling)
    return config.nested(_StageRun, name, data=config.data, memories=memories, sampling=sampling, probe=config.probe, settings=settings)


def _film(config: TrainConfig) -> None:
    """Generates the film after training if the folder has a keyframe model."""
    folder = _folder(config)
    if config.film.storyline is None or not folder.has("keyframes"):
        return
    video = config.film.camera
    if folder.has("video"):
        video = _trained(config.film.video, config)
        if "conditioning" in video:
            video["conditioning"] = video["conditioning"] | asdict(config.video.conditioning)
    film = config.nested(
        FilmRun,
        "film",
        overwrite=True,
        **{item.name: getattr(config.film, item.name) for item in fields(FilmConfig)},
        planner=config.film.planner,
        memory=config.memories["golden"],
        sampling=config.sampling,
        model=_trained(config.film.model, config),
        video=video,
        verifier=config.film.verifier,
    )
    generate(film)


def _keyframes(config: TrainConfig) -> StagePlan:
    settings = config.keyframes
    model = build(settings.model)

    def learning_rate(step: int) -> float:
        # One decay over all stages of the curriculum; each stage is a new task, so the rate warms up again.
        index, within = stage_at(step, settings.curriculum)
        warm = min(1.0, (within + 1) / max(1, settings.optimizer.warmup_steps)) if index else 1.0
        return warm * settings.curriculum[index].learning_rate_scale * learning_rate_at(step, settings.num_steps, settings.optimizer)

    def finish() -> StageFindings:
        probe: Probe = build(config.probe)
        found = probe(model, config.memories, config.sampling)
        return StageFindings(found.summary, {key: f"{value:.2f}" for key, value in found.headline.items()})

    return StagePlan(
        KeyframeStage(model, build(config.data), config.memories, settings.curriculum, settings.loss, seed=config.seed),
        {"keyframes": (model, model_sizes(settings.model))},
        TrainerConfig(settings.trainer.batch_size, settings.trainer.log_every, settings.num_steps),
        settings.optimizer,
        columns=COLUMNS,
        charts=CHARTS,
        learning_rate=learning_rate,
        finish=finish,
    )


def _video(config: TrainConfig) -> StagePlan:
    settings = config.video
    model = build(settings.model)
    if settings.from_keyframes:
        folder = _folder(config)
        if not folder.has("keyframes"):
            raise UserError(
                f"{folder.path} holds no keyframe model for the video model to start from: "
                "give stages=[keyframes,video], or video.from_keyframes=false"
            )
        model.start_from(build(_trained(config.film.model, config)))
    return StagePlan(
        VideoStage(model, build(settings.data), settings.conditioning, settings.loss, seed=config.seed),
        {"video": (model, model_sizes(settings.model))},
        settings.trainer,
        settings.optimizer,
        columns=COLUMNS,
        charts=CHARTS,
    )


def _trained(node: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """The node of a model with the path of the trained one; a node without a path (`camera`) is returned unchanged."""
    return node | {"path": str(_folder(config).path)} if "path" in node else dict(node)


def _folder(config: TrainConfig) -> ModelFolder:
    """The model folder that all stages write into."""
    return PARTS.folder(Path(config.output_root) / config.name / "model")


if __name__ == "__main__":
    main()
