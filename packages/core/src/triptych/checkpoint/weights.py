"""Reading and writing weights as safetensors, with strict loading."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from triptych.errors import UserError
from triptych.files import give_default_mode


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: if there is no such file, or it is truncated or corrupt.
    """
    if not path.is_file():
        raise UserError(f"there are no weights at {path}: give a safetensors file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is not a complete safetensors file ({error}): copy or download it again") from error


def write_safetensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Writes tensors atomically to a file with the permissions of any new file."""
    partial = path.with_name(f".{path.name}.partial")
    save_file({key: value.detach().contiguous().cpu() for key, value in state.items()}, partial)
    give_default_mode([partial])
    partial.replace(path)


def fill_strictly(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copies `state` into `model` in place, in the model's own precision.

    Args:
        model: the module to fill.
        state: tensors by name.
        source: name of the tensors' origin, for the error message.

    Raises:
        UserError: if a tensor is missing, unexpected or of another shape; the message names the first of each kind.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    extra = [key for key in state if key not in own]
    misfit = [key for key in own if key in state and own[key].shape != state[key].shape]
    if misfit:
        key = misfit[0]
        raise UserError(
            f"{source} does not fit: {key} has shape {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            f"{_and_others(misfit)}: choose the weights that belong to this model"
        )
    if missing or extra:
        what = f"{missing[0]} is missing{_and_others(missing)}" if missing else f"{extra[0]} is unexpected{_and_others(extra)}"
        raise UserError(f"{source} does not fit: {what}: choose the weights that belong to this model")
    model.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()})


def _and_others(keys: list[str]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
