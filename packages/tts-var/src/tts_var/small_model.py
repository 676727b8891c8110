"""The small world's model as files: what `make train-var` writes, and what the package ships."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import nn

from triptych.checkpoint import write_atomically
from triptych.errors import UserError
from tts_var.models.autoencoder import AutoencoderConfig, BinaryTokenizer
from tts_var.models.infinity import InfinityConfig, InfinityGenerator, InfinitySampling, InfinityTransformer
from tts_var.models.loading import fill_strictly, read_weights
from tts_var.models.text import WordEncoder
from tts_var.scales import ScaleTable, square_scales

CONFIG_FILE = "config.json"
STAGE_OF = {"tokenizer": "tokenizer", "transformer": "transformer", "text_encoder": "transformer", "reward": "reward"}

SizesT = TypeVar("SizesT")


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


def save_part(folder: Path, name: str, module: nn.Module, sizes: Mapping[str, Any]) -> None:
    """Writes one part of the model (`<name>.safetensors`) and notes its sizes in the folder's `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name}.partial"
    save_file({key: value.detach().contiguous().cpu() for key, value in module.state_dict().items()}, partial)
    partial.chmod(0o644)  # safetensors leaves it to its owner alone
    partial.replace(folder / f"{name}.safetensors")
    path = folder / CONFIG_FILE
    known = json.loads(path.read_text()) if path.exists() else {}
    write_atomically(path, json.dumps({**known, name: dict(sizes)}, indent=1))


def load_part(folder: Path, name: str, module: nn.Module) -> None:
    """Fills one part of the model from `<folder>/<name>.safetensors`, in float32.

    Raises:
        UserError: if the file is missing, damaged or of another shape.
    """
    path = folder / f"{name}.safetensors"
    fill_strictly(module, read_weights(path), str(path))
    module.eval()


def read_sizes(folder: Path) -> dict[str, Any]:
    """The `config.json` of a model folder.

    Raises:
        UserError: if the folder holds no model.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        mend = "the installation lacks its weights" if folder == shipped_folder() else "leave generator.path out for the shipped one"
        raise UserError(f"{folder} holds no model (no {CONFIG_FILE}): train one with 'make train-var'; {mend}")
    try:
        sizes = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}): train the model again") from error
    if not isinstance(sizes, dict) or not all(isinstance(part, dict) for part in sizes.values()):
        raise UserError(f"{path} is no table of the model's parts: train the model again")
    return sizes


def read_part(folder: Path, name: str) -> dict[str, Any]:
    """The sizes of one part of a model folder.

    Raises:
        UserError: if the folder holds no model, or none of this part.
    """
    sizes = read_sizes(folder)
    if name not in sizes:
        raise UserError(f"{folder / CONFIG_FILE} says nothing of the {name}: train it with 'make train-var ARGS=\"stages=[{name}]\"'")
    return dict(sizes[name])


def weights_hash(folder: Path, name: str) -> str:
    """SHA-256 of the weights of one part of a model folder.

    Raises:
        UserError: if the folder has no such part.
    """
    read_part(folder, name)
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise UserError(f"there are no weights at {path}: train them with 'make train-var ARGS=\"stages=[{STAGE_OF[name]}]\"'")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sizes_of(kind: type[SizesT], folder: Path, name: str, sizes: dict[str, Any]) -> SizesT:
    """The sizes of one part as its dataclass.

    Raises:
        UserError: if a size is unknown.
    """
    known = set(signature(kind).parameters)
    unknown = sorted(set(sizes) - known)
    if unknown:
        raise UserError(f"{folder / CONFIG_FILE} gives the {name} the size '{unknown[0]}': it knows {', '.join(sorted(known))}")
    wrong = [key for key, value in sizes.items() if not isinstance(value, int | float | list) or isinstance(value, bool)]
    if wrong:
        raise UserError(f"{folder / CONFIG_FILE} says {wrong[0]}={sizes[wrong[0]]!r} of the {name}: it must be a number")
    return kind(**sizes)


def load_tokenizer(folder: Path) -> BinaryTokenizer:
    """The tokenizer of a model folder."""
    tokenizer = sizes_of(TokenizerConfig, folder, "tokenizer", read_part(folder, "tokenizer")).build()
    load_part(folder, "tokenizer", tokenizer)
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
    folder = shipped_folder() if path is None else Path(path)
    tokenizer = load_tokenizer(folder)
    transformer_sizes = read_part(folder, "transformer")
    if not {"sides", "patch"} <= transformer_sizes.keys():
        raise UserError(f"{folder / CONFIG_FILE} does not say the transformer's sides and patch: train the model again")
    scales = square_scales(transformer_sizes.pop("sides"), patch=transformer_sizes.pop("patch"))
    sizes = sizes_of(TransformerConfig, folder, "transformer", transformer_sizes)
    transformer, encoder = sizes.build(scales, tokenizer.config.latent_channels)
    load_part(folder, "transformer", transformer)
    load_part(folder, "text_encoder", encoder)
    sampling = InfinitySampling(guidance, temperature, top_k, top_p)
    return InfinityGenerator(transformer.to(device), tokenizer.to(device), encoder.to(device), sampling)
