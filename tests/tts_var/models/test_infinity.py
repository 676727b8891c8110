"""Infinity's transformer, quantizer, tokenizer and sampling against recordings of the released code, and their properties.

Tolerances are those suggested with the recordings (logits 2e-4, hidden 5e-4, images 1e-4): float32 sums in another order.
"""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from recordings import Golden
from triptych.errors import UserError
from tts_var.models.autoencoder import INFINITY_TOKENIZERS, BinaryTokenizer
from tts_var.models.flops import decoder_flops
from tts_var.models.infinity import INFINITY_SIZES, InfinityGenerator, InfinitySampling, InfinityTransformer, tokens_of
from tts_var.models.layers import rotary_angles
from tts_var.models.loading import load_binary_tokenizer, load_infinity_transformer
from tts_var.models.quantizers import bits_to_integers, codes_from_bits, integers_to_bits, pool, quantize_bits, resize
from tts_var.models.random_streams import KeyedStreams, SharedStream
from tts_var.models.templates import infinity_scales
from tts_var.models.text import TextFeatures
from tts_var.numerics.scales import ScaleTable
from tts_var.search import Search
from tts_var.testing import tiny_generator
from tts_var.training.transformer_stage import bit_losses, token_weights

PROMPTS = ["a circle", "two red circles left of a blue square"]
LOGITS = {"atol": 2e-4, "rtol": 0.0}
HIDDEN = {"atol": 5e-4, "rtol": 0.0}
IMAGES = {"atol": 1e-4, "rtol": 0.0}


def scales_of(config: dict[str, Any]) -> ScaleTable:
    return infinity_scales(config["pn"], ratio=config["ratio"], patch=2 if config["patchify"] else 1)


def padded(texts: list[Tensor]) -> TextFeatures:
    longest = max(len(text) for text in texts)
    values = torch.stack([torch.nn.functional.pad(text, (0, 0, 0, longest - len(text))) for text in texts])
    return TextFeatures(values, torch.stack([torch.arange(longest) < len(text) for text in texts]))


def texts_of(recorded: dict[str, Tensor], kind: str = r"text\.") -> TextFeatures:
    """The recorded features of all prompts, or of the negative ones: tensors that are named by `kind` and their number."""
    numbered = {int(match[1]): value for key, value in recorded.items() if (match := re.fullmatch(rf"{kind}(\d+)", key))}
    assert numbered, f"the recording has no tensor {kind}<number>"
    return padded([numbered[number] for number in sorted(numbered)])


def generator_of(golden: Golden, infinity_variant: str, **sampling: Any) -> tuple[InfinityGenerator, dict[str, Any]]:
    config = golden(f"infinity/{infinity_variant}.config")
    transformer = load_infinity_transformer(golden(f"infinity/{infinity_variant}.transformer"), scales_of(config))
    tokenizer = load_binary_tokenizer(golden(f"infinity/{infinity_variant}.vae"))
    settings = {"guidance": tuple(config["cfg"]), "temperature": tuple(config["tau"]), "top_k": config["top_k"], "top_p": config["top_p"]}
    generator = InfinityGenerator(transformer, tokenizer, None, InfinitySampling(**{**settings, **sampling}))  # type: ignore[arg-type]
    return generator, config


def test_grids_are_the_recorded_ones(golden: Golden, infinity_variant: str) -> None:
    config = golden(f"infinity/{infinity_variant}.config")
    scales = scales_of(config)
    assert [[1, *grid] for grid in scales.grids] == config["scale_schedule"]
    assert [[1, *grid] for grid in scales.latent_grids] == config["vae_scale_schedule"]
    assert scales.num_tokens == config["seq_len"]


def test_tokenizer_reproduces_the_recording(golden: Golden, infinity_variant: str) -> None:
    tokenizer = load_binary_tokenizer(golden(f"infinity/{infinity_variant}.vae"))
    scales = scales_of(golden(f"infinity/{infinity_variant}.config"))
    recorded = golden(f"infinity/{infinity_variant}.vae_io")
    with torch.no_grad():
        features = tokenizer.encode(recorded["image"])
        torch.testing.assert_close(features, recorded["raw_features"], **IMAGES)
        quantized = quantize_bits(recorded["raw_features"], scales.latent_grids)
        for scale, bits in enumerate(quantized.bits):
            assert torch.equal(bits, recorded[f"bits.{scale}"][:, 0]), scale
        torch.testing.assert_close(quantized.latent, recorded["quantized_sum"], atol=2e-6, rtol=0)
        for scale, prefix in enumerate(quantized.prefixes):
            area = recorded[f"area_inputs.{scale}"]
            torch.testing.assert_close(pool(prefix, scales.latent_grids[scale + 1]), area.view(*area.shape[:2], *area.shape[-2:]), **IMAGES)
        torch.testing.assert_close(tokenizer.decode(quantized.latent), recorded["decoded"], **IMAGES)


