"""Tiny cinema's models as files: what `make train-cinema` writes, and what the package ships."""

from importlib.resources import as_file, files
from pathlib import Path

import torch

from captain_cinema.models.mmdit import MMDiTConfig, SmallMMDiT
from captain_cinema.video.mmdit import ClipConditioning, DiffusionClips
from triptych.errors import UserError
from triptych.weights import CONFIG_FILE, ModelFolder

STAGE_OF = {"keyframes": "keyframes", "video": "video"}


def model_folder(path: str | Path | None = None) -> ModelFolder:
    """A folder that `make train-cinema` writes; None for the one that the package ships."""
    folder = shipped_folder() if path is None else Path(path)
    hint = "the installation lacks its weights" if folder == shipped_folder() else "leave model.path out for the shipped one"
    return ModelFolder(folder, train=_train_command, hint=hint)


def shipped_folder() -> Path:
    """Where the package keeps the weights of tiny cinema."""
    with as_file(files("captain_cinema") / "weights" / "tiny_cinema") as path:
        return Path(path)


def load_keyframe_model(path: str | None = None, *, device: str | torch.device = "cpu") -> SmallMMDiT:
    """The keyframe model of tiny cinema: what the package ships, or a folder that `make train-cinema` wrote.

    Raises:
        UserError: if there is no model, or a file is damaged or of another shape.
    """
    return _load(model_folder(path), "keyframes", says_action=False).to(device)


def load_video_model(path: str | None = None, *, device: str | torch.device = "cpu") -> SmallMMDiT:
    """The video model of tiny cinema, likewise.

    Raises:
        UserError: if there is no model, or a file is damaged or of another shape.
    """
    return _load(model_folder(path), "video", says_action=True).to(device)


def load_clips(
    path: str | None = None, *, conditioning: ClipConditioning | None = None, num_steps: int = 8, shift: float = 1.0
) -> DiffusionClips:
    """The video model as what draws the clips of a film, on the CPU.

    Raises:
        UserError: if there is no model, a file is damaged or of another shape, or a number is out of range.
    """
    return DiffusionClips(load_video_model(path), conditioning=conditioning, num_steps=num_steps, shift=shift)


def _load(folder: ModelFolder, part: str, *, says_action: bool) -> SmallMMDiT:
    config = folder.config_of(part, MMDiTConfig)
    if config.says_action != says_action:
        raise UserError(f"{folder.path / CONFIG_FILE}: the {part} model has says_action {config.says_action}: train it again")
    model = SmallMMDiT(config)
    folder.load(part, model)
    return model


def _train_command(part: str | None = None) -> str:
    return "make train-cinema" if part is None else f'make train-cinema ARGS="stages=[{STAGE_OF[part]}]"'
