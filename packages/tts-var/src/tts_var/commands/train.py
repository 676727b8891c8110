"""`python -m tts_var.commands.train`: trains tokenizer, reward and transformer, each in a run of its own below the same name."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from omegaconf import MISSING

from triptych.checkpoint.model_folder import ModelFolder
from triptych.commands.build import build
from triptych.commands.entry_point import entry_point
from triptych.distributed import World
from triptych.errors import UserError
from triptych.optim import OptimizerConfig
from triptych.report import Chart
from triptych.run.config import RunConfig
from triptych.run.session import Run
from triptych.seeding import generator
from triptych.telemetry.logging import get_logger
from triptych.training.loop import TrainerConfig
from triptych.training.stages import StagePlan, model_sizes, train_stage, training_processes
from tts_var.models.folder import PARTS, load_tokenizer
from tts_var.models.infinity import InfinityTransformer
from tts_var.numerics.scales import ScaleTable, square_scales
from tts_var.training.reward_stage import RewardLossConfig, RewardStage
from tts_var.training.tokenizer_stage import TokenizerLossConfig, TokenizerStage
from tts_var.training.transformer_stage import TextToBits, TransformerLossConfig, TransformerStage

_logger = get_logger("train")

STAGES = PARTS.stages


@dataclass
class StageSettings:
    """Settings common to all stages.

    Attributes:
        model: the model to train, as a Hydra node; its arguments are the sizes that a model folder keeps.
        optimizer: AdamW and its learning-rate curve.
        trainer: the loop.
    """

    model: Any = MISSING
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass
class TokenizerSettings(StageSettings):
    """The tokenizer's stage.

    Attributes:
        data: training images of the tokenizer, as a Hydra node.
        loss: weights of the loss.
    """

    data: Any = MISSING
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)


@dataclass
class TransformerSettings(StageSettings):
    """The transformer's stage.

    Attributes:
        text_encoder: trained jointly with the transformer, as a Hydra node.
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
        data: captioned images for reward and transformer, as a Hydra node.
        strategy: placement and optimizer step of a model (group `strategy`).
        tokenizer: the tokenizer's stage.
        reward: the reward's stage.
        transformer: the transformer's stage.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        "tokenizer.loss.prefix_share": "tokenizer.loss.prefix_fraction",
        "tokenizer.loss.plain_share": "tokenizer.loss.plain_fraction",
        "reward.loss.prefix_share": "reward.loss.prefix_fraction",
        "reward.loss.slip_weight": "reward.loss.corruption_weight",
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
        """Token grids of all stages."""
        return square_scales(self.sides, patch=self.patch)


@dataclass
class _StageRun(RunConfig):
    """Settings that identify the run of one stage.

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
    """Checks before the first stage that the sizes of all models and the data are compatible.

    Raises:
        UserError: if they are not.
    """
    with torch.device("meta"):
        tokenizer = build(config.tokenizer.model)
        build(config.reward.model)
        transformer = build_transformer(config, tokenizer.config.latent_channels)
        encoder = build(config.transformer.text_encoder)
    data = build(config.data)
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
    """The transformer over the tokens of a tokenizer with `latent_channels` channels."""
    transformer: InfinityTransformer = build(config.transformer.model, config.scales, latent_channels=latent_channels)
    return transformer


@entry_point("var", "train", TrainConfig, check=check_sizes)
def main(config: TrainConfig) -> None:
    """Trains the requested stages; finished ones are skipped."""
    builders = {"tokenizer": _tokenizer, "reward": _reward, "transformer": _transformer}
    tracker = None if config.tracker is None else build(config.tracker)
    with training_processes(config):
        for name in config.stages:
            folder = _folder(config)
            stage_run = config.nested(
                _StageRun,
                name,
                sides=config.sides,
                patch=config.patch,
                data=None if name == "tokenizer" else config.data,
                settings=asdict(getattr(config, name)),
                tokenizer=None if name == "tokenizer" else folder.hash("tokenizer"),
            )
            with Run.open(stage_run, tracker=tracker) as run:
                train_stage(
                    run,
                    name,
                    partial(builders[name], config, run.world),
                    folder,
                    lambda world, norm: build(config.strategy, world, max_grad_norm=norm),
                    max_steps=getattr(config, name).trainer.max_steps,
                )
    _logger.info("sample             python -m tts_var.commands.sample generator.path=%s", _folder(config).path)


def _tokenizer(config: TrainConfig, world: World) -> StagePlan:
    settings = config.tokenizer
    tokenizer = build(settings.model)
    return StagePlan(
        TokenizerStage(tokenizer, build(settings.data), config.scales, settings.loss, seed=config.seed),
        {"tokenizer": (tokenizer, model_sizes(settings.model))},
        settings.trainer,
        settings.optimizer,
        columns=("loss", "psnr", "timing/examples_per_second"),
        charts=[Chart("Loss", {"loss": "loss"}), Chart("Reconstruction", {"psnr": "psnr"}, "dB")],
    )


def _reward(config: TrainConfig, world: World) -> StagePlan:
    settings = config.reward
    model = build(settings.model)
    tokenizer, data = load_tokenizer(_folder(config), device=world.device), build(config.data)
    return StagePlan(
        RewardStage(model, tokenizer, config.scales, data, settings.loss, seed=config.seed, world=world),
        {"reward": (model, model_sizes(settings.model))},
        settings.trainer,
        settings.optimizer,
        columns=("loss", "accuracy", "timing/examples_per_second"),
        charts=[
            Chart("Loss", {"loss": "loss"}, "nats"),
            Chart("Own caption above its near misses", {"accuracy": "accuracy"}, "fraction of images", bounds=(0, 1)),
        ],
    )


def _transformer(config: TrainConfig, world: World) -> StagePlan:
    settings = config.transformer
    tokenizer = load_tokenizer(_folder(config), device=world.device)
    transformer = build_transformer(config, tokenizer.config.latent_channels)
    encoder = build(settings.text_encoder)
    transformer.reset_parameters(generator(config.seed, "transformer"))
    model = TextToBits(transformer, encoder)
    return StagePlan(
        TransformerStage(model, tokenizer, build(config.data), settings.loss, seed=config.seed),
        {
            "transformer": (transformer, {**model_sizes(settings.model), "sides": list(config.sides), "patch": config.patch}),
            "text_encoder": (encoder, model_sizes(settings.text_encoder)),
        },
        settings.trainer,
        settings.optimizer,
        columns=("loss", "bit_accuracy", "timing/examples_per_second"),
        charts=[
            Chart("Loss", {"loss": "loss"}, "nats per bit"),
            Chart("Bit accuracy", {"bit_accuracy": "teacher-forced"}, "fraction of bits", bounds=(0, 1)),
        ],
    )


def _folder(config: TrainConfig) -> ModelFolder:
    """The model folder that all stages write into."""
    return PARTS.folder(Path(config.output_root) / config.name / "model")


if __name__ == "__main__":
    main()
