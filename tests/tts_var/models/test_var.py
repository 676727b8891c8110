"""VAR's transformer, quantizer, tokenizer and sampling against recordings of the released code."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tts_var.models.autoencoder import VAR_TOKENIZER, VectorTokenizer
from tts_var.models.loading import load_var_transformer, load_vector_tokenizer
from tts_var.models.quantizers import VectorQuantizer, pool
from tts_var.models.random_streams import SharedStream
from tts_var.models.templates import VAR_SIDES
from tts_var.models.var import VAR_SIZES, VARGenerator, VARSampling, VARTransformer
from tts_var.numerics.scales import square_scales

Golden = Callable[[str], dict[str, Any]]
VARIANTS = ("plain", "shared")

# Suggested with the recordings: float32 sums in another order.
LOGITS = {"atol": 2e-4, "rtol": 0.0}
IMAGES = {"atol": 1e-5, "rtol": 0.0}


def generator_of(golden: Golden, variant: str) -> tuple[VARGenerator, dict[str, Any]]:
    config = golden(f"var/{variant}.config")
    scales = square_scales(config["patch_nums"])
    transformer = load_var_transformer(golden(f"var/{variant}.transformer"), scales)
    tokenizer = load_vector_tokenizer(golden(f"var/{variant}.vae"), num_scales=len(scales))
    return VARGenerator(transformer, tokenizer, VARSampling(config["cfg"], config["top_k"], config["top_p"])), config


@pytest.mark.parametrize("variant", VARIANTS)
def test_tokenizer_reproduces_the_recording(golden: Golden, variant: str) -> None:
    generator, config = generator_of(golden, variant)
    recorded, tokenizer = golden(f"var/{variant}.vae_io"), generator.tokenizer
    with torch.no_grad():
        torch.testing.assert_close(tokenizer.encode(recorded["image"]), recorded["features"], **IMAGES)
        quantized = tokenizer.quantize.quantize(recorded["features"], generator.scales.grids)
        for scale, prefix in enumerate(quantized.prefixes):
            assert torch.equal(quantized.indices[scale], recorded[f"idx.{scale}"].long()), scale
            torch.testing.assert_close(prefix, recorded[f"fhat.{scale}"], **IMAGES)
        grids = generator.scales.grids[1:]
        inputs = [pool(prefix, grid).flatten(2).transpose(1, 2) for prefix, grid in zip(quantized.prefixes, grids, strict=False)]
        torch.testing.assert_close(torch.cat(inputs, dim=1), recorded["x_in"], **IMAGES)
        torch.testing.assert_close(tokenizer.decode(quantized.prefixes[-1]), recorded["decoded_last"], **IMAGES)
    num_scales, ticks = len(generator.scales), config["phi_ticks"]
    for scale in range(num_scales):
        nearest = min(range(4), key=lambda index, scale=scale: abs(ticks[index] - scale / (num_scales - 1)))
        assert tokenizer.quantize.convolution(scale, num_scales) is tokenizer.quantize.convolutions[nearest]


@pytest.mark.parametrize("variant", VARIANTS)
def test_teacher_forced_logits_reproduce_the_recording(golden: Golden, variant: str) -> None:
    generator, config = generator_of(golden, variant)
    recorded = golden(f"var/{variant}.teacher")
    with torch.no_grad():
        logits = generator.transformer(recorded["x_in"], recorded["labels"].long())
        torch.testing.assert_close(logits, recorded["logits"], **LOGITS)
        empty = torch.full_like(recorded["labels"], config["num_classes"]).long()
        torch.testing.assert_close(generator.transformer(recorded["x_in"], empty), recorded["logits_uncond"], **LOGITS)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), recorded["idx"].long().flatten())
    assert float(loss) == pytest.approx(float(recorded["loss"]), abs=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_sampling_reproduces_the_recording(golden: Golden, variant: str) -> None:
    generator, config = generator_of(golden, variant)
    recorded = golden(f"var/{variant}.sample")
    condition = generator.encode(config["labels"])
    particles = generator.start(condition, 1)
    streams = SharedStream(torch.Generator().manual_seed(config["g_seed"]))

    class Recording:
        """Compares the sampled indices with the recorded ones."""

        def classes(self, probabilities: torch.Tensor, *, scale: int) -> torch.Tensor:
            indices = streams.classes(probabilities, scale=scale)
            assert torch.equal(indices, recorded[f"idx.{scale}"].long()), scale
            return indices

    for scale in range(len(generator.scales)):
        logits, _ = generator.next_logits(particles, condition)
        torch.testing.assert_close(logits, recorded[f"logits_cfg.{scale}"], **LOGITS)
        particles = generator.advance(particles, condition, Recording())
    torch.testing.assert_close(particles.latent, recorded["f_hat"], **IMAGES)
    torch.testing.assert_close(generator.decode(particles.latent), recorded["image01"], **IMAGES)


@pytest.mark.parametrize(
    ("size", "millions", "num_tensors"), [("d16", 310.3, 220), ("d20", 600.9, 272), ("d24", 1033.4, 324), ("d30", 2010.0, 402)]
)
def test_released_sizes_are_the_same_classes(size: str, millions: float, num_tensors: int) -> None:
    with torch.device("meta"):
        model = VARTransformer(VAR_SIZES[size], square_scales(VAR_SIDES[256]))
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    # The released files contain two masks in addition.
    assert len(model.state_dict()) + 2 == num_tensors


def test_released_tokenizer_is_the_same_class() -> None:
    with torch.device("meta"):
        tokenizer = VectorTokenizer(VAR_TOKENIZER, VectorQuantizer(4096, 32))
    assert sum(parameter.numel() for parameter in tokenizer.parameters()) / 1e6 == pytest.approx(108.9, abs=0.1)
    assert len(tokenizer.state_dict()) + 1 == 324  # the released file contains the code hits in addition


def test_four_convolutions_are_shared_as_in_the_released_model() -> None:
    quantizer = VectorQuantizer(4, 4)
    chosen = [list(quantizer.convolutions).index(quantizer.convolution(scale, 10)) for scale in range(10)]
    assert chosen == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
