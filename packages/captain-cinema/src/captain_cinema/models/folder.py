"""Model folders as `make train-cinema` writes them: the keyframe model and the video model."""

from pathlib import Path

from triptych.checkpoint.model_folder import ModelFolder

STAGE_OF = {"keyframes": "keyframes", "video": "video"}


def model_folder(path: Path, *, hint: str = "give a folder that it wrote") -> ModelFolder:
    """A folder that `make train-cinema` writes.

    Args:
        path: the folder.
        hint: what else could be done where it holds no model.
    """
    return ModelFolder(path, train=_train_command, hint=hint)


def _train_command(part: str | None = None) -> str:
    return "make train-cinema" if part is None else f'make train-cinema ARGS="stages=[{STAGE_OF[part]}]"'
