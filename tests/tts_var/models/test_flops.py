"""Decoder operations against those that PyTorch counts while a decoder runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tts_var.models.autoencoder import AutoencoderConfig, BinaryTokenizer, VectorTokenizer
from tts_var.models.flops import decoder_flops
from tts_var.models.quantizers import VectorQuantizer


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize(("multipliers", "blocks", "grid"), [((1,), 1, (3, 5)), ((1, 2), 2, (4, 4)), ((1, 2, 4), 1, (2, 3))])
def test_operations_are_those_that_pytorch_counts(
    attention: bool, multipliers: tuple[int, ...], blocks: int, grid: tuple[int, int]
) -> None:
    config = AutoencoderConfig(6, 8, multipliers, blocks, attention, norm_groups=4)
    # VAR's tokenizer has attention and a convolution before the decoder, Infinity's has neither.
    tokenizer = VectorTokenizer(config, VectorQuantizer(4, 6)) if attention else BinaryTokenizer(config)
    counter = FlopCounterMode(display=False)
    with torch.device("meta"):
        latent = torch.empty(1, 6, *grid)
    with counter:
        tokenizer.to("meta").decode(latent)
    assert decoder_flops(config, grid) == counter.get_total_flops()
