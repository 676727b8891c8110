"""Loading of the small world's model: the shipped weights, or a folder written by `make train-var`."""

from functools import partial
from pathlib import Path

import torch

from triptych.checkpoint.model_folder import CONFIG_FILE
from triptych.checkpoint.packing import ShippedModel
from triptych.errors import UserError
from tts_var.models.folder import PARTS, load_tokenizer
from tts_var.models.infinity import InfinityGenerator, InfinitySampling, infinity_transformer
from tts_var.numerics.scales import square_scales
from tts_var.toy.text import WordEncoder

SHIPPED = ShippedModel(PARTS, "tts_var.toy", key="generator")


def load_small_world(
    path: str | Path | None = None,
    *,
    guidance: float = 2.5,
    temperature: float = 0.75,
    top_k: int = 0,
    top_p: float = 0.0,
    device: torch.device | str = "cpu",
) -> InfinityGenerator:
    """The small world's generator: text to images of 64 x 64 pixels.

    Args:
        path: a folder written by `make train-var`; None for the shipped weights.
        guidance: classifier-free guidance at every scale.
        temperature: temperature of the logits at every scale.
        top_k: number of classes per bit kept; 0 keeps both.
        top_p: probability mass kept; 0 keeps all.
        device: device of the model.

    Raises:
        UserError: if the folder contains no model, or a file is damaged or has tensors of another shape.
    """
    folder = SHIPPED.folder(path)
    tokenizer = load_tokenizer(folder)
    sizes = folder.sizes_of("transformer")
    if not {"sides", "patch"} <= sizes.keys():
        raise UserError(f"{folder.path / CONFIG_FILE} lacks sides and patch of the transformer: train the model again")
    scales = square_scales(sizes.pop("sides"), patch=sizes.pop("patch"))
    # Folders of the first version store the depth of the text encoder among the sizes of the transformer.
    encoder_sizes = {"num_layers": sizes.pop("text_layers", None), "width": sizes.get("text_width")}
    encoder_sizes = folder.sizes_of("text_encoder") or {key: value for key, value in encoder_sizes.items() if value is not None}
    build = partial(infinity_transformer, scales, latent_channels=tokenizer.config.latent_channels)
    transformer = folder.config_of("transformer", build, sizes)
    encoder = folder.config_of("text_encoder", WordEncoder, encoder_sizes)
    folder.load("transformer", transformer)
    folder.load("text_encoder", encoder)
    sampling = InfinitySampling(guidance, temperature, top_k, top_p)
    return InfinityGenerator(transformer.to(device), tokenizer.to(device), encoder.to(device), sampling)
