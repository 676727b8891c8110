"""`python -m tts_var.commands.train`: tokenizer, reward and transformer, each a run of its own below the same name."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from hydra.utils import instantiate
from omegaconf import MISSING
from torch import nn

from triptych.checkpoint.model_folder import ModelFolder
from triptych.commands.entry_point import entry_point
from triptych.distributed import World
from triptych.errors import UserError
from triptych.optim import OptimizerConfig
from triptych.report.render import Chart, ReportConfig
from triptych.run.config import RunConfig
from triptych.run.session import Run
from triptych.seeding import derive_seed, generator
from triptych.telemetry.logging import get_logger
from triptych.telemetry.tracking.jsonl import read_rows
from triptych.training.loop import Stage, TrainerConfig, fit
from tts_var.models.folder import STAGE_OF, load_tokenizer, model_folder
from tts_var.models.infinity import InfinityTransformer
from tts_var.numerics.scales import ScaleTable, square_scales
from tts_var.training.reward_stage import RewardLossConfig, RewardStage
from tts_var.training.tokenizer_stage import TokenizerLossConfig, TokenizerStage
from tts_var.training.transformer_stage import TextToBits, TransformerLossConfig, TransformerStage

_logger = get_logger("train")

STAGES = ("tokenizer", "reward", "transformer")


@dataclass
class StageSettings:
    """What every stage has.

    Attributes:
        model: what is trained, as a Hydra node; its arguments are the sizes that a model folder keeps.
        optimizer: AdamW and its learning-rate curve.
        trainer: the loop.
    """

    model: Any = MISSING
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    @property
    def sizes(self) -> dict[str, Any]:
        """The model's sizes."""
        return {key: value for key, value in self.model.items() if not key.startswith("_")}


@dataclass
class TokenizerSettings(StageSettings):
    """The tokenizer's stage.

    Attributes:
        data: pictures of its own, as a Hydra node.
        loss: weights of the loss.
    """

    data: Any = MISSING
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)


@dataclass
class TransformerSettings(StageSettings):
    """The transformer's stage.

    Attributes:
        text_encoder: trained with it, as a Hydra node.
        loss: self-correction, dropped texts, token weights.
    """

    text_encoder: Any = MISSING
    loss: TransformerLossConfig = field(default_factory=TransformerLossConfig)


@dataclass
class RewardSettings(StageSettings):
    """The reward's stage.

    Attributes:
        loss: noise and near misses.
    """

    loss: RewardLossConfig = field(default_factory=RewardLossConfig)


