"""A decoder of our own for small dense Qwen3 models, faster than `generate` on a CPU (docs/benchmarks.md has the ratio).

What makes the difference: each distinct prompt is prefilled once for its whole group, the cache is allocated once,
finished rows leave the batch, projections are fused, and a token costs some twenty kernels per layer and no Python
beyond them.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3ForCausalLM

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.models.policy import Policy
from gspo_rl.rollout.completions import build_completions, encode_prompts, left_padded
from gspo_rl.rollout.sampling import SamplingConfig, draw_tokens, uniform_noise
from triptych.errors import UserError

# Rotary tables that do not depend on the length of the sequence.
_FIXED_ROTARY = ("default", "linear", "yarn", "llama3")

# Shapes: B rows, T query tokens, S cache slots, C model width, H query heads, K key and value heads, D head width.


class _Layer(NamedTuple):
    input_norm_C: Tensor
    qkv_weight: Tensor
    qk_norm_HD: Tensor
    output_weight: Tensor
    mlp_norm_C: Tensor
    gate_up_weight: Tensor
    down_weight: Tensor


class StaticCacheEngine:
    """Samples with the policy's own weights through a static key-value cache.

    Args:
        policy: a dense Qwen3 policy.
        max_batch: most sequences generated at one time.

    Raises:
        UserError: if the policy is of another architecture.
    """

    def __init__(self, policy: Policy, *, max_batch: int = 512) -> None:
        config = policy.model.config
        is_served = (
            isinstance(policy.model, Qwen3ForCausalLM)
            and not config.attention_bias
            and "sliding_attention" not in config.layer_types
            and config.hidden_act == "silu"
            and config.rope_parameters["rope_type"] in _FIXED_ROTARY
        )
        if not is_served:
            raise UserError(
                f"rollout=static_cache serves dense Qwen3 models with full attention, "
                f"not {type(policy.model).__name__}: use rollout=transformers"
            )
        self._policy = policy
        self._model: Qwen3ForCausalLM = policy.model
        self._config = config
        self._max_batch = max_batch
        self._version = 0

    @property
    def is_exact(self) -> bool:
        """True where the policy's own model is of float32."""
        return self._policy.dtype == torch.float32

    def generate(self, prompts: Sequence[Prompt], num_samples: int, sampling: SamplingConfig, *, seeds: Sequence[int]) -> list[Completion]:
        """`num_samples` completions per prompt; see `RolloutEngine.generate`."""
        prompt_ids = encode_prompts(self._policy, prompts, num_samples, sampling)
        with torch.inference_mode():
            layers = self._layers()
            completions: list[Completion] = []
            for start in range(0, len(prompt_ids), self._max_batch):
                part = slice(start, start + self._max_batch)
                tokens, logprobs = self._decode(layers, prompt_ids[part], sampling, seeds[part])
                completions += build_completions(self._policy, prompt_ids[part], tokens, logprobs, weight_version=self._version)
        return completions

    def update_weights(self, parameters: Iterator[tuple[str, Tensor]], *, version: int) -> None:
        """Copies into the policy's own model what is not there already: a strategy that shards trains a copy of it."""
        self._policy.copy_parameters(parameters)
        self._version = version

    def close(self) -> None:
        """The weights are the policy's and the cache lives for one call: there is nothing to give back."""

    def _layers(self) -> list[_Layer]:
        num_queries, num_keys = self._config.num_attention_heads, self._config.num_key_value_heads
        layers = []
        for block in self._model.model.layers:
            attention, mlp = block.self_attn, block.mlp
            norms = [attention.q_norm.weight.expand(num_queries, -1), attention.k_norm.weight.expand(num_keys, -1)]
            layers.append(
                _Layer(
                    input_norm_C=block.input_layernorm.weight,
                    qkv_weight=torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]),
                    qk_norm_HD=torch.cat(norms),
                    output_weight=attention.o_proj.weight,
                    mlp_norm_C=block.post_attention_layernorm.weight,
                    gate_up_weight=torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
                    down_weight=mlp.down_proj.weight,
                )
            )
        return layers

    def _decode(
        self, layers: list[_Layer], prompt_ids: list[tuple[int, ...]], sampling: SamplingConfig, seeds: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Tokens and log-probabilities of shape (rows, max_tokens), padded with the end-of-sequence token and 0."""
        device = self._policy.device
        distinct = list(dict.fromkeys(prompt_ids))
        row_of = {ids: row for row, ids in enumerate(distinct)}
        input_ids, real = (tensor.to(device) for tensor in left_padded(distinct, self._policy.pad_id))
        num_prompt, num_slots = input_ids.shape[1], input_ids.shape[1] + sampling.max_tokens
        first_slot = num_prompt - real.sum(dim=1)  # slots before it are padding
        cosine, sine = self._rotary(num_slots)
        cache = self._new_cache(len(distinct), num_prompt)
        positions = (torch.arange(num_prompt, device=device) - first_slot[:, None]).clamp(min=0)
        slots = torch.arange(num_prompt, device=device)
        visible = (slots[None, :, None] >= slots) & real[:, None, :]
        # A padding query sees itself, so that its row of the softmax is not empty; nobody reads its result.
        visible |= torch.eye(num_prompt, dtype=torch.bool, device=device)
        hidden = self._forward(layers, input_ids, cosine[positions], sine[positions], cache, 0, visible[:, None])

        expand = torch.tensor([row_of[ids] for ids in prompt_ids], device=device)
        full = self._new_cache(len(prompt_ids), num_slots)
        full[:, :, :, :, :num_prompt] = cache[:, :, expand]
        cache, first_slot, hidden = full, first_slot[expand], hidden[expand, -1]
        all_slots = torch.arange(num_slots, device=device)
        visible = all_slots >= first_slot[:, None]

        rows = torch.arange(len(prompt_ids), device=device)
        live = torch.ones_like(rows, dtype=torch.bool)
        noise = uniform_noise(seeds, sampling.max_tokens).to(device)
        ends = torch.tensor(self._policy.eos_ids, device=device)
        tokens = torch.full((len(prompt_ids), sampling.max_tokens), int(ends[0]), device=device)
        logprobs = torch.zeros(tokens.shape, device=device)
        for place in range(sampling.max_tokens):
            draw = draw_tokens(functional.linear(hidden, self._model.lm_head.weight), noise[:, place], sampling)
            tokens[rows, place], logprobs[rows, place] = draw.tokens, draw.logprobs
            live &= ~torch.isin(draw.tokens, ends)
            num_live = int(live.sum())
            if num_live == 0 or place + 1 == sampling.max_tokens:
                break
            next_tokens = draw.tokens
            # Moving the cache costs about one step, so rows leave when a quarter of the batch has finished.
            if num_live <= 0.75 * len(rows):
                kept = live.nonzero().squeeze(1)
                rows, live, noise, visible, first_slot, next_tokens = (
                    tensor[kept] for tensor in (rows, live, noise, visible, first_slot, next_tokens)
                )
                cache = cache[:, :, kept]
            slot = num_prompt + place
            position = slot - first_slot
            hidden = self._forward(
                layers,
                next_tokens[:, None],
                cosine[position][:, None],
                sine[position][:, None],
                cache,
                slot,
                visible[:, None, None, : slot + 1],
            )[:, 0]
        return tokens.cpu(), logprobs.cpu()

    def _forward(
        self, layers: list[_Layer], token_BT: Tensor, cosine_BTD: Tensor, sine_BTD: Tensor, cache: Tensor, slot: int, visible: Tensor
    ) -> Tensor:
        """Final hidden states of shape (rows, tokens, width); writes keys and values of the tokens from `slot` on."""
        config = self._config
        num_heads, num_keys, head_dim, eps = config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.rms_norm_eps
        rows, length = token_BT.shape
        cosine, sine = cosine_BTD[:, :, None], sine_BTD[:, :, None]
        stop = slot + length
        x_BTC = functional.embedding(token_BT, self._model.model.embed_tokens.weight)
        for index, layer in enumerate(layers):
            normed_BTC = functional.rms_norm(x_BTC, (x_BTC.shape[-1],), layer.input_norm_C, eps)
            qkv = functional.linear(normed_BTC, layer.qkv_weight).view(rows, length, num_heads + 2 * num_keys, head_dim)
            qk = functional.rms_norm(qkv[:, :, : num_heads + num_keys], (head_dim,), None, eps) * layer.qk_norm_HD
            turned = torch.cat([-qk[..., head_dim // 2 :], qk[..., : head_dim // 2]], dim=-1)
            qk = qk * cosine + turned * sine
            cache[index, 0, :, :, slot:stop] = qk[:, :, num_heads:].transpose(1, 2)
            cache[index, 1, :, :, slot:stop] = qkv[:, :, num_heads + num_keys :].transpose(1, 2)
            attended = functional.scaled_dot_product_attention(
                qk[:, :, :num_heads].transpose(1, 2),
                cache[index, 0, :, :, :stop],
                cache[index, 1, :, :, :stop],
                attn_mask=visible,
                enable_gqa=True,
            )
            x_BTC = x_BTC + functional.linear(attended.transpose(1, 2).reshape(rows, length, -1), layer.output_weight)
            normed_BTC = functional.rms_norm(x_BTC, (x_BTC.shape[-1],), layer.mlp_norm_C, eps)
            gate, up = functional.linear(normed_BTC, layer.gate_up_weight).chunk(2, dim=-1)
            x_BTC = x_BTC + functional.linear(functional.silu(gate) * up, layer.down_weight)
        return functional.rms_norm(x_BTC, (x_BTC.shape[-1],), self._model.model.norm.weight, eps)

    def _new_cache(self, rows: int, num_slots: int) -> Tensor:
        """Zeros of shape (layers, 2 for keys and values, rows, key heads, slots, head width)."""
        config = self._config
        shape = (config.num_hidden_layers, 2, rows, config.num_key_value_heads, num_slots, config.head_dim)
        return torch.zeros(shape, dtype=self._policy.dtype, device=self._policy.device)

    def _rotary(self, num_positions: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(num_positions, device=self._policy.device)[None]
        like = torch.empty(0, dtype=self._policy.dtype, device=self._policy.device)
        cosine, sine = self._model.model.rotary_emb(like, positions)
        return cosine[0], sine[0]
