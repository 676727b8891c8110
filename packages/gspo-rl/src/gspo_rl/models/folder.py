"""What is in a folder that should hold a model in Hugging Face format, before it is loaded."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from triptych.errors import UserError
from triptych.files import read_json

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")
_LFS = b"version https://git-lfs"
_INDEX = "model.safetensors.index.json"


def check_path(path: str) -> None:
    """Refuses a path at which there is no model; a name of the hub passes.

    Args:
        path: a folder, or a name such as `Qwen/Qwen3-0.6B`.

    Raises:
        UserError: if there is no such folder, or see `check_folder`.
    """
    if Path(path).is_dir():
        check_folder(Path(path))
    elif Path(path).suffix == ".gguf":
        raise UserError(f"policy.path is '{path}', a GGUF file: triptych import-gguf {path} <folder>, and give that folder")
    elif path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise UserError(f"policy.path is '{path}': there is no such folder")


def check_folder(folder: Path) -> None:
    """Refuses what is no complete model in safetensors, and names what it is instead.

    Args:
        folder: an existing folder.

    Raises:
        UserError: for an adapter without its base model, a GGUF file, pickled weights, pointers of git-lfs, missing or truncated files, or
            where there is no tokenizer.
    """
    begin = f"policy.path is '{folder}'"
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        base = read_json(folder / "adapter_config.json", "give the folder of a whole model")
        name = base.get("base_model_name_or_path", "its base model") if isinstance(base, dict) else "its base model"
        raise UserError(f"{begin}, a LoRA adapter of {name}: merge it into that model (merge_and_unload of peft) and give the result")
    gguf = sorted(folder.glob("*.gguf"))
    if gguf and not (folder / "config.json").is_file():
        raise UserError(f"{begin}, which holds a GGUF file: triptych import-gguf {gguf[0]} <folder>, and give that folder")
    if not (folder / "config.json").is_file():
        raise UserError(f"{begin}, a folder without config.json: give a folder in Hugging Face format")
    for path in (folder / "config.json", *(folder / name for name in _TOKENIZER_FILES)):
        if path.is_file() and _is_pointer(path):
            raise UserError(f"{path} is a pointer of git-lfs instead of the file: run git lfs pull in {folder}")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise UserError(f"{begin}, a folder without a tokenizer: save the model's tokenizer beside it")
    _check_weights(folder, begin)


def _check_weights(folder: Path, begin: str) -> None:
    weights = sorted(folder.glob("*.safetensors"))
    if (folder / _INDEX).is_file():
        index = read_json(folder / _INDEX, "download it again")
        table = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(table, dict):
            raise UserError(f"{folder / _INDEX} is not the index of a model: download it again")
        missing = sorted({str(name) for name in table.values()} - {path.name for path in weights})
        if missing:
            more = f" and {len(missing) - 1} more of its weight files" if len(missing) > 1 else ""
            raise UserError(f"{begin}, which lacks {missing[0]}{more}: download what is missing")
    if not weights:
        pickled = sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
        if pickled:
            raise UserError(f"{begin}, whose weights are pickled ({pickled[0].name}) and could run code: convert them to safetensors first")
        raise UserError(f"{begin}, a folder without weights (*.safetensors): download them")
    for path in weights:
        if _is_pointer(path):
            raise UserError(f"{path} is a pointer of git-lfs instead of the weights: run git lfs pull in {folder}")
        try:
            with safe_open(path, framework="pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is truncated or damaged ({str(error).splitlines()[0]}): download it again") from None


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_LFS)) == _LFS