def test_bits_codes_and_labels_agree(golden: Golden, infinity_variant: str) -> None:
    recorded = golden(f"infinity/{infinity_variant}.vae_io")
    bits = recorded["rt.bits"]
    assert torch.equal(bits_to_integers(bits), recorded["rt.int_label"])
    assert torch.equal(integers_to_bits(recorded["rt.int_label"], bits.shape[-1]), bits)
    torch.testing.assert_close(codes_from_bits(bits).permute(0, 4, 1, 2, 3), recorded["rt.codes"], atol=1e-6, rtol=0)


def test_teacher_forced_logits_reproduce_the_recording(golden: Golden, infinity_variant: str) -> None:
    generator, _ = generator_of(golden, infinity_variant)
    model, recorded = generator.transformer, golden(f"infinity/{infinity_variant}.teacher")
    text = texts_of(recorded)
    angles = rotary_angles(generator.scales, model.config.width // model.config.num_heads)
    assert torch.equal(angles.cos(), recorded["rope.cos"].view_as(angles))
    assert torch.equal(angles.sin(), recorded["rope.sin"].view_as(angles))
    with torch.no_grad():
        condition = model.condition(text)
        torch.testing.assert_close(condition.pooled, recorded["mid.pooled"], **HIDDEN)
        torch.testing.assert_close(condition.modulation, recorded["mid.shared_ada"].view_as(condition.modulation), **HIDDEN)
        for inputs, logits, features in (
            ("x_in", "logits", text),
            ("x_in", "logits_uncond", model.unconditional(text.mask)),
            ("bsc.x_in", "bsc.logits", text),
        ):
            found = model(recorded[inputs], features).flatten(2)
            torch.testing.assert_close(found, recorded[logits], **LOGITS)


def test_self_correction_reproduces_the_recording(golden: Golden, infinity_variant: str) -> None:
    scales = scales_of(golden(f"infinity/{infinity_variant}.config"))
    recorded, io = golden(f"infinity/{infinity_variant}.teacher"), golden(f"infinity/{infinity_variant}.vae_io")

    def flip(scale: int, bits: Tensor) -> Tensor:
        key = f"bsc.flipped.{scale}"
        return recorded[key].view(bits.shape) if key in recorded else bits

    for inputs, targets, perturb in (("x_in", "bits", None), ("bsc.x_in", "bsc.bits", flip)):
        quantized = quantize_bits(io["raw_features"], scales.latent_grids, perturb)
        tokens = [
            tokens_of(resize(prefix, scales.latent_grids[scale + 1]), scales.patch) for scale, prefix in enumerate(quantized.prefixes)
        ]
        torch.testing.assert_close(torch.cat(tokens, dim=1), recorded[inputs], atol=2e-6, rtol=0)
        bits = [tokens_of(found.permute(0, 3, 1, 2).float(), scales.patch) for found in quantized.bits]
        assert torch.equal(torch.cat(bits, dim=1).to(torch.uint8), recorded[targets])


def test_hidden_states_reproduce_the_recording(golden: Golden, infinity_variant: str) -> None:
    generator, _ = generator_of(golden, infinity_variant)
    model, recorded = generator.transformer, golden(f"infinity/{infinity_variant}.teacher")
    text, seen = texts_of(recorded), {}
    for name, block in (("mid.block_first", model.blocks[0]), ("mid.block_last", model.blocks[-1])):
        block.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output[0]}))
    model.text_proj_for_ca.register_forward_hook(
        lambda module, inputs, output: seen.update({"mid.text_norm": inputs[0], "mid.ca_kv": output})
    )
    with torch.no_grad():
        model(recorded["x_in"], text)
    # The recording concatenates the valid tokens of all prompts.
    seen |= {name: seen[name][text.mask] for name in ("mid.text_norm", "mid.ca_kv")}
    for name, found in seen.items():
        torch.testing.assert_close(found, recorded[name], **HIDDEN, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("where", ["logits", "layers"])
def test_sampling_reproduces_the_recording(golden: Golden, infinity_variant: str, where: str) -> None:
    name = f"infinity/{infinity_variant}.sample" + ("_layercfg" if where == "layers" else "")
    if not golden.has(name):
        pytest.skip(f"there is no recording {name}")
    config = golden(f"infinity/{infinity_variant}.config")
    layers = tuple(config["layercfg" if where == "layers" else "cfg_insertion_layer"])
    generator, _ = generator_of(golden, infinity_variant, guidance_layers=layers)
    texts, recorded = golden(f"infinity/{infinity_variant}.teacher"), golden(name)
    negative = texts_of({**texts, **recorded}, r".*neg.*?\.") if config["negative"] else None
    condition = generator.condition(texts_of(texts), negative)
    particles = generator.start(condition, 1)
    streams = SharedStream(torch.Generator().manual_seed(config["g_seed"]))
    for scale in range(len(generator.scales)):
        logits, cache = generator.next_logits(particles, condition)
        torch.testing.assert_close(logits.flatten(2), recorded[f"logits_cfg.{scale}"], **LOGITS)
        bits = generator.sample(logits, scale, streams)
        assert torch.equal(bits, recorded[f"bits.{scale}"][:, 0]), scale
        particles = generator.extend(particles, bits, cache)
    if "decoded" in recorded:
        torch.testing.assert_close(particles.latent, recorded["summed_codes"], atol=2e-6, rtol=0)
        torch.testing.assert_close(generator.decode(particles.latent) * 2 - 1, recorded["decoded"], **IMAGES)


@pytest.mark.parametrize(
    ("size", "num_parameters", "num_tensors"),
    [("2B", 2.2046e9, 694), ("8B", 8.3758e9, 862), ("layer12", 0.125e9, None), ("layer48", 8.767e9, None)],
)
def test_released_sizes_are_the_same_classes(size: str, num_parameters: float, num_tensors: int | None) -> None:
    with torch.device("meta"):
        model = InfinityTransformer(INFINITY_SIZES[size], infinity_scales("1M", patch=2 if size == "8B" else 1))
    # The published counts have 3 to 5 digits.
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(
        num_parameters, rel=5e-3 if num_tensors is None else 2e-5
    )
    if num_tensors is not None:
        buffers = sum("zero_k_bias" in name for name, _ in model.named_buffers())
        assert len(model.state_dict()) == num_tensors, buffers


@pytest.mark.parametrize(("weighting", "recording"), [("per_scale", "loss.reweight"), ("uniform", "loss.plain")])
def test_losses_are_the_recorded_ones(golden: Golden, infinity_variant: str, weighting: str, recording: str) -> None:
    scales, recorded = scales_of(golden(f"infinity/{infinity_variant}.config")), golden(f"infinity/{infinity_variant}.teacher")
    logits = recorded["logits"].unflatten(-1, (-1, 2))
    loss = (bit_losses(logits, recorded["bits"]) * token_weights(scales, weighting)).sum(1).mean()
    assert float(loss) == pytest.approx(float(recorded[recording]), abs=1e-5)


@pytest.mark.parametrize(("side", "tflops"), [(16, 0.616), (64, 9.85)])
def test_decoder_flops_are_the_measured_ones(side: int, tflops: float) -> None:
    assert decoder_flops(INFINITY_TOKENIZERS["d32"], (side, side)) / 1e12 == pytest.approx(tflops, rel=2e-3)


def test_the_flops_of_an_image_of_the_2b_model_are_the_measured_ones() -> None:
    with torch.device("meta"):
        transformer = InfinityTransformer(INFINITY_SIZES["2B"], infinity_scales("1M"))
        tokenizer = BinaryTokenizer(INFINITY_TOKENIZERS["d32"])
    generator = InfinityGenerator(transformer, tokenizer, None, InfinitySampling())  # type: ignore[arg-type]
    with torch.device("meta"):
        condition = generator.condition(TextFeatures(torch.empty(1, 20, 2048), torch.ones(1, 20, dtype=torch.bool)))
    total = sum(generator.advance_flops(scale, condition) for scale in range(13)) / 1e12
    assert total == pytest.approx(115, abs=0.5)


def test_released_tokenizers_are_the_same_classes() -> None:
    for name, num_parameters, num_tensors in (("d32", 110.1e6, 270), ("d56_patchify", 81.6e6, 226)):
        with torch.device("meta"):
            tokenizer = BinaryTokenizer(INFINITY_TOKENIZERS[name])
        assert sum(parameter.numel() for parameter in tokenizer.parameters()) == pytest.approx(num_parameters, rel=1e-3)
        # The released files contain the bit weights twice in addition.
        assert len(tokenizer.state_dict()) + 2 == num_tensors


def test_cached_sampling_has_the_teacher_forced_logits() -> None:
    generator = tiny_generator()
    prompts = ["a circle", "two red circles left of a blue square"]
    text = generator.text_encoder.encode(prompts)
    condition = generator.encode(prompts)
    particles = generator.start(condition, 1)
    stepwise, inputs = [], []
    for scale in range(len(generator.scales)):
        if scale:
            inputs.append(tokens_of(resize(particles.latent, generator.scales.latent_grids[scale]), 1))
        logits, cache = generator.next_logits(particles, condition)
        stepwise.append(logits)
        particles = generator.extend(particles, generator.sample(logits, scale, KeyedStreams([1, 2])), cache)
    with torch.no_grad():
        conditional = generator.transformer(torch.cat(inputs, dim=1), text)
        unconditional = generator.transformer(torch.cat(inputs, dim=1), generator.transformer.unconditional(text.mask))
    expected = 2.0 * conditional - unconditional
    torch.testing.assert_close(torch.cat(stepwise, dim=1), expected, atol=1e-4, rtol=0)


def test_padding_of_the_text_does_not_leak() -> None:
    generator = tiny_generator()
    values = torch.randn(2, 9, 128, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor([[3], [9]])
    alone = generator.condition(TextFeatures(values[:1, :3], mask[:1, :3]))
    beside = generator.condition(TextFeatures(values, mask))
    torch.testing.assert_close(beside.text.pooled[0], alone.text.pooled[0], atol=1e-6, rtol=0)
    first, _ = generator.next_logits(generator.start(alone, 1), alone)
    both, _ = generator.next_logits(generator.start(beside, 1), beside)
    torch.testing.assert_close(both[0], first[0], atol=1e-5, rtol=0)


def test_half_precision_is_close_to_full() -> None:
    full, half = tiny_generator(), tiny_generator()
    half.transformer.bfloat16()
    half.tokenizer.bfloat16()
    first, second = (model.next_logits(model.start(model.encode(PROMPTS), 2), model.encode(PROMPTS))[0] for model in (full, half))
    assert second.dtype == torch.float32
    # bfloat16 has 8 bits of mantissa: 2^-8 of the logits' size, over two blocks.
    torch.testing.assert_close(second, first, atol=0.05 * float(first.abs().max()), rtol=0)
    [result] = Search(half).run(PROMPTS[:1])
    assert result.image.dtype == torch.float32
    assert half.cache_bytes(3) == full.cache_bytes(3) // 2
    condition, particles = half.encode(PROMPTS), half.start(half.encode(PROMPTS), 1)
    particles = half.advance(particles, condition, KeyedStreams([1, 2]))
    assert {tensor.dtype for pair in particles.cache for tensor in pair} == {torch.bfloat16}


@pytest.mark.parametrize("negatives", [["a ring"], ["a ring", "a long negative prompt"]], ids=["one for all", "one each"])
def test_a_negative_prompt_takes_the_place_of_the_unconditional_rows(negatives: list[str]) -> None:
    """Guided logits are 2 z(prompt) - z(negative prompt), each from its own text of its own length."""
    guided, plain = tiny_generator(), tiny_generator()
    plain.sampling = InfinitySampling(guidance=1.0)
    features = {
        text: TextFeatures(values[None, : len(text)], mask[None, : len(text)]) for text, values, mask in encoded([*PROMPTS, *negatives])
    }
    text, negative = (padded([features[name].values[0] for name in names]) for names in (PROMPTS, negatives))
    condition = guided.condition(text, negative)
    assert condition.num_branches == 2
    found, _ = guided.next_logits(guided.start(condition, 1), condition)
    for row, prompt in enumerate(PROMPTS):
        parts = []
        for name in (prompt, negatives[row % len(negatives)]):
            alone = plain.condition(features[name])
            parts.append(plain.next_logits(plain.start(alone, 1), alone)[0][0])
        torch.testing.assert_close(found[row], 2 * parts[0] - parts[1], atol=1e-5, rtol=0)


def encoded(texts: list[str]) -> list[tuple[str, Tensor, Tensor]]:
    features = tiny_generator().text_encoder.encode(texts)
    return list(zip(texts, features.values, features.mask, strict=True))


def test_a_generator_with_a_negative_prompt_encodes_it_and_checks_it() -> None:
    generator = tiny_generator()
    own = InfinityGenerator(
        generator.transformer, generator.tokenizer, generator.text_encoder, generator.sampling, negative_prompt="a ring"
    )
    condition = own.encode(PROMPTS)
    expected = generator.condition(generator.text_encoder.encode(PROMPTS), generator.text_encoder.encode(["a ring"]))
    assert torch.equal(condition.text.pooled, expected.text.pooled)
    assert not torch.equal(condition.text.pooled, generator.encode(PROMPTS).text.pooled)
    with pytest.raises(UserError, match="a prompt is empty"):
        InfinityGenerator(generator.transformer, generator.tokenizer, generator.text_encoder, generator.sampling, negative_prompt="").check(
            PROMPTS
        )
    with pytest.raises(UserError, match="the negative prompt 'a ring' has no effect at guidance 1"):
        InfinityGenerator(
            generator.transformer, generator.tokenizer, generator.text_encoder, InfinitySampling(guidance=1.0), negative_prompt="a ring"
        )
    with pytest.raises(UserError, match="3 negative prompts for 2 prompts"):
        generator.condition(generator.text_encoder.encode(PROMPTS), generator.text_encoder.encode(["a", "b", "c"]))
