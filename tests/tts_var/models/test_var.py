"""VAR's transformer, quantizer, tokenizer and sampling against recordings of the released code."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from recordings import Golden
from triptych.errors import UserError
from tts_var.models.autoencoder import VAR_TOKENIZER, VectorTokenizer
from tts_var.models.loading import load_var_transformer, load_vector_tokenizer
from tts_var.models.quantizers import VectorQuantizer, pool
from tts_var.models.random_streams import KeyedStreams, SharedStream
from tts_var.models.templates import VAR_SIDES
from tts_var.models.var import VAR_SIZES, VARConfig, VARGenerator, VARSampling, VARTransformer
from tts_var.numerics.scales import square_scales
from tts_var.search import Search
from tts_var.testing import tiny_var

# Suggested with the recordings: float32 sums in another order.
LOGITS = {"atol": 2e-4, "rtol": 0.0}
HIDDEN = {"atol": 5e-4, "rtol": 0.0}
IMAGES = {"atol": 1e-5, "rtol": 0.0}


def generator_of(golden: Golden, var_variant: str) -> tuple[VARGenerator, dict[str, Any]]:
    config = golden(f"var/{var_variant}.config")
    scales = square_scales(config["patch_nums"])
    transformer = load_var_transformer(golden(f"var/{var_variant}.transformer"), scales, num_heads=config["num_heads"])
    tokenizer = load_vector_tokenizer(
        golden(f"var/{var_variant}.vae"), num_scales=len(scales), cosine=config["using_znorm"], ratio=abs(config["quant_resi"])
    )
    return VARGenerator(transformer, tokenizer, VARSampling(config["cfg"], config["top_k"], config["top_p"])), config


def test_tokenizer_reproduces_the_recording(golden: Golden, var_variant: str) -> None:
    generator, config = generator_of(golden, var_variant)
    recorded, tokenizer = golden(f"var/{var_variant}.vae_io"), generator.tokenizer
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
        nearest = min(range(len(ticks)), key=lambda index, scale=scale: abs(ticks[index] - scale / (num_scales - 1)))
        assert tokenizer.quantize.convolution(scale, num_scales) is tokenizer.quantize.convolutions[nearest]


def test_teacher_forced_logits_reproduce_the_recording(golden: Golden, var_variant: str) -> None:
    generator, config = generator_of(golden, var_variant)
    recorded = golden(f"var/{var_variant}.teacher")
    with torch.no_grad():
        logits = generator.transformer(recorded["x_in"], recorded["labels"].long())
        torch.testing.assert_close(logits, recorded["logits"], **LOGITS)
        empty = torch.full_like(recorded["labels"], config["num_classes"]).long()
        torch.testing.assert_close(generator.transformer(recorded["x_in"], empty), recorded["logits_uncond"], **LOGITS)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), recorded["idx"].long().flatten())
    assert float(loss) == pytest.approx(float(recorded["loss"]), abs=1e-5)


def test_hidden_states_reproduce_the_recording(golden: Golden, var_variant: str) -> None:
    generator, _ = generator_of(golden, var_variant)
    model, recorded, seen = generator.transformer, golden(f"var/{var_variant}.teacher"), {}
    for name, block in (("mid.block_first", model.blocks[0]), ("mid.block_last", model.blocks[-1])):
        block.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output[0]}))
    with torch.no_grad():
        model(recorded["x_in"], recorded["labels"].long())
    for name, found in seen.items():
        torch.testing.assert_close(found, recorded[name], **HIDDEN, msg=lambda text, name=name: f"{name}: {text}")


def test_sampling_reproduces_the_recording(golden: Golden, var_variant: str) -> None:
    generator, config = generator_of(golden, var_variant)
    recorded = golden(f"var/{var_variant}.sample")
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


def test_half_precision_is_close_to_full() -> None:
    full, half = tiny_var(), tiny_var()
    half.transformer.bfloat16()
    half.tokenizer.bfloat16()
    logits = []
    for model in (full, half):
        condition = model.encode(["0", "1"])
        first = model.advance(model.start(condition, 2), condition, KeyedStreams([1, 2]))
        logits.append(model.next_logits(replace(first, latent=torch.ones_like(first.latent)), condition)[0])
    assert logits[1].dtype == torch.float32
    # bfloat16 has 8 bits of mantissa: 2^-8 of the logits' size, over the blocks.
    torch.testing.assert_close(logits[1], logits[0], atol=0.05 * float(logits[0].abs().max()), rtol=0)
    [result] = Search(half).run(["0"])
    assert result.image.dtype == torch.float32
    assert half.cache_bytes(3) == full.cache_bytes(3) // 2


def test_codes_are_looked_up_by_cosine_or_by_distance() -> None:
    codes = torch.tensor([[5.0, 5.0], [1.0, 0.0]])
    cell = torch.tensor([1.0, 1.0]).view(1, 2, 1, 1)  # nearest to the first code by angle, to the second by distance
    for cosine, expected in ((True, 0), (False, 1)):
        quantizer = VectorQuantizer(2, 2, num_convolutions=1, cosine=cosine)
        quantizer.embedding.weight.data = codes
        assert quantizer.quantize(cell, [(1, 1)]).indices[0].item() == expected


def test_a_model_without_normalised_attention_needs_its_number_of_heads() -> None:
    config = VARConfig(2, 32, 4, num_codes=8, code_width=4, num_classes=3, normalise=False)
    scales = square_scales([1, 2])
    state = VARTransformer(config, scales).state_dict()
    with pytest.raises(UserError, match="give num_heads"):
        load_var_transformer(state, scales)
    with pytest.raises(UserError, match="num_heads is 5"):
        load_var_transformer(state, scales, num_heads=5)
    assert load_var_transformer(state, scales, num_heads=4).config == config
    normalised = VARTransformer(replace(config, normalise=True), scales).state_dict()
    with pytest.raises(UserError, match="num_heads is 2 but the weights has a width of 32 and 4 heads"):
        load_var_transformer(normalised, scales, num_heads=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"guidance": float("nan")}, "guidance is nan"), ({"top_p": 7.0}, "top_p is 7.0"), ({"top_k": -1}, "top_k is -1")],
)
def test_sampling_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        VARSampling(**settings)  # type: ignore[arg-type]
