"""Strict loading of released weights: sizes are inferred from the shapes, unused or missing tensors are errors."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from triptych.checkpoint.weights import fill_strictly, read_safetensors
from triptych.errors import UserError
from triptych.files import read_json
from tts_var.models.autoencoder import AutoencoderConfig, BinaryTokenizer, VectorTokenizer
from tts_var.models.infinity import InfinityConfig, InfinityTransformer
from tts_var.models.quantizers import VectorQuantizer
from tts_var.models.var import VARConfig, VARTransformer
from tts_var.numerics.scales import ScaleTable

State = dict[str, Tensor]
ModelT = TypeVar("ModelT", bound=nn.Module)

# Keys of training checkpoints under which the weights are nested, outermost first.
_WRAPPERS = ("trainer", "gpt_fsdp", "gpt_wo_ddp", "vae_local", "vae", "state_dict", "model")
_INFINITY_UNUSED = ("lvl_1L", "attn_bias_for_masking", "Infinity_visible_kvlen", "Infinity_invisible_qlen")
_VAR_UNUSED = ("lvl_1L", "attn_bias_for_masking")


def read_weights(path: str | Path) -> State:
    """The tensors of a safetensors file, a torch file (read with `weights_only`), or a folder of shards with an index.

    Training checkpoints are unwrapped (`trainer.gpt_fsdp`, `vae`).

    Raises:
        UserError: if the file or a shard is missing, or the file contains anything but tensors.
    """
    path = Path(path)
    if path.is_dir():
        return _read_shards(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist: give a .safetensors or .pth file, or a folder of shards with its index")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises errors of many types for damaged files, foreign formats and rejected pickles.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be loaded with weights_only ({reason}): convert it to safetensors") from error
    return _unwrap(tree, path)


def load_infinity_transformer(state: Mapping[str, Tensor], scales: ScaleTable, *, source: str = "the weights") -> InfinityTransformer:
    """An Infinity transformer in float32, with sizes inferred from the shapes.

    Accepts chunked and plain block names, and `scale_mul_1H11` in either layout.

    Raises:
        UserError: if a tensor is missing, unexpected or of another shape.
    """
    state = _without_chunks({key: value for key, value in state.items() if key not in _INFINITY_UNUSED})
    _need(state, ("word_embed.weight", "cfg_uncond", "blocks.0.sa.scale_mul_1H11"), source, "an Infinity transformer")
    width, bits = state["word_embed.weight"].shape
    config = InfinityConfig(
        depth=_count(state, r"blocks\.(\d+)\."),
        width=width,
        num_heads=state["blocks.0.sa.scale_mul_1H11"].numel(),
        token_bits=bits,
        text_width=state["cfg_uncond"].shape[1],
        unconditional_tokens=state["cfg_uncond"].shape[0],
    )
    for key, value in state.items():
        if key.endswith("scale_mul_1H11"):
            state[key] = value.reshape(1, -1, 1, 1)
    return _fill(InfinityTransformer(config, scales), state, source)


def load_var_transformer(
    state: Mapping[str, Tensor], scales: ScaleTable, *, num_heads: int | None = None, source: str = "the weights"
) -> VARTransformer:
    """A VAR transformer in float32, with sizes inferred from the shapes.

    Args:
        state: the weights.
        scales: token grids.
        num_heads: attention heads; needed for a model without normalised queries and keys, whose shapes do not show it.
        source: name of the weights in messages.

    Raises:
        UserError: if a tensor is missing, unexpected or of another shape, or the number of heads is unknown or wrong.
    """
    state = {key: value for key, value in state.items() if key not in _VAR_UNUSED}
    _need(state, ("word_embed.weight", "class_emb.weight", "head.weight", "blocks.0.ffn.fc1.weight"), source, "a VAR transformer")
    width, code_width = state["word_embed.weight"].shape
    normalise = "blocks.0.attn.scale_mul_1H11" in state
    inferred = state["blocks.0.attn.scale_mul_1H11"].numel() if normalise else num_heads
    if inferred is None:
        raise UserError(f"{source}: there is no blocks.0.attn.scale_mul_1H11, so its attention heads cannot be inferred: give num_heads")
    if num_heads not in (None, inferred) or inferred < 1 or width % inferred:
        raise UserError(f"num_heads is {num_heads} but {source} has a width of {width}{f' and {inferred} heads' if normalise else ''}")
    config = VARConfig(
        depth=_count(state, r"blocks\.(\d+)\."),
        width=width,
        num_heads=inferred,
        num_codes=state["head.weight"].shape[0],
        code_width=code_width,
        num_classes=state["class_emb.weight"].shape[0] - 1,
        shared_modulation="shared_ada_lin.1.weight" in state,
        normalise=normalise,
    )
    return _fill(VARTransformer(config, scales), state, source)


def load_binary_tokenizer(state: Mapping[str, Tensor], *, source: str = "the weights") -> BinaryTokenizer:
    """Infinity's tokenizer in float32, with sizes inferred from the shapes.

    Accepts names with and without the released wrappers (`conv_in.conv.weight`, `norm1.norm.weight`).

    Raises:
        UserError: if a tensor is missing, unexpected or of another shape.
    """
    state = {key: value for key, value in state.items() if not key.endswith("lfq.mask")}
    if "encoder.conv_in.conv.weight" in state:
        state = {re.sub(r"\.(?:conv|norm)\.(weight|bias)$", r".\1", key): value for key, value in state.items()}
    return _fill(BinaryTokenizer(_autoencoder_config(state, source)), state, source)


def load_vector_tokenizer(
    state: Mapping[str, Tensor], *, num_scales: int, cosine: bool = False, ratio: float = 0.5, source: str = "the weights"
) -> VectorTokenizer:
    """VAR's tokenizer in float32, with sizes inferred from the shapes.

    Args:
        state: the weights.
        num_scales: scales of the model.
        cosine: whether codes are looked up by cosine similarity; the weights do not show it, the released ones are not.
        ratio: weight of the convolutions after upsampling; the weights do not show it either.
        source: name of the weights in messages.

    Raises:
        UserError: if a tensor is missing, unexpected or of another shape.
    """
    # Released names of the shared convolutions: quant_resi.qresi_ls.k (K of them), quant_resi.qresi (one), quant_resi.k (one per scale).
    renamed = {}
    one_each = False
    for key, value in state.items():
        if key.endswith("ema_vocab_hit_SV"):
            continue
        one_each |= re.match(r"quantize\.quant_resi\.\d+\.", key) is not None
        key = re.sub(r"^quantize\.quant_resi\.(?:qresi_ls\.)?(\d+)\.", r"quantize.convolutions.\1.", key)
        renamed[key.replace("quantize.quant_resi.qresi.", "quantize.convolutions.0.")] = value
    _need(renamed, ("quantize.embedding.weight",), source, "a VAR tokenizer")
    codes, channels = renamed["quantize.embedding.weight"].shape
    convolutions = 0 if one_each else _count(renamed, r"quantize\.convolutions\.(\d+)\.")
    quantizer = VectorQuantizer(codes, channels, num_convolutions=convolutions, ratio=ratio, num_scales=num_scales, cosine=cosine)
    return _fill(VectorTokenizer(_autoencoder_config(renamed, source), quantizer), renamed, source)


def _fill(model: ModelT, state: State, source: str) -> ModelT:
    fill_strictly(model, state, source)
    return model.eval()


def _need(state: Mapping[str, Tensor], keys: tuple[str, ...], source: str, kind: str) -> None:
    absent = [key for key in keys if key not in state]
    if absent:
        raise UserError(f"{source} is not {kind}: tensor {absent[0]} is missing; give the weights of {kind}")


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    numbers = [int(match.group(1)) for key in state if (match := re.match(pattern, key))]
    return max(numbers) + 1


def _without_chunks(state: State) -> State:
    # Released checkpoints group the blocks in chunks of equal size: block_chunks.i.module.j is block i * per_chunk + j.
    chunked = [re.match(r"block_chunks\.(\d+)\.module\.(\d+)\.", key) for key in state]
    per_chunk = 1 + max((int(match.group(2)) for match in chunked if match), default=0)

    def rename(match: re.Match[str]) -> str:
        return f"blocks.{int(match.group(1)) * per_chunk + int(match.group(2))}."

    return {re.sub(r"^block_chunks\.(\d+)\.module\.(\d+)\.", rename, key): value for key, value in state.items()}


def _autoencoder_config(state: Mapping[str, Tensor], source: str) -> AutoencoderConfig:
    _need(state, ("encoder.conv_in.weight", "encoder.conv_out.weight", "encoder.down.0.block.0.conv1.weight"), source, "a tokenizer")
    base = state["encoder.conv_in.weight"].shape[0]
    levels = _count(state, r"encoder\.down\.(\d+)\.")
    return AutoencoderConfig(
        latent_channels=state["encoder.conv_out.weight"].shape[0],
        base_channels=base,
        multipliers=tuple(state[f"encoder.down.{level}.block.0.conv2.weight"].shape[0] // base for level in range(levels)),
        blocks_per_level=_count(state, r"encoder\.down\.0\.block\.(\d+)\."),
        attention="encoder.mid.attn_1.qkv.weight" in state,
    )


def _read_shards(folder: Path) -> State:
    indexes = sorted(folder.glob("*.index.json"))
    if len(indexes) != 1:
        raise UserError(f"{folder} contains {len(indexes)} index files: a folder of shards needs exactly one *.index.json")
    index = read_json(indexes[0], "download the checkpoint again")
    try:
        names = sorted(set(index["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{indexes[0]} is not an index of shards: it needs a 'weight_map'") from error
    state: State = {}
    for name in names:
        if Path(str(name)).name != name:
            raise UserError(f"{indexes[0]} names the shard '{name}' outside its folder: move the shard beside its index")
        state |= read_weights(folder / name)
    return state


def _unwrap(tree: Any, path: Path) -> State:
    while isinstance(tree, Mapping):
        wrapper = next((key for key in _WRAPPERS if isinstance(tree.get(key), Mapping)), None)
        if wrapper is None:
            break
        tree = tree[wrapper]
    if not isinstance(tree, Mapping) or not tree or not all(isinstance(value, Tensor) for value in tree.values()):
        raise UserError(f"{path} contains no state dict of tensors: give the file with the model's weights")
    return dict(tree)
