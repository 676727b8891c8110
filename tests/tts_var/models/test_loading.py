"""Loading of released weights: sizes from shapes, released names, and refusals that name the tensor."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from triptych.errors import UserError
from tts_var.models.autoencoder import AutoencoderConfig, BinaryTokenizer, VectorTokenizer
from tts_var.models.infinity import InfinityConfig, InfinityTransformer
from tts_var.models.loading import (
    load_binary_tokenizer,
    load_infinity_transformer,
    load_var_transformer,
    load_vector_tokenizer,
    read_weights,
)
from tts_var.models.quantizers import VectorQuantizer
from tts_var.models.var import VARConfig, VARTransformer
from tts_var.numerics.scales import square_scales

SCALES = square_scales((1, 2))
INFINITY = InfinityConfig(4, 32, 2, 8, text_width=128, unconditional_tokens=5)
# Released auto-encoders have 32 or 24 groups: 32 channels at every level.
AUTOENCODER = AutoencoderConfig(4, 32, (1, 2), 2)


def random_state(module: nn.Module) -> dict[str, Tensor]:
    stream = torch.Generator().manual_seed(0)
    return {name: torch.randn(value.shape, generator=stream) for name, value in module.state_dict().items()}


def assert_same(model: nn.Module, state: dict[str, Tensor]) -> None:
    own = model.state_dict()
    assert set(own) == set(state)
    assert all(torch.equal(own[name], value) for name, value in state.items())
    assert not model.training


def test_an_infinity_transformer_has_the_sizes_of_its_tensors() -> None:
    state = random_state(InfinityTransformer(INFINITY, SCALES))
    model = load_infinity_transformer(state, SCALES)
    assert model.config == INFINITY
    assert_same(model, state)


def test_chunked_blocks_are_numbered_chunk_by_chunk() -> None:
    state = random_state(InfinityTransformer(INFINITY, SCALES))
    chunked = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "blocks":  # block 3 of 4 is the second block of the second chunk
            parts[:2] = ["block_chunks", str(int(parts[1]) // 2), "module", str(int(parts[1]) % 2)]
        if name.endswith("scale_mul_1H11"):
            value = value.flatten()
        chunked[".".join(parts)] = value
    chunked["attn_bias_for_masking"] = torch.zeros(1)
    assert_same(load_infinity_transformer(chunked, SCALES), state)


@pytest.mark.parametrize(
    "config",
    [
        VARConfig(3, 24, 2, num_codes=10, code_width=4, num_classes=7),
        VARConfig(3, 24, 2, num_codes=10, code_width=4, num_classes=7, shared_modulation=True),
        # Without normalisation no tensor has the number of heads, which is therefore given.
        VARConfig(3, 24, 4, num_codes=10, code_width=4, num_classes=7, normalise=False),
    ],
    ids=["plain", "shared", "not normalised"],
)
def test_a_var_transformer_has_the_sizes_of_its_tensors(config: VARConfig) -> None:
    state = random_state(VARTransformer(config, SCALES))
    model = load_var_transformer({**state, "lvl_1L": torch.zeros(1)}, SCALES, num_heads=None if config.normalise else config.num_heads)
    assert model.config == config
    assert_same(model, state)


def test_a_binary_tokenizer_is_loaded_under_plain_and_released_names() -> None:
    state = random_state(BinaryTokenizer(AUTOENCODER))
    assert_same(load_binary_tokenizer(state), state)
    assert load_binary_tokenizer(state).config == AUTOENCODER
    wrapped = {}
    for name, value in state.items():
        stem, kind = name.rsplit(".", 1)
        wrapped[f"{stem}.{'norm' if 'norm' in stem.rsplit('.', 1)[-1] else 'conv'}.{kind}"] = value
    assert_same(load_binary_tokenizer({**wrapped, "quantizer.lfq.mask": torch.zeros(1)}), state)


@pytest.mark.parametrize(
    ("convolutions", "released"),
    [(4, "quantize.quant_resi.qresi_ls."), (1, "quantize.quant_resi.qresi."), (0, "quantize.quant_resi.")],
    ids=["partially shared", "shared", "one per scale"],
)
def test_a_vector_tokenizer_is_loaded_under_released_names(convolutions: int, released: str) -> None:
    config = AutoencoderConfig(4, 32, (1, 2), 2, attention=True)
    state = random_state(VectorTokenizer(config, VectorQuantizer(6, 4, num_convolutions=convolutions, num_scales=3)))
    own = "quantize.convolutions.0." if convolutions == 1 else "quantize.convolutions."
    renamed = {name.replace(own, released): value for name, value in state.items()}
    model = load_vector_tokenizer({**renamed, "quantize.ema_vocab_hit_SV": torch.zeros(1)}, num_scales=3)
    assert model.config == config
    assert_same(model, state)
    # The last of three scales uses the last of four convolutions, the only one, or its own.
    assert model.quantize.convolution(2, 3) is model.quantize.convolutions[{4: 3, 1: 0, 0: 2}[convolutions]]


def test_missing_unexpected_and_misshapen_tensors_are_named() -> None:
    state = random_state(InfinityTransformer(INFINITY, SCALES))
    without = {name: value for name, value in state.items() if name != "head.bias"}
    with pytest.raises(UserError, match="the file does not fit: head.bias is missing"):
        load_infinity_transformer(without, SCALES, source="the file")
    with pytest.raises(UserError, match="extra is unexpected"):
        load_infinity_transformer({**state, "extra": torch.zeros(1)}, SCALES)
    with pytest.raises(UserError, match=r"head.bias has shape \(3,\) instead of \(16,\)"):
        load_infinity_transformer({**state, "head.bias": torch.zeros(3)}, SCALES)


def test_weights_of_another_model_are_refused_with_the_missing_tensor() -> None:
    infinity = random_state(InfinityTransformer(INFINITY, SCALES))
    with pytest.raises(UserError, match="the weights is not a VAR transformer: tensor class_emb.weight is missing"):
        load_var_transformer(infinity, SCALES)
    with pytest.raises(UserError, match="not an Infinity transformer: tensor word_embed.weight is missing"):
        load_infinity_transformer({"other": torch.zeros(1)}, SCALES)
    with pytest.raises(UserError, match="not a tokenizer: tensor encoder.conv_in.weight is missing"):
        load_binary_tokenizer(infinity)
    with pytest.raises(UserError, match="not a VAR tokenizer: tensor quantize.embedding.weight is missing"):
        load_vector_tokenizer(infinity, num_scales=2)


STATE = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}


def equal(found: dict[str, Tensor]) -> bool:
    return set(found) == set(STATE) and all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("wrap", [(), ("trainer", "gpt_fsdp"), ("trainer", "vae_local"), ("state_dict",)], ids="/".join)
def test_training_checkpoints_are_unwrapped(tmp_path: Path, wrap: tuple[str, ...]) -> None:
    tree: dict[str, object] = dict(STATE)
    for name in reversed(wrap):
        tree = {name: tree, "epoch": 3}
    torch.save(tree, tmp_path / "weights.pth")
    assert equal(read_weights(tmp_path / "weights.pth"))


def test_shards_are_joined_through_their_index(tmp_path: Path) -> None:
    for name, value in STATE.items():
        save_file({name: value}, tmp_path / f"{name}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: f"{name}.safetensors" for name in STATE}}))
    assert equal(read_weights(tmp_path))
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(UserError, match="b.safetensors does not exist"):
        read_weights(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    with pytest.raises(UserError, match="names the shard '../a.safetensors' outside its folder"):
        read_weights(tmp_path)
    index.write_text("[]")
    with pytest.raises(UserError, match="is not an index of shards"):
        read_weights(tmp_path)
    index.unlink()
    with pytest.raises(UserError, match="contains 0 index files"):
        read_weights(tmp_path)


class Payload:
    """An object that a pickle would have to execute code for."""


def test_files_without_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent.pth does not exist"):
        read_weights(tmp_path / "absent.pth")
    torch.save({"a": Payload()}, tmp_path / "pickle.pth")
    with pytest.raises(UserError, match="pickle.pth cannot be loaded with weights_only") as caught:
        read_weights(tmp_path / "pickle.pth")
    assert "\n" not in str(caught.value)
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match="empty.pth contains no state dict of tensors"):
        read_weights(tmp_path / "empty.pth")
