"""Generation with the training model itself, through `generate` of transformers: any architecture, not tuned for speed."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from gspo_rl.data.batch import Completion, Prompt, distinct_prompts, left_padded
from gspo_rl.models.policy import Policy
from gspo_rl.rollout.completions import build_completions, encode_prompts
from gspo_rl.rollout.sampling import SamplingConfig, sample_tokens, uniform_noise
from gspo_rl.rollout.stopping import Stops
from triptych.run.signals import feed_watchdog


class TransformersEngine:
    """Samples with `generate` of the policy's own model.

    Args:
        policy: the policy being trained.
        max_batch: most sequences generated at one time.
        dtype: `bfloat16` for a copy of the policy in that precision: faster where the hardware multiplies it, and no longer exact; None for
            the policy's own model.
    """

    def __init__(self, policy: Policy, *, max_batch: int = 256, dtype: str | None = None) -> None:
        self._policy = policy if dtype is None else policy.in_precision(dtype)
        self._max_batch = max_batch
        self._version = 0

    @property
    def is_exact(self) -> bool:
        """True where the model is of float32."""
        return self._policy.dtype == torch.float32

    def generate(self, prompts: Sequence[Prompt], num_samples: int, sampling: SamplingConfig, *, seeds: Sequence[int]) -> list[Completion]:
        """`num_samples` completions per prompt; see `RolloutEngine.generate`."""
        prompt_ids = encode_prompts(self._policy, prompts, num_samples, sampling)
        completions: list[Completion] = []
        for start in range(0, len(prompt_ids), self._max_batch):
            stop = start + self._max_batch
            completions += self._generate(prompt_ids[start:stop], sampling, seeds[start:stop])
        return completions

    def update_weights(self, parameters: Iterator[tuple[str, Tensor]], *, version: int) -> None:
        """Copies parameters into the model; those that are its own storage already are skipped."""
        self._policy.copy_parameters(parameters)
        self._version = version

    def close(self) -> None:
        """Does nothing: the model belongs to a policy."""

    @torch.no_grad()
    def _generate(self, prompt_ids: list[tuple[int, ...]], sampling: SamplingConfig, seeds: Sequence[int]) -> list[Completion]:
        policy = self._policy
        # P distinct prompts, B samples: (P, tokens) is prefilled once, `rows` maps each sample to its prompt.
        distinct, rows = distinct_prompts(prompt_ids)
        unique_ids, unique_mask = left_padded(distinct, policy.pad_id)
        input_ids, attention_mask = unique_ids[rows], unique_mask[rows]
        stops = Stops(policy, sampling)
        processor = _KeyedSampling(uniform_noise(seeds, sampling.max_tokens), sampling)
        output = policy.model.generate(
            input_ids=input_ids.to(policy.device),
            attention_mask=attention_mask.to(policy.device),
            past_key_values=self._prefilled(unique_ids.to(policy.device), unique_mask.to(policy.device), rows.to(policy.device)),
            # A new config: penalties and temperatures from the model's own would change the distribution silently.
            generation_config=GenerationConfig(
                max_new_tokens=sampling.max_tokens,
                do_sample=False,
                eos_token_id=list(stops.token_ids),
                pad_token_id=policy.pad_id,
                use_cache=True,  # None would take the model's own value, and False would process the prefilled tokens again
            ),
            logits_processor=LogitsProcessorList([processor]),
            stopping_criteria=StoppingCriteriaList([_StopStrings(stops, input_ids.shape[1])]) if sampling.stop else None,
        )
        tokens = output[:, input_ids.shape[1] :].cpu()
        logprobs = torch.stack(processor.logprobs, dim=1).cpu()
        return build_completions(stops, prompt_ids, tokens, logprobs, weight_version=self._version)

    def _prefilled(self, input_ids: Tensor, mask: Tensor, rows: Tensor) -> Cache | None:
        """The cache of all but the last token of each distinct prompt, computed once and repeated for its samples.

        None if there is nothing to reuse: prompts of one token, a model whose state is no key-value cache, or one that
        prescribes a cache implementation, which `generate` builds itself.
        """
        configured = self._policy.model.generation_config
        if input_ids.shape[1] < 2 or (configured is not None and configured.cache_implementation is not None):
            return None
        mask = mask[:, :-1]
        cache: Cache | None = self._policy.model(
            input_ids=input_ids[:, :-1],
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),  # padding is on the left
            use_cache=True,
            logits_to_keep=1,
        ).get("past_key_values")
        if cache is not None:
            cache.reorder_cache(rows)  # also of recurrent layers
        return cache


class _KeyedSampling(LogitsProcessor):  # type: ignore[misc]  # transformers is not typed
    """Samples each row's token from the row's own noise, and masks all other tokens for the greedy search of `generate`."""

    def __init__(self, noise: Tensor, sampling: SamplingConfig) -> None:
        self._noise = noise
        self._sampling = sampling
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        feed_watchdog()
        sampled = sample_tokens(scores, self._noise[:, len(self.logprobs)].to(scores.device), self._sampling)
        self.logprobs.append(sampled.logprobs)
        return torch.full_like(scores, -torch.inf).scatter(-1, sampled.tokens[:, None], 0.0)


class _StopStrings(StoppingCriteria):  # type: ignore[misc]  # transformers is not typed
    """Ends the rows whose response, after `start` prompt tokens, has an end."""

    def __init__(self, stops: Stops, start: int) -> None:
        self._stops = stops
        self._start = start

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return self._stops.ended(input_ids[:, self._start :])
