"""An exported checkpoint is the folder that the policy itself saves."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import GenerationConfig, Qwen3MoeConfig, Qwen3MoeForCausalLM

from gspo_rl.models.export import export_policy
from gspo_rl.models.policy import Policy, pretrained_policy
from gspo_rl.toy.policy import character_tokenizer
from triptych.checkpoint.export import state_shapes
from triptych.errors import UserError


def moe() -> Policy:
    tokenizer = character_tokenizer()
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        intermediate_size=32, moe_intermediate_size=8, num_experts=4, num_experts_per_tok=2, max_position_embeddings=32,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return Policy(model, tokenizer)


def export(policy: Policy, root: Path) -> Path:
    """Exports through a checkpoint's layout: tensors by the names of the scorer's state, tied ones once."""
    files, output = root / "files", root / "exported"
    files.mkdir()
    output.mkdir()
    policy.save_files(files)
    assert not list(files.glob("*.safetensors"))
    state = policy.scorer.state_dict()
    export_policy(files, {name: state[name] for name in state_shapes(policy.scorer)}, output)
    return output


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_an_export_equals_the_saved_policy(kind: str, small_policy: Policy, tmp_path: Path) -> None:
    policy = small_policy if kind == "dense" else moe()
    output = export(policy, tmp_path)
    policy.save(tmp_path / "saved")
    assert {path.name for path in output.iterdir()} == {path.name for path in (tmp_path / "saved").iterdir()}
    exported, saved = (load_file(folder / "model.safetensors") for folder in (output, tmp_path / "saved"))
    assert exported.keys() == saved.keys()
    assert all(torch.equal(exported[key], value) for key, value in saved.items())
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        assert json.loads((output / name).read_text()) == json.loads((tmp_path / "saved" / name).read_text())
    if kind == "moe":
        assert "model.layers.0.mlp.experts.3.gate_proj.weight" in exported, "names on disk as in Qwen's releases"
    again = pretrained_policy(str(output))
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(again.model(ids).logits, policy.model(ids).logits)


def test_weights_of_another_model_are_refused(small_policy: Policy, tmp_path: Path) -> None:
    files, output = tmp_path / "files", tmp_path / "exported"
    files.mkdir()
    output.mkdir()
    small_policy.save_files(files)
    state = {name: small_policy.scorer.state_dict()[name] for name in state_shapes(small_policy.scorer)}
    del state["model.model.norm.weight"]
    with pytest.raises(UserError, match=r"does not match the Qwen3ForCausalLM .* 'model\.norm\.weight' is missing"):
        export_policy(files, state, output)
