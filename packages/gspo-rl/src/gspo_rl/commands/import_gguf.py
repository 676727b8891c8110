"""`triptych import-gguf`: a GGUF file as a folder in Hugging Face format."""

import argparse
import importlib
import os
from pathlib import Path

from triptych.commands.main import Verbs
from triptych.commands.messages import missing_library
from triptych.errors import UserError


def _import(arguments: argparse.Namespace) -> str:
    try:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, where it is installed, looks for a GPU and warns
        # The libraries of the module are optional.
        module = importlib.import_module("gspo_rl.models.gguf")
    except ModuleNotFoundError as error:
        raise UserError(missing_library(str(error.name))) from None
    folder = module.import_gguf(arguments.file, arguments.folder)
    return f"model  {folder}"


def register(verbs: Verbs) -> None:
    """Adds the subcommand `import-gguf`."""
    parser = verbs.add_parser("import-gguf", help="write the model of a GGUF file in Hugging Face format, dequantised")
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.set_defaults(answer=_import)
