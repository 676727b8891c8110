"""Model folders: the weights of each part of a model, the sizes of all, and the command that trains them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from triptych.checkpoint.weights import fill_strictly, read_safetensors, write_safetensors
from triptych.errors import UserError
from triptych.files import read_json, sha256
from triptych.own_files import OwnFiles

CONFIG_FILE = "config.json"

SizesT = TypeVar("SizesT")


def write_part(folder: Path, part: str, state: Mapping[str, Tensor], sizes: Mapping[str, Any]) -> None:
    """Writes one part of a `ModelFolder` and adds its sizes to those of the others; each file atomically.

    Files of the same names that no command wrote are kept aside.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = OwnFiles(folder)
    partial = folder / f".{part}.partial"
    write_safetensors(partial, state)
    own.install(partial, f"{part}.safetensors")
    path = folder / CONFIG_FILE
    known = read_json(path, "train the model again in another folder") if path.exists() else {}
    own.write(CONFIG_FILE, json.dumps({**known, part: dict(sizes)}, indent=1))


@dataclass(frozen=True)
class ModelParts:
    """The parts of a model and the command that trains them.

    Attributes:
        command: the training, such as `make train-<panel>`.
        stage_of: name of a part -> the stage of the training that makes it.
    """

    command: str
    stage_of: Mapping[str, str]

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages, in the order of their first parts."""
        return tuple(dict.fromkeys(self.stage_of.values()))

    def folder(self, path: Path, *, hint: str = "give a folder that it wrote") -> "ModelFolder":
        """The model folder at `path`; `hint` completes the error message of a folder without a model."""
        return ModelFolder(path, self, hint=hint)

    def train_command(self, part: str | None = None) -> str:
        """The command that trains one part; the whole model for None or an unknown part."""
        return self.command if part is None or part not in self.stage_of else f'{self.command} ARGS="stages=[{self.stage_of[part]}]"'

    def made_by(self, stage: str) -> list[str]:
        """The parts that a stage makes."""
        return [part for part, own in self.stage_of.items() if own == stage]


class ModelFolder:
    """A model as files: `<part>.safetensors` for each of its parts, and their sizes in `config.json`.

    Args:
        path: the folder.
        parts: parts of the model and the command that trains them, for error messages.
        hint: the remedy besides training, if the folder holds no model.
    """

    def __init__(self, path: Path, parts: ModelParts, *, hint: str) -> None:
        self.path = path
        self.parts = parts
        self._hint = hint

    def has(self, part: str) -> bool:
        """Whether the folder has the weights of a part."""
        return (self.path / f"{part}.safetensors").is_file()

    def save(self, part: str, module: nn.Module, sizes: Mapping[str, Any]) -> None:
        """Writes the weights of one part and its sizes; each file atomically."""
        write_part(self.path, part, module.state_dict(), sizes)

    def load(self, part: str, module: nn.Module) -> None:
        """Fills one part from its file, in the part's own precision, and leaves it in evaluation mode.

        Raises:
            UserError: if the file is missing, damaged or of another shape.
        """
        path = self.path / f"{part}.safetensors"
        fill_strictly(module, read_safetensors(path), str(path))
        module.eval()

    def sizes(self) -> dict[str, dict[str, Any]]:
        """The sizes of all parts.

        Raises:
            UserError: if the folder holds no model.
        """
        path = self.path / CONFIG_FILE
        if not path.is_file():
            raise UserError(f"{self.path} holds no model (no {CONFIG_FILE}): train one with '{self.parts.train_command()}'; {self._hint}")
        sizes = read_json(path, "train the model again")
        if not isinstance(sizes, dict) or not all(isinstance(part, dict) for part in sizes.values()):
            raise UserError(f"{path} is not a table of the model's parts: train the model again")
        return sizes

    def sizes_of(self, part: str) -> dict[str, Any]:
        """The sizes of one part.

        Raises:
            UserError: if the folder holds no model, or none of this part.
        """
        sizes = self.sizes()
        if part not in sizes:
            raise UserError(f"{self.path / CONFIG_FILE} has no entry for the {part}: train it with '{self.parts.train_command(part)}'")
        return dict(sizes[part])

    def config_of(self, part: str, kind: Callable[..., SizesT], sizes: Mapping[str, Any] | None = None) -> SizesT:
        """The settings of one part, made by `kind` from its sizes.

        Args:
            part: name of the part.
            kind: dataclass or function that takes the sizes.
            sizes: sizes to pass; None for all sizes of the part.

        Raises:
            UserError: if there is no such part, or a size is unknown or not a number.
        """
        sizes = self.sizes_of(part) if sizes is None else sizes
        known = set(signature(kind).parameters)
        unknown = sorted(set(sizes) - known)
        if unknown:
            raise UserError(f"{self.path / CONFIG_FILE} gives the {part} the size '{unknown[0]}': it has {', '.join(sorted(known))}")
        wrong = [key for key, value in sizes.items() if not isinstance(value, bool | int | float | list)]
        if wrong:
            raise UserError(f"{self.path / CONFIG_FILE} gives the {part} {wrong[0]}={sizes[wrong[0]]!r}: it must be a number")
        return kind(**sizes)

    def hash(self, part: str) -> str:
        """SHA-256 of the weights of one part.

        Raises:
            UserError: if the folder has no such part.
        """
        self.sizes_of(part)
        path = self.path / f"{part}.safetensors"
        if not path.is_file():
            raise UserError(f"there are no weights at {path}: train them with '{self.parts.train_command(part)}'")
        return sha256(path)
