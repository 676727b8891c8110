"""`triptych pack`: writes a trained model as the folder that a package ships."""

import argparse
from importlib.metadata import entry_points
from pathlib import Path

from triptych.checkpoint.packing import SHIPPED_MODELS, ShippedModel, add_evaluation, pack
from triptych.commands.main import Verbs


def _pack(arguments: argparse.Namespace) -> str:
    model: ShippedModel = entry_points(group=SHIPPED_MODELS)[arguments.model].load()
    if arguments.evaluation:
        record = add_evaluation(arguments.target, arguments.evaluation, key=model.key, shipped=model.folder().path)
    else:
        record = pack(arguments.run, model.folder(arguments.run / "model"), arguments.target)
    total = sum(entry["bytes"] for entry in record["files"].values())
    return f"{arguments.target}: {len(record['files'])} files, {total / 1e6:.1f} MB"


def register(verbs: Verbs) -> None:
    """Adds the subcommand `pack`."""
    parser = verbs.add_parser("pack", help="write a trained model as the folder that a package ships")
    parser.add_argument("model", choices=sorted(entry_points(group=SHIPPED_MODELS).names), help="name of the shipped model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=Path, help="folder of the training, outputs/<name>")
    source.add_argument("--evaluation", type=Path, help="folder of an evaluation of the packed model")
    parser.add_argument("target", type=Path, help="folder to write")
    parser.set_defaults(answer=_pack)
