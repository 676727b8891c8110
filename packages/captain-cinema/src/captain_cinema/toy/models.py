"""Models of tiny cinema: architectures, and loading of the shipped weights or of a folder that `make train-cinema` wrote."""

from functools import partial

import torch

from captain_cinema.models.folder import PARTS
from captain_cinema.models.mmdit import MMDiTConfig, SmallMMDiT
from captain_cinema.toy.encoder import TinyCaptionEncoder
from captain_cinema.toy.rendering import CLIP_FRAMES
from captain_cinema.video.diffusion import ClipConditioning, DiffusionClips
from triptych.checkpoint.model_folder import CONFIG_FILE, ModelFolder
from triptych.checkpoint.packing import ShippedModel
from triptych.errors import UserError

SHIPPED = ShippedModel(PARTS, "captain_cinema.toy", key="model")


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
    """A keyframe model of tiny cinema with untrained weights; its captions have no action. See `MMDiTConfig`."""
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
    """A video model of tiny cinema with untrained weights; its captions have an action, its frames times. See `MMDiTConfig`."""
    config = MMDiTConfig(width, num_heads, num_double, num_single, image_size, patch, moments=True)
    return SmallMMDiT(config, TinyCaptionEncoder(width, says_action=True), shift=shift)


def load_keyframe_model(path: str | None = None, *, shift: float = 1.0, device: str | torch.device = "cpu") -> SmallMMDiT:
    """The keyframe model of tiny cinema, shipped or from a folder that `make train-cinema` wrote.

    Args:
        path: the folder; None for the shipped one.
        shift: shift of the sampling times towards noise; 1 for none.
        device: device of the model.

    Raises:
        UserError: if there is no model, a file is damaged, or a tensor has another shape.
    """
    return _load(SHIPPED.folder(path), "keyframes", shift=shift).to(device)


def load_video_model(path: str | None = None, *, shift: float = 1.0, device: str | torch.device = "cpu") -> SmallMMDiT:
    """The video model of tiny cinema; see `load_keyframe_model`.

    Raises:
        UserError: if there is no model, a file is damaged, or a tensor has another shape.
    """
    return _load(SHIPPED.folder(path), "video", shift=shift).to(device)


def load_clips(
    path: str | None = None,
    *,
    conditioning: ClipConditioning | None = None,
    num_steps: int = 8,
    shift: float = 1.0,
    scale: int = 1,
    device: str | torch.device = "cpu",
) -> DiffusionClips:
    """The video model as a generator of clips.

    Args:
        path: the folder; None for the shipped one.
        conditioning: selection of the keyframes of other shots.
        num_steps: Euler steps.
        shift: shift of the sampling times towards noise; 1 for none.
        scale: upscaling factor of the frames relative to the keyframes.
        device: device of the model.

    Raises:
        UserError: if there is no model, a file is damaged, a tensor has another shape, or a number is out of range.
    """
    model = load_video_model(path, shift=shift, device=device)
    return DiffusionClips(model, frames_per_clip=CLIP_FRAMES, conditioning=conditioning, num_steps=num_steps, scale=scale)


def _load(folder: ModelFolder, part: str, *, shift: float) -> SmallMMDiT:
    build, says_action = (keyframe_mmdit, False) if part == "keyframes" else (clip_mmdit, True)
    sizes = folder.sizes_of(part)
    # Folders of the first version have this key among the sizes.
    if sizes.pop("says_action", says_action) != says_action:
        raise UserError(f"{folder.path / CONFIG_FILE}: says_action of the {part} model is {not says_action}: train it again")
    model = folder.config_of(part, partial(build, shift=shift), sizes)
    folder.load(part, model)
    return model
