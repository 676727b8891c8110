"""Fixtures: small random policies."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from gspo_rl.models.policy import Policy


@pytest.fixture(scope="session")
def random_policy() -> Callable[..., Policy]:
    """Builds a random model of 2 layers over printable characters, by default a Qwen3."""

    def build(
        *,
        num_layers: int = 2,
        num_heads: int = 4,
        num_key_value_heads: int = 2,
        max_positions: int = 96,
        seed: int = 7,
        family: str = "Qwen3",
        **options: Any,
    ) -> Policy:
        vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", "<unk>", *map(chr, range(32, 127)), "\n"])}
        characters = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        characters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        characters.decoder = decoders.Fuse()
        special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
        sizes = {
            "vocab_size": len(vocabulary), "hidden_size": 32, "num_hidden_layers": num_layers, "num_attention_heads": num_heads,
            "num_key_value_heads": num_key_value_heads, "head_dim": 32 // num_heads, "intermediate_size": 48,
            "max_position_embeddings": max_positions, "initializer_range": 0.06, "tie_word_embeddings": True, "pad_token_id": 0,
            "eos_token_id": 1, "bos_token_id": None,
        }  # fmt: skip
        config = getattr(transformers, f"{family}Config")(**{**sizes, **options})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = getattr(transformers, f"{family}ForCausalLM")(config)
            for name, parameter in model.named_parameters():
                if name.endswith(".bias"):  # 0 by default
                    parameter.data.normal_(std=0.3)
        model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=1)
        return Policy(model, PreTrainedTokenizerFast(tokenizer_object=characters, clean_up_tokenization_spaces=False, **special))

    return build


@pytest.fixture
def small_policy(random_policy: Callable[..., Policy]) -> Policy:
    """A random Qwen3 of 2 layers over characters."""
    return random_policy()
