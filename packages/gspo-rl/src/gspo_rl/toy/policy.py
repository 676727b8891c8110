"""A small Qwen3 over characters: a policy that learns on a laptop."""

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from gspo_rl.models.policy import Policy
from triptych.errors import UserError


def character_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per printable ASCII character and newline, and `<pad>`, `<eos>`, `<unk>`."""
    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", "<unk>", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def tiny_policy(
    *,
    hidden_size: int = 128,
    num_layers: int = 4,
    num_heads: int = 4,
    num_key_value_heads: int = 2,
    intermediate_size: int = 384,
    max_positions: int = 256,
    initializer_range: float = 0.06,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Policy:
    """A small Qwen3 (dense) over characters, freshly initialised; float32.

    Args:
        hidden_size: model width; `hidden_size / num_heads` is the width of a head.
        num_layers: transformer blocks.
        num_heads: query heads.
        num_key_value_heads: key and value heads; divides `num_heads`.
        intermediate_size: width of the gated feed-forward layer.
        max_positions: longest sequence, prompt and response together.
        initializer_range: standard deviation of the initial weights. At width 128, 0.06 is about 1/sqrt(2 * width);
            with the 0.02 of large models the supervised phase needs several times as long.
        seed: seed of the initial weights; the global random state is restored.
        device: where the parameters go.

    Raises:
        UserError: if the sizes do not divide one another.
    """
    if hidden_size % num_heads or num_heads % num_key_value_heads or hidden_size // num_heads % 2:
        raise UserError(
            f"policy sizes do not fit: hidden_size {hidden_size} must be an even multiple of num_heads {num_heads}, "
            f"and num_heads a multiple of num_key_value_heads {num_key_value_heads}"
        )
    tokenizer = character_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_key_value_heads,
        head_dim=hidden_size // num_heads,
        intermediate_size=intermediate_size,
        max_position_embeddings=max_positions,
        initializer_range=initializer_range,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
    return Policy(model.to(device), tokenizer)
