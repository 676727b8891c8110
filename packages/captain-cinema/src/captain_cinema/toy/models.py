"""Tiny cinema's models: what the package ships, or what `make train-cinema` wrote."""

from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

import torch

from captain_cinema.models import folder as folders
from captain_cinema.models.folder import STAGE_OF
from captain_cinema.models.mmdit import MMDiTConfig, SmallMMDiT
from captain_cinema.toy.encoder import TinyCaptionEncoder
from captain_cinema.toy.rendering import CLIP_FRAMES
from captain_cinema.video.diffusion import ClipConditioning, DiffusionClips
from triptych.checkpoint.model_folder import CONFIG_FILE, ModelFolder
from triptych.checkpoint.packing import ShippedModel
from triptych.errors import UserError


def model_folder(path: str | Path | None = None) -> ModelFolder:
    """A folder that `make train-cinema` writes; None for the one that the package ships."""
    if path is None:
        return folders.model_folder(shipped_folder(), hint="the installation lacks its weights")
    return folders.model_folder(Path(path), hint="leave model.path out for the shipped one")


def shipped_folder() -> Path:
    """Where the package keeps the weights of tiny cinema."""
    with as_file(files("captain_cinema.toy") / "weights") as path:
        return Path(path)


SHIPPED = ShippedModel(model_folder, STAGE_OF, key="model")


def keyframe_mmdit(
    *,
    width: int = 128,
    num_heads: int = 4,
    num_double: int = 1,
    num_single: int = 4,
    image_size: int = 64,
    patch: int = 8,
    shift: float = 1.0,
) -> SmallMMDiT:
    """A keyframe model of tiny cinema with fresh weights; its captions tell no action. See `MMDiTConfig`."""
    config = MMDiTConfig(width, num_heads, num_double, num_single, image_size, patch)
    return SmallMMDiT(config, TinyCaptionEncoder(width, says_action=False), shift=shift)


def clip_mmdit(
    *,
    width: int = 128,
    num_heads: int = 4,
    num_double: int = 1,
    num_single: int = 4,
    image_size: int = 64,
    patch: int = 8,
    shift: float = 1.0,
) -> SmallMMDiT:
    """A video model of tiny cinema with fresh weights: captions tell the action, frames their moment. See `MMDiTConfig`."""
    config = MMDiTConfig(width, num_heads, num_double, num_single, image_size, patch, moments=True)
    return SmallMMDiT(config, TinyCaptionEncoder(width, says_action=True), shift=shift)


def load_keyframe_model(path: str | None = None, *, shift: float = 1.0, device: str | torch.device = "cpu") -> SmallMMDiT:
    """The keyframe model of tiny cinema: what the package ships, or a folder that `make train-cinema` wrote.

    Args:
        path: the folder; None for the shipped one.
        shift: of the sampler's timesteps towards noise; 1 for none.
        device: where the model computes.

    Raises:
        UserError: if there is no model, or a file is damaged or of another shape.
    """
    return _load(model_folder(path), "keyframes", shift=shift).to(device)


def load_video_model(path: str | None = None, *, shift: float = 1.0, device: str | torch.device = "cpu") -> SmallMMDiT:
    """The video model of tiny cinema, likewise.

    Raises:
        UserError: if there is no model, or a file is damaged or of another shape.
    """
    return _load(model_folder(path), "video", shift=shift).to(device)


def load_clips(
    path: str | None = None,
    *,
    conditioning: ClipConditioning | None = None,
    num_steps: int = 8,
    shift: float = 1.0,
    scale: int = 1,
    device: str | torch.device = "cpu",
) -> DiffusionClips:
    """The video model as what draws the clips of a film.

    Args:
        path: the folder; None for the shipped one.
        conditioning: other shots' keyframes.
        num_steps: Euler steps.
        shift: of the sampler's timesteps towards noise; 1 for none.
        scale: frames are so many times as large as the keyframes.
        device: where the model computes.

    Raises:
        UserError: if there is no model, a file is damaged or of another shape, or a number is out of range.
    """
    model = load_video_model(path, shift=shift, device=device)
    return DiffusionClips(model, frames_per_clip=CLIP_FRAMES, conditioning=conditioning, num_steps=num_steps, scale=scale)


def _load(folder: ModelFolder, part: str, *, shift: float) -> SmallMMDiT:
    build, says_action = (keyframe_mmdit, False) if part == "keyframes" else (clip_mmdit, True)
    sizes = folder.sizes_of(part)
    # Folders of the first version say so among the sizes.
    if sizes.pop("says_action", says_action) != says_action:
        raise UserError(f"{folder.path / CONFIG_FILE}: the {part} model has says_action {not says_action}: train it again")
    model = folder.config_of(part, partial(build, shift=shift), sizes)
    folder.load(part, model)
    return model
