"""`python -m captain_cinema.train`: the models of tiny cinema, how well memory works, and a first film."""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import MISSING

from captain_cinema.conditioning import MemoryPolicy
from captain_cinema.curriculum import Stage as CurriculumStage
from captain_cinema.curriculum import stage_at
from captain_cinema.filming import FilmConfig, read_script
from captain_cinema.generate import FilmRun, generate
from captain_cinema.keyframe_stage import KeyframeLossConfig, KeyframeStage
from captain_cinema.keyframes import DrawingConfig, KeyframeSampler
from captain_cinema.models.mmdit import MMDiTConfig, SmallMMDiT
from captain_cinema.probe import draw_returns, sample_returns, shares_right
from captain_cinema.small_model import STAGE_OF, load_keyframe_model, model_folder
from captain_cinema.video.mmdit import ClipConditioning
from captain_cinema.video_stage import VideoLossConfig, VideoStage
from triptych.cli import entry_point
from triptych.console import get_logger
from triptych.distributed import World
from triptych.errors import UserError
from triptych.optim import OptimizerConfig, learning_rate_at
from triptych.report.render import Chart, ReportConfig
from triptych.run import Run, RunConfig
from triptych.seeding import derive_seed
from triptych.tracking.jsonl import read_rows
from triptych.training import LoopConfig, Stage, TrainerConfig, fit
from triptych.weights import ModelFolder

_logger = get_logger("train")

STAGES = tuple(STAGE_OF)


@dataclass
class KeyframeSettings:
    """The keyframe model's stage.

    Attributes:
        model: sizes.
        loss: regimes, memories and noise.
        curriculum: lengths of sequences; the learning rate decays over all of them and warms up anew in each.
        optimizer: AdamW and its learning-rate curve.
        trainer: the loop.
    """

    model: MMDiTConfig = field(default_factory=MMDiTConfig)
    loss: KeyframeLossConfig = field(default_factory=KeyframeLossConfig)
    curriculum: list[CurriculumStage] = field(default_factory=list)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if not self.curriculum:
            raise UserError("keyframes.curriculum has no stage: give at least one")
        if self.model.says_action:
            raise UserError("keyframes.model.says_action is true: an action is no part of a keyframe; leave it to the video model")


