"""The small world's model as files: what `make train-var` writes, and what the package ships."""

from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path

import torch

from triptych.errors import UserError
from triptych.weights import CONFIG_FILE, ModelFolder
from tts_var.models.autoencoder import AutoencoderConfig, BinaryTokenizer
from tts_var.models.infinity import InfinityConfig, InfinityGenerator, InfinitySampling, InfinityTransformer
from tts_var.models.text import WordEncoder
from tts_var.scales import ScaleTable, square_scales

STAGE_OF = {"tokenizer": "tokenizer", "transformer": "transformer", "text_encoder": "transformer", "reward": "reward"}


@dataclass
class TokenizerConfig:
    """Sizes of the small world's tokenizer; see `AutoencoderConfig`.

    Attributes:
        latent_channels: bits per latent cell.
        base_channels: channels at full resolution.
        multipliers: channels of each level in units of `base_channels`.
        blocks_per_level: residual blocks of an encoder level.
        norm_groups: groups of every group norm.
    """

    latent_channels: int = 8
    base_channels: int = 16
    multipliers: list[int] = field(default_factory=lambda: [1, 2, 2])
    blocks_per_level: int = 1
    norm_groups: int = 4

    def build(self) -> BinaryTokenizer:
        """A tokenizer with random weights."""
        return BinaryTokenizer(
            AutoencoderConfig(
                self.latent_channels, self.base_channels, tuple(self.multipliers), self.blocks_per_level, norm_groups=self.norm_groups
            )
        )


@dataclass
class TransformerConfig:
    """Sizes of the small world's transformer and text encoder; see `InfinityConfig`.

    Attributes:
        depth: transformer blocks.
        width: channels.
        num_heads: attention heads.
        text_width: width of the text features.
        text_layers: layers of the text encoder.
        unconditional_tokens: learned rows of the unconditional branch.
        drop_path: stochastic depth of the last block while training.
    """

    depth: int = 6
    width: int = 128
    num_heads: int = 4
    text_width: int = 128
    text_layers: int = 2
    unconditional_tokens: int = 16
    drop_path: float = 0.0

    def build(self, scales: ScaleTable, latent_channels: int) -> tuple[InfinityTransformer, WordEncoder]:
        """Transformer and text encoder with the weights that torch gives them."""
        bits = latent_channels * scales.patch**2
        config = InfinityConfig(self.depth, self.width, self.num_heads, bits, self.text_width, self.unconditional_tokens, self.drop_path)
        return InfinityTransformer(config, scales), WordEncoder(self.text_width, num_layers=self.text_layers)


def model_folder(path: str | Path | None = None) -> ModelFolder:
    """A folder that `make train-var` writes; None for the one that the package ships."""
    folder = shipped_folder() if path is None else Path(path)
    hint = "the installation lacks its weights" if folder == shipped_folder() else "leave generator.path out for the shipped one"
    return ModelFolder(folder, train=_train_command, hint=hint)


def _train_command(part: str | None = None) -> str:
    return "make train-var" if part is None else f'make train-var ARGS="stages=[{STAGE_OF[part]}]"'


def load_tokenizer(folder: ModelFolder) -> BinaryTokenizer:
    """The tokenizer of a model folder."""
    tokenizer = folder.config_of("tokenizer", TokenizerConfig).build()
    folder.load("tokenizer", tokenizer)
    return tokenizer


def shipped_folder() -> Path:
    """The folder of the weights that the package ships."""
    with as_file(files("tts_var") / "weights" / "small_world") as folder:
        return Path(folder)


def load_small_world(
    path: str | Path | None = None,
    *,
    guidance: float = 2.5,
    temperature: float = 0.75,
    top_k: int = 0,
    top_p: float = 0.0,
    device: torch.device | str = "cpu",
) -> InfinityGenerator:
    """The small world's generator: text to pictures of 64 x 64 pixels.

    Args:
        path: a folder that `make train-var` wrote; None for the weights that the package ships.
        guidance: classifier-free guidance at every scale.
        temperature: of the logits at every scale.
        top_k: classes per bit that stay; 0 keeps both.
        top_p: probability mass that stays; 0 keeps all.
        device: where the model computes.

    Raises:
        UserError: if there is no model, or a file is damaged or of another shape.
    """
    folder = model_folder(path)
    tokenizer = load_tokenizer(folder)
    transformer_sizes = folder.sizes_of("transformer")
    if not {"sides", "patch"} <= transformer_sizes.keys():
        raise UserError(f"{folder.path / CONFIG_FILE} does not say the transformer's sides and patch: train the model again")
    scales = square_scales(transformer_sizes.pop("sides"), patch=transformer_sizes.pop("patch"))
    sizes = folder.config_of("transformer", TransformerConfig, transformer_sizes)
    transformer, encoder = sizes.build(scales, tokenizer.config.latent_channels)
    folder.load("transformer", transformer)
    folder.load("text_encoder", encoder)
    sampling = InfinitySampling(guidance, temperature, top_k, top_p)
    return InfinityGenerator(transformer.to(device), tokenizer.to(device), encoder.to(device), sampling)
