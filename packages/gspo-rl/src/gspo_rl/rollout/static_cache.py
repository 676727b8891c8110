"""A decoder for small dense Llama, Qwen2 and Qwen3 models, faster than `generate` on a CPU (ratio in docs/benchmarks.md).

The common beginning of all prompts is prefilled once, each distinct prompt once for its whole group, the cache is allocated once,
finished rows leave the batch, projections are fused, and a token costs some twenty kernels per layer.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

from gspo_rl.data.batch import Completion, Prompt, distinct_prompts, left_padded
from gspo_rl.models.adapter import effective_weight
from gspo_rl.models.policy import Policy
from gspo_rl.rollout.completions import build_completions, encode_prompts
from gspo_rl.rollout.sampling import SamplingConfig, sample_tokens, uniform_noise
from gspo_rl.rollout.stopping import Stops
from triptych.errors import UserError
from triptych.run.signals import feed_watchdog

_SERVED = (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)

# Rotary tables that do not depend on the length of the sequence.
_FIXED_ROTARY = ("default", "linear", "yarn", "llama3")

_WORTH_A_FORWARD = 8  # tokens of a common beginning

# Shapes: B rows, T query tokens, S cache entries, C model width, H query heads, K key and value heads, D head width.


class _Layer(NamedTuple):
    input_norm_C: Tensor
    qkv_weight: Tensor
    qkv_bias: Tensor | None  # of Qwen2
    qk_norm_HD: Tensor | None  # of Qwen3
    output_weight: Tensor
    output_bias: Tensor | None
    mlp_norm_C: Tensor
    gate_up_weight: Tensor
    gate_up_bias: Tensor | None
    down_weight: Tensor
    down_bias: Tensor | None


class StaticCacheEngine:
    """Samples with the policy's own weights through a static key-value cache.

    Args:
        policy: a dense Llama, Qwen2 or Qwen3 policy.
        max_batch: most sequences generated at one time.
        dtype: `bfloat16` for a copy of the policy in that precision: faster where the hardware multiplies it, and no longer exact; None for
            the policy's own model.

    Raises:
        UserError: if the policy is of another architecture.
    """

    def __init__(self, policy: Policy, *, max_batch: int = 512, dtype: str | None = None) -> None:
        config = policy.model.config
        if not self.serves(policy):
            raise UserError(
                "rollout=static_cache serves dense Llama, Qwen2 and Qwen3 models with full attention, "
                f"not {type(policy.model).__name__}: use rollout=transformers"
            )
        self._policy = policy if dtype is None else policy.in_precision(dtype)
        self._model: Any = self._policy.model
        self._config = config
        self._head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._max_batch = max_batch
        self._version = 0

    @staticmethod
    def serves(policy: Policy) -> bool:
        """Whether the policy is of an architecture that this decoder computes."""
        config = policy.model.config
        return (
            type(policy.model) in _SERVED
            and "sliding_attention" not in (getattr(config, "layer_types", None) or ())
            and config.hidden_act == "silu"
            and config.rope_parameters["rope_type"] in _FIXED_ROTARY
        )

    @property
    def is_exact(self) -> bool:
        """True where the model is of float32."""
        return self._policy.dtype == torch.float32

    def generate(self, prompts: Sequence[Prompt], num_samples: int, sampling: SamplingConfig, *, seeds: Sequence[int]) -> list[Completion]:
        """`num_samples` completions per prompt; see `RolloutEngine.generate`."""
        prompt_ids = encode_prompts(self._policy, prompts, num_samples, sampling)
        stops = Stops(self._policy, sampling)
        with torch.inference_mode():
            layers = self._layers()
            completions: list[Completion] = []
            for start in range(0, len(prompt_ids), self._max_batch):
                part = slice(start, start + self._max_batch)
                tokens, logprobs = self._decode(layers, prompt_ids[part], sampling, stops, seeds[part])
                completions += build_completions(stops, prompt_ids[part], tokens, logprobs, weight_version=self._version)
        return completions

    def update_weights(self, parameters: Iterator[tuple[str, Tensor]], *, version: int) -> None:
        """Copies parameters into the model; those that are its own storage already are skipped."""
        self._policy.copy_parameters(parameters)
        self._version = version

    def close(self) -> None:
        """Does nothing: the weights belong to a policy and the cache to one call of `generate`."""

    def _layers(self) -> list[_Layer]:
        num_queries, num_keys = self._config.num_attention_heads, self._config.num_key_value_heads
        layers = []
        for block in self._model.model.layers:
            attention, mlp = block.self_attn, block.mlp
            norms = None
            if hasattr(attention, "q_norm"):
                norms = torch.cat([attention.q_norm.weight.expand(num_queries, -1), attention.k_norm.weight.expand(num_keys, -1)])
            projections = (attention.q_proj, attention.k_proj, attention.v_proj)
            layers.append(
                _Layer(
                    input_norm_C=block.input_layernorm.weight,
                    qkv_weight=torch.cat([effective_weight(projection) for projection in projections]),
                    qkv_bias=_joined_bias(projections),
                    qk_norm_HD=norms,
                    output_weight=effective_weight(attention.o_proj),
                    output_bias=attention.o_proj.bias,
                    mlp_norm_C=block.post_attention_layernorm.weight,
                    gate_up_weight=torch.cat([effective_weight(mlp.gate_proj), effective_weight(mlp.up_proj)]),
                    gate_up_bias=_joined_bias((mlp.gate_proj, mlp.up_proj)),
                    down_weight=effective_weight(mlp.down_proj),
                    down_bias=mlp.down_proj.bias,
                )
            )
        return layers

    def _decode(
        self, layers: list[_Layer], prompt_ids: list[tuple[int, ...]], sampling: SamplingConfig, stops: Stops, seeds: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Tokens and log-probabilities of shape (rows, max_tokens), padded with the end-of-sequence token and 0."""
        device = self._policy.device
        cosine_SD, sine_SD, cache, visible_BS, padding_B, hidden_BC = self._prefill(layers, prompt_ids, sampling.max_tokens)
        num_prompt = cosine_SD.shape[0] - sampling.max_tokens
        rows = torch.arange(len(prompt_ids), device=device)  # of the live sequences, in the result
        live = torch.ones_like(rows, dtype=torch.bool)
        noise = uniform_noise(seeds, sampling.max_tokens).to(device)
        tokens = torch.full((len(prompt_ids), sampling.max_tokens), stops.token_ids[0], device=device)
        logprobs = torch.zeros(tokens.shape, device=device)
        for index in range(sampling.max_tokens):
            sampled = sample_tokens(functional.linear(hidden_BC, self._model.lm_head.weight), noise[:, index], sampling)
            next_B = sampled.tokens
            tokens[rows, index], logprobs[rows, index] = next_B, sampled.logprobs
            live &= ~stops.ended(tokens[rows, max(0, index + 1 - stops.window) : index + 1])
            feed_watchdog()
            num_live = int(live.sum())
            if num_live == 0 or index + 1 == sampling.max_tokens:
                break
            # Compacting the cache costs about one step, so finished rows leave when they are a quarter of the batch.
            if num_live <= 0.75 * len(rows):
                kept = live.nonzero().squeeze(1)
                rows, live, noise, visible_BS, padding_B, next_B = (
                    part[kept] for part in (rows, live, noise, visible_BS, padding_B, next_B)
                )
                cache = cache[:, :, kept]
            # One query per row (T = 1): its key goes into cache entry `end`, its rotary position does not count the padding.
            end = num_prompt + index
            position_B1 = (end - padding_B)[:, None]
            mask = visible_BS[:, None, None, : end + 1]
            hidden_BC = self._forward(layers, next_B[:, None], cosine_SD[position_B1], sine_SD[position_B1], cache, end, mask)[:, 0]
        return tokens.cpu(), logprobs.cpu()

    def _prefill(
        self, layers: list[_Layer], prompt_ids: list[tuple[int, ...]], max_tokens: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Runs the common beginning of all prompts once, then each distinct prompt, and repeats its keys and values for its samples.

        Returns:
            Rotary cosines and sines of shape (prompt + max_tokens, head width), the cache with room for `max_tokens`, its visible
            entries and the number of its padding entries of each row, and the last hidden state of each row.
        """
        device = self._policy.device
        distinct, expand = distinct_prompts(prompt_ids)
        # A chat template begins every prompt with the same tokens: entries 0 to `common` of the cache; padding follows them.
        common = _common_length(distinct)
        common = common if common >= _WORTH_A_FORWARD else 0
        input_ids, real = (tensor.to(device) for tensor in left_padded([ids[common:] for ids in distinct], self._policy.pad_id))
        num_prompt = common + input_ids.shape[1]
        padding = input_ids.shape[1] - real.sum(dim=1)
        cosine, sine = self._rotary(num_prompt + max_tokens)
        cache = self._new_cache(len(distinct), num_prompt)
        entries = torch.arange(num_prompt + max_tokens, device=device)
        if common:
            prefix_1T = torch.tensor([distinct[0][:common]], device=device)
            begin = self._new_cache(1, common)
            causal = entries[:common, None] >= entries[:common]
            self._forward(layers, prefix_1T, cosine[None, :common], sine[None, :common], begin, 0, causal[None, None])
            cache[:, :, :, :, :common] = begin
        visible_BS = (entries < common) | (entries >= common + padding[:, None])
        queries = entries[common:num_prompt]
        visible = (queries[None, :, None] >= entries[:num_prompt]) & visible_BS[:, None, :num_prompt]
        # A padding query attends to itself, so that its row of the softmax is not empty; its result is not used.
        visible |= queries[:, None] == entries[:num_prompt]
        positions = (queries - padding[:, None]).clamp(min=0)
        hidden = self._forward(layers, input_ids, cosine[positions], sine[positions], cache, common, visible[:, None])
        expand = expand.to(device)
        full = self._new_cache(len(prompt_ids), num_prompt + max_tokens)
        full[:, :, :, :, :num_prompt] = cache[:, :, expand]
        return cosine, sine, full, visible_BS[expand], padding[expand], hidden[expand, -1]

    def _forward(
        self, layers: list[_Layer], token_BT: Tensor, cosine_BTD: Tensor, sine_BTD: Tensor, cache: Tensor, start: int, visible: Tensor
    ) -> Tensor:
        """Final hidden states of shape (rows, tokens, width); writes keys and values into the cache from entry `start` on."""
        config = self._config
        num_heads, num_keys, head_dim, eps = config.num_attention_heads, config.num_key_value_heads, self._head_dim, config.rms_norm_eps
        rows, length = token_BT.shape
        cosine, sine = cosine_BTD[:, :, None], sine_BTD[:, :, None]
        stop = start + length
        x_BTC = functional.embedding(token_BT, self._model.model.embed_tokens.weight)
        for index, layer in enumerate(layers):
            normed_BTC = functional.rms_norm(x_BTC, (x_BTC.shape[-1],), layer.input_norm_C, eps)
            qkv = functional.linear(normed_BTC, layer.qkv_weight, layer.qkv_bias).view(rows, length, num_heads + 2 * num_keys, head_dim)
            qk = qkv[:, :, : num_heads + num_keys]
            if layer.qk_norm_HD is not None:
                qk = functional.rms_norm(qk, (head_dim,), None, eps) * layer.qk_norm_HD
            turned = torch.cat([-qk[..., head_dim // 2 :], qk[..., : head_dim // 2]], dim=-1)
            qk = qk * cosine + turned * sine
            cache[index, 0, :, :, start:stop] = qk[:, :, num_heads:].transpose(1, 2)
            cache[index, 1, :, :, start:stop] = qkv[:, :, num_heads + num_keys :].transpose(1, 2)
            attended = functional.scaled_dot_product_attention(
                qk[:, :, :num_heads].transpose(1, 2),
                cache[index, 0, :, :, :stop],
                cache[index, 1, :, :, :stop],
                attn_mask=visible,
                enable_gqa=True,
            )
            x_BTC = x_BTC + functional.linear(attended.transpose(1, 2).reshape(rows, length, -1), layer.output_weight, layer.output_bias)
            normed_BTC = functional.rms_norm(x_BTC, (x_BTC.shape[-1],), layer.mlp_norm_C, eps)
            gate, up = functional.linear(normed_BTC, layer.gate_up_weight, layer.gate_up_bias).chunk(2, dim=-1)
            x_BTC = x_BTC + functional.linear(functional.silu(gate) * up, layer.down_weight, layer.down_bias)
        return functional.rms_norm(x_BTC, (x_BTC.shape[-1],), self._model.model.norm.weight, eps)

    def _new_cache(self, rows: int, num_entries: int) -> Tensor:
        """Zeros of shape (layers, 2 for keys and values, rows, key heads, entries, head width)."""
        config = self._config
        shape = (config.num_hidden_layers, 2, rows, config.num_key_value_heads, num_entries, self._head_dim)
        return torch.zeros(shape, dtype=self._policy.dtype, device=self._policy.device)

    def _rotary(self, num_positions: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(num_positions, device=self._policy.device)[None]
        like = torch.empty(0, dtype=self._policy.dtype, device=self._policy.device)
        cosine, sine = self._model.model.rotary_emb(like, positions)
        return cosine[0], sine[0]


def _common_length(prompts: Sequence[tuple[int, ...]]) -> int:
    """Number of first tokens that all of several prompts share; each keeps at least one token of its own.

    Example:
        >>> _common_length([(1, 2, 3), (1, 2, 4, 5)]), _common_length([(1, 2), (1, 2, 3)]), _common_length([(1, 2)])
        (2, 1, 0)
    """
    if len(prompts) < 2:
        return 0
    low, high = min(prompts), max(prompts)  # what the first and the last in order share, all share
    shared = next((index for index, (one, other) in enumerate(zip(low, high, strict=False)) if one != other), min(len(low), len(high)))
    return min(shared, min(map(len, prompts)) - 1)


def _joined_bias(projections: Sequence[Any]) -> Tensor | None:
    return None if projections[0].bias is None else torch.cat([projection.bias for projection in projections])
