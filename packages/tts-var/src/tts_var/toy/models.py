"""The small world's model: what the package ships, or what `make train-var` wrote."""

from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

import torch

from triptych.checkpoint.model_folder import CONFIG_FILE, ModelFolder
from triptych.checkpoint.packing import ShippedModel
from triptych.errors import UserError
from tts_var.models import folder as folders
from tts_var.models.folder import STAGE_OF, load_tokenizer
from tts_var.models.infinity import InfinityGenerator, InfinitySampling, infinity_transformer
from tts_var.numerics.scales import square_scales
from tts_var.toy.text import WordEncoder


def model_folder(path: str | Path | None = None) -> ModelFolder:
    """A folder that `make train-var` writes; None for the one that the package ships."""
    if path is None:
        return folders.model_folder(shipped_folder(), hint="the installation lacks its weights")
    return folders.model_folder(Path(path), hint="leave generator.path out for the shipped one")


def shipped_folder() -> Path:
    """The folder of the weights that the package ships."""
    with as_file(files("tts_var.toy") / "weights") as folder:
        return Path(folder)


SHIPPED = ShippedModel(model_folder, STAGE_OF, key="generator")


def load_small_world(
    path: str | Path | None = None,
    *,
    guidance: float = 2.5,
    temperature: float = 0.75,
    top_k: int = 0,
    top_p: float = 0.0,
    device: torch.device | str = "cpu",
) -> InfinityGenerator:
    """The small world's generator: text to pictures of 64 x 64 pixels.

    Args:
        path: a folder that `make train-var` wrote; None for the weights that the package ships.
        guidance: classifier-free guidance at every scale.
        temperature: of the logits at every scale.
        top_k: classes per bit that stay; 0 keeps both.
        top_p: probability mass that stays; 0 keeps all.
        device: where the model computes.

    Raises:
        UserError: if there is no model, or a file is damaged or of another shape.
    """
    folder = model_folder(path)
    tokenizer = load_tokenizer(folder)
    sizes = folder.sizes_of("transformer")
    if not {"sides", "patch"} <= sizes.keys():
        raise UserError(f"{folder.path / CONFIG_FILE} does not say the transformer's sides and patch: train the model again")
    scales = square_scales(sizes.pop("sides"), patch=sizes.pop("patch"))
    # Folders of the first version keep the text encoder's depth among the transformer's sizes.
    encoder_sizes = {"num_layers": sizes.pop("text_layers", None), "width": sizes.get("text_width")}
    encoder_sizes = folder.sizes_of("text_encoder") or {key: value for key, value in encoder_sizes.items() if value is not None}
    build = partial(infinity_transformer, scales, latent_channels=tokenizer.config.latent_channels)
    transformer = folder.config_of("transformer", build, sizes)
    encoder = folder.config_of("text_encoder", WordEncoder, encoder_sizes)
    folder.load("transformer", transformer)
    folder.load("text_encoder", encoder)
    sampling = InfinitySampling(guidance, temperature, top_k, top_p)
    return InfinityGenerator(transformer.to(device), tokenizer.to(device), encoder.to(device), sampling)