@dataclass
class TrainConfig(RunConfig):
    """Settings of `var-train`.

    Attributes:
        stages: which models to train, in order; `tokenizer` comes first, the others read its weights.
        sides: token grids of the scales, all square.
        patch: latent cells per token side (2 in the 8B model).
        data: captioned pictures of reward and transformer, as a Hydra node.
        strategy: how a model is placed and stepped (group `strategy`).
        tokenizer: the tokenizer's stage.
        reward: the reward's stage.
        transformer: the transformer's stage.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        "tokenizer.loss.prefix_share": "tokenizer.loss.prefix_fraction",
        "tokenizer.loss.plain_share": "tokenizer.loss.plain_fraction",
        "reward.loss.prefix_share": "reward.loss.prefix_fraction",
    }

    stages: list[str] = field(default_factory=lambda: list(STAGES))
    sides: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5, 6, 8])
    patch: int = 2
    data: Any = MISSING
    strategy: Any = MISSING
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    reward: RewardSettings = field(default_factory=RewardSettings)
    transformer: TransformerSettings = field(default_factory=TransformerSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [stage for stage in self.stages if stage not in STAGES]
        if unknown or not self.stages:
            raise UserError(f"stages is {self.stages}: choose among {', '.join(STAGES)}")
        if self.patch < 1:
            raise UserError(f"patch is {self.patch}: a token covers at least one latent cell")
        if len(self.sides) < 2:
            raise UserError(f"sides is {self.sides}: there must be at least two scales")
        if self.reward.loss.first_prefix > len(self.sides):
            raise UserError(f"reward.loss.first_prefix is {self.reward.loss.first_prefix} but there are {len(self.sides)} scales")

    @property
    def scales(self) -> ScaleTable:
        """The grids that all stages walk."""
        return square_scales(self.sides, patch=self.patch)


@dataclass
class _StageRun(RunConfig):
    """What makes one stage the run that it is.

    Attributes:
        sides: token grids.
        patch: latent cells per token side.
        data: the data node.
        settings: the stage's settings as a plain tree.
        tokenizer: SHA-256 of the tokenizer's weights that the stage reads; null for the tokenizer itself.
    """

    sides: list[int] = field(default_factory=list)
    patch: int = 1
    data: Any = None
    settings: Any = None
    tokenizer: str | None = None


def check_sizes(config: TrainConfig) -> None:
    """Refuses sizes that do not fit one another before the first stage, not after it.

    Raises:
        UserError: if they do not.
    """
    with torch.device("meta"):
        tokenizer = instantiate(config.tokenizer.model)
        instantiate(config.reward.model)
        transformer = build_transformer(config, tokenizer.config.latent_channels)
        encoder = instantiate(config.transformer.text_encoder)
    data = instantiate(config.data)
    stride = tokenizer.config.stride
    if config.sides[-1] * config.patch * stride != data.image_size:
        raise UserError(
            f"sides is {config.sides} with patch {config.patch} and a tokenizer of stride {stride}: "
            f"the last scale must make {data.image_size} pixels (last side x patch x stride)"
        )
    if transformer.config.unconditional_tokens < encoder.num_tokens:
        raise UserError(
            f"transformer.model.unconditional_tokens is {transformer.config.unconditional_tokens}: prompts have {encoder.num_tokens} tokens"
        )


def build_transformer(config: TrainConfig, latent_channels: int) -> InfinityTransformer:
    """The transformer over tokens of a tokenizer with so many channels."""
    transformer: InfinityTransformer = instantiate(config.transformer.model, config.scales, latent_channels=latent_channels)
    return transformer


@entry_point("var", "train", TrainConfig, check=check_sizes)
def main(config: TrainConfig) -> None:
    """Trains the stages asked for; finished ones are recognised and left alone."""
    # FSDP warns of outputs that are views, for whoever writes into them; nothing writes into these models' outputs.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    # One group of processes for all runs: a second one on the same store would meet the addresses of the first.
    with World.join(config.device, timeout_seconds=config.timeout_seconds) as world:
        builders: dict[str, Callable[[TrainConfig, torch.device], _Plan]] = {
            "tokenizer": _tokenizer,
            "reward": partial(_reward, world=world),
            "transformer": _transformer,
        }
        for name in config.stages:
            _train(config, name, builders[name])
    _logger.info("sample             python -m tts_var.commands.sample generator.path=%s", _folder(config).path)


@dataclass
class _Plan:
    """A stage ready to be trained, and how its parts are written."""

    stage: Stage
    settings: StageSettings
    parts: dict[str, tuple[nn.Module, dict[str, Any]]]
    columns: tuple[str, ...]
    charts: list[Chart]


def _train(config: TrainConfig, name: str, build: Callable[[TrainConfig, torch.device], _Plan]) -> None:
    stage_run = _StageRun(
        **{key: getattr(config, key) for key in (item.name for item in fields(RunConfig)) if key != "name"},
        name=f"{config.name}/{name}",
        sides=config.sides,
        patch=config.patch,
        data=None if name == "tokenizer" else config.data,
        settings=asdict(getattr(config, name)),
        tokenizer=None if name == "tokenizer" else _folder(config).hash("tokenizer"),
    )
    tracker = None if config.tracker is None else instantiate(config.tracker)
    with Run.open(stage_run, tracker=tracker) as run:
        _logger.info("stage %s", name)
        steps = getattr(config, name).trainer.max_steps
        parts = [part for part, stage in STAGE_OF.items() if stage == name]
        if run.is_finished(steps) and all((_folder(config).path / f"{part}.safetensors").is_file() for part in parts):
            _logger.info("finished           %s", run.directory)
            return
        # Layers that initialise themselves draw from torch's own stream.
        torch.manual_seed(derive_seed(config.seed, name))
        plan = build(config, run.device)
        strategy = instantiate(config.strategy, run.world, max_grad_norm=plan.settings.optimizer.max_grad_norm)
        seconds = fit(run, plan.stage, strategy, plan.settings.trainer, plan.settings.optimizer, columns=plan.columns, parts=plan.parts)
        if run.world.is_main:
            for part, (module, sizes) in plan.parts.items():
                _folder(config).save(part, module, sizes)
            last = read_rows(run.directory / "metrics.jsonl")[-1]
            summary = {"stage": name, "steps": plan.settings.trainer.max_steps, "seconds": seconds, "world_size": run.world.size}
            summary |= {key: value for key, value in last.items() if key != "step"}
            headline = {key: f"{last[key]:.4g}" for key in plan.columns if key in last}
            report = run.finish(summary, report=ReportConfig(title=f"{config.name}: {name}", headline=headline, charts=plan.charts))
            _logger.info("report             %s", report)
        run.world.barrier()


def _tokenizer(config: TrainConfig, device: torch.device) -> _Plan:
    settings = config.tokenizer
    tokenizer = instantiate(settings.model)
    stage = TokenizerStage(tokenizer, instantiate(settings.data), config.scales, settings.loss, seed=config.seed)
    return _Plan(
        stage,
        settings,
        {"tokenizer": (tokenizer, settings.sizes)},
        ("loss", "psnr", "timing/examples_per_second"),
        [Chart("Loss", {"loss": "loss"}), Chart("Reconstruction", {"psnr": "psnr"}, "dB")],
    )


def _reward(config: TrainConfig, device: torch.device, *, world: World) -> _Plan:
    settings = config.reward
    model = instantiate(settings.model)
    tokenizer, data = load_tokenizer(_folder(config), device=device), instantiate(config.data)
    return _Plan(
        RewardStage(model, tokenizer, config.scales, data, settings.loss, seed=config.seed, world=world),
        settings,
        {"reward": (model, settings.sizes)},
        ("loss", "accuracy", "timing/examples_per_second"),
        [Chart("Loss", {"loss": "loss"}, "nats"), Chart("Own caption above its near misses", {"accuracy": "share of pictures"})],
    )


def _transformer(config: TrainConfig, device: torch.device) -> _Plan:
    settings = config.transformer
    tokenizer = load_tokenizer(_folder(config), device=device)
    transformer = build_transformer(config, tokenizer.config.latent_channels)
    encoder = instantiate(settings.text_encoder)
    transformer.reset_parameters(generator(config.seed, "transformer"))
    model = TextToBits(transformer, encoder)
    encoder_sizes = {key: value for key, value in settings.text_encoder.items() if not key.startswith("_")}
    return _Plan(
        TransformerStage(model, tokenizer, instantiate(config.data), settings.loss, seed=config.seed),
        settings,
        {
            "transformer": (transformer, {**settings.sizes, "sides": list(config.sides), "patch": config.patch}),
            "text_encoder": (encoder, encoder_sizes),
        },
        ("loss", "bit_accuracy", "timing/examples_per_second"),
        [Chart("Loss", {"loss": "loss"}, "nats per bit"), Chart("Bit accuracy", {"bit_accuracy": "teacher-forced"})],
    )


def _folder(config: TrainConfig) -> ModelFolder:
    """The model folder that all stages write into."""
    return model_folder(Path(config.output_root) / config.name / "model")


if __name__ == "__main__":
    main()