@dataclass
class VideoSettings:
    """The video model's stage.

    Attributes:
        data: shots in motion, as a Hydra node.
        model: sizes.
        conditioning: keyframes of other shots.
        from_keyframes: whether it starts from the keyframe model in the same folder, of the same sizes, or from nothing.
        loss: noise.
        optimizer: AdamW and its learning-rate curve.
        trainer: the loop.
    """

    data: Any = MISSING
    model: MMDiTConfig = field(default_factory=lambda: MMDiTConfig(says_action=True))
    from_keyframes: bool = True
    conditioning: ClipConditioning = field(default_factory=ClipConditioning)
    loss: VideoLossConfig = field(default_factory=VideoLossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        if not self.model.says_action:
            raise UserError("video.model.says_action is false: without the action the clip cannot be told what to do")


@dataclass
class ProbeConfig:
    """How the memory is probed after training.

    Attributes:
        num_stories: returns that are drawn.
        num_past: shots before each.
        memories: names of the memories that are compared.
        seed: of the stories; training never sees them.
    """

    num_stories: int = 100
    num_past: int = 8
    memories: list[str] = field(default_factory=lambda: ["golden", "none"])
    seed: int = 1

    def __post_init__(self) -> None:
        if self.num_stories < 1 or self.num_past < 2:
            raise UserError(f"probe.num_stories is {self.num_stories} and probe.num_past {self.num_past}: give 1 and 2 or more")


@dataclass
class TrainConfig(RunConfig):
    """Settings of `cinema-train`.

    Attributes:
        stages: which models to train.
        data: stories, as a Hydra node.
        memories: memories by name (group `memory`).
        strategy: how a model is placed and stepped (group `strategy`).
        drawing: how the probe and the film draw keyframes.
        keyframes: the keyframe model's stage.
        video: the video model's stage.
        probe: how the memory is probed.
        film: the film at the end; its storyline is null for none.
    """

    stages: list[str] = field(default_factory=lambda: list(STAGES))
    data: Any = MISSING
    memories: dict[str, MemoryPolicy] = field(default_factory=dict)
    strategy: Any = MISSING
    drawing: DrawingConfig = field(default_factory=DrawingConfig)
    keyframes: KeyframeSettings = MISSING
    video: VideoSettings = field(default_factory=VideoSettings)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    film: FilmConfig = field(default_factory=FilmConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [stage for stage in self.stages if stage not in STAGES]
        if unknown or not self.stages:
            raise UserError(f"stages is {self.stages}: choose among {', '.join(STAGES)}")
        both = "keyframes" in self.stages and "video" in self.stages and self.video.from_keyframes
        if both and replace(self.keyframes.model, says_action=True) != self.video.model:
            raise UserError(
                f"keyframes.model is {self.keyframes.model} and video.model {self.video.model}: the second starts from the first, so give "
                "both the same sizes, or set video.from_keyframes=false"
            )
        used_by = {"probe.memories": self.probe.memories, "keyframes.loss.policies": self.keyframes.loss.policies, "the film": ["golden"]}
        for name, used in used_by.items():
            strangers = [memory for memory in used if memory not in self.memories]
            if strangers:
                raise UserError(f"{name} has '{strangers[0]}', which is no memory: choose among {', '.join(self.memories)}")


@dataclass
class _StageRun(RunConfig):
    """What makes one stage the run that it is.

    Attributes:
        data: the data node.
        memories: memories by name.
        drawing: how the probe draws.
        probe: the probe.
        settings: the stage's settings as a plain tree.
    """

    data: Any = None
    memories: Any = None
    drawing: Any = None
    probe: Any = None
    settings: Any = None


@dataclass
class _Plan:
    """A stage ready to be trained."""

    stage: Stage
    model: SmallMMDiT
    trainer: TrainerConfig
    optimizer: OptimizerConfig
    learning_rate: Callable[[int], float] | None
    finish: Callable[[SmallMMDiT], dict[str, Any]]
    charts: list[Chart]


@entry_point("train_cinema", TrainConfig)
def main(config: TrainConfig) -> None:
    """Trains the stages asked for, probes the memory, and makes a film; finished stages are left alone."""
    builders = {"keyframes": _keyframes, "video": _video}
    if config.film.storyline is not None:
        read_script(config.film, seed=config.seed)  # told before the training, not after it
    # FSDP warns of outputs that are views, for whoever writes into them; nothing writes into these models' outputs.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    # One group of processes for all runs: a second one on the same store would meet the addresses of the first.
    with World.join(config.device, timeout_seconds=config.timeout_seconds):
        for name in config.stages:
            _train(config, name, builders[name])
        _film(config)


def _film(config: TrainConfig) -> None:
    """The film at the end, where there is a keyframe model."""
    folder = _folder(config)
    if config.film.storyline is None or not (folder.path / "keyframes.safetensors").is_file():
        return
    film = FilmRun(
        **{key: getattr(config, key) for key in RunConfig.__dataclass_fields__ if key not in ("name", "overwrite")},
        name=f"{config.name}/film",
        overwrite=True,
        **{key: getattr(config.film, key) for key in FilmConfig.__dataclass_fields__},
        memory=config.memories["golden"],
        drawing=config.drawing,
        model={"_target_": "captain_cinema.small_model.load_keyframe_model", "path": str(folder.path)},
        video=_video_node(config, folder),
    )
    generate(film)


def _video_node(config: TrainConfig, folder: ModelFolder) -> dict[str, Any]:
    """The trained video model where there is one; else the camera moves."""
    if not (folder.path / "video.safetensors").is_file():
        return {"_target_": "captain_cinema.video.interpolation.CameraMoves"}
    conditioning = {"_target_": "captain_cinema.video.mmdit.ClipConditioning", **asdict(config.video.conditioning)}
    return {"_target_": "captain_cinema.small_model.load_clips", "path": str(folder.path), "conditioning": conditioning}


def _train(config: TrainConfig, name: str, build: Callable[[TrainConfig], _Plan]) -> None:
    keyframes = name == "keyframes"
    stage_run = _StageRun(
        **{key: getattr(config, key) for key in RunConfig.__dataclass_fields__ if key != "name"},
        name=f"{config.name}/{name}",
        data=config.data if keyframes else None,
        memories={key: asdict(policy) for key, policy in config.memories.items()} if keyframes else None,
        drawing=asdict(config.drawing) if keyframes else None,
        probe=asdict(config.probe) if keyframes else None,
        settings=asdict(getattr(config, name)),
    )
    tracker = None if config.tracker is None else instantiate(config.tracker)
    with Run.open(stage_run, tracker=tracker) as run:
        _logger.info("stage %s", name)
        # Layers that initialise themselves draw from torch's own stream.
        torch.manual_seed(derive_seed(config.seed, name))
        plan = build(config)
        steps = plan.trainer.max_steps
        if run.is_finished(steps) and (_folder(config).path / f"{name}.safetensors").is_file():
            _logger.info("finished           %s", run.directory)
            return
        strategy = instantiate(config.strategy, run.world, max_grad_norm=plan.optimizer.max_grad_norm)
        columns = ("loss", "error", "timing/examples_per_second")
        sizes = asdict(plan.model.config)
        seconds = fit(
            run,
            plan.stage,
            strategy,
            plan.trainer,
            plan.optimizer,
            columns=columns,
            learning_rate=plan.learning_rate,
            parts={name: (plan.model, sizes)},
        )
        if run.world.is_main:
            _folder(config).save(name, plan.model, sizes)
            last = read_rows(run.directory / "metrics.jsonl")[-1]
            summary = {"stage": name, "seed": config.seed, "steps": steps, "seconds": seconds, "world_size": run.world.size}
            summary |= {key: value for key, value in last.items() if key != "step"}
            found = plan.finish(plan.model.eval())
            headline = {key: f"{value:.2f}" for key, value in found.pop("headline", {}).items()}
            report = run.finish(summary | found, report=ReportConfig(title=f"{config.name}: {name}", headline=headline, charts=plan.charts))
            _logger.info("report             %s", report)
        run.world.barrier()


def _keyframes(config: TrainConfig) -> _Plan:
    settings = config.keyframes
    model = SmallMMDiT(settings.model)
    stage = KeyframeStage(model, instantiate(config.data), config.memories, settings.curriculum, settings.loss, seed=config.seed)
    loop = TrainerConfig(
        max_steps=sum(part.num_steps for part in settings.curriculum),
        batch_size=settings.trainer.batch_size,
        log_every=settings.trainer.log_every,
    )

    def learning_rate(step: int) -> float:
        # One decay over all stages; a boundary changes what is learned, so the rate warms up anew.
        index, within = stage_at(step, settings.curriculum)
        warm = min(1.0, (within + 1) / max(1, settings.optimizer.warmup_steps)) if index else 1.0
        return warm * settings.curriculum[index].learning_rate_scale * learning_rate_at(step, loop.max_steps, settings.optimizer)

    def finish(trained: SmallMMDiT) -> dict[str, Any]:
        return probe_memories(trained, config.memories, config.drawing, config.probe)

    return _Plan(stage, model, loop, settings.optimizer, learning_rate, finish, [Chart("Loss", {"loss": "loss", "error": "squared error"})])


def _video(config: TrainConfig) -> _Plan:
    settings = config.video
    model = SmallMMDiT(settings.model)
    if settings.from_keyframes:
        folder = _folder(config)
        if not (folder.path / "keyframes.safetensors").is_file():
            raise UserError(
                f"{folder.path} holds no keyframe model for the video model to start from: "
                "give stages=[keyframes,video], or video.from_keyframes=false"
            )
        model.start_from(load_keyframe_model(str(folder.path)))
    stage = VideoStage(model, instantiate(settings.data), settings.conditioning, settings.loss, seed=config.seed)
    charts = [Chart("Loss", {"loss": "loss", "error": "squared error"})]
    return _Plan(stage, model, settings.trainer, settings.optimizer, None, lambda trained: {}, charts)


def probe_memories(model: SmallMMDiT, memories: dict[str, MemoryPolicy], drawing: DrawingConfig, probe: ProbeConfig) -> dict[str, Any]:
    """How often somebody who was absent comes back as they were, for every memory of the probe; logged and returned."""
    returns = sample_returns(probe.num_stories, probe.num_past, seed=probe.seed, min_gap=2)
    shares: dict[str, dict[str, float]] = {}
    for name in probe.memories:
        outcomes, _ = draw_returns(KeyframeSampler(model, memories[name], drawing), returns, ceilings=False)
        shares[name] = shares_right(outcomes)
        told = ", ".join(f"{key} {value:.2f}" for key, value in shares[name].items())
        _logger.info("memory %-11s %s", name, told)
    headline = {f"colour of who returns, memory {name}": found["colour"] for name, found in shares.items()}
    return {"returns": shares, "headline": headline}


def _folder(config: TrainConfig) -> ModelFolder:
    """The model folder that all stages write into."""
    return model_folder(Path(config.output_root) / config.name / "model")


if __name__ == "__main__":
    main()
