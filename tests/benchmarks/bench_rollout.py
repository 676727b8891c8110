"""Sampling with the static cache against transformers' `generate`, same policy, prompts, noise and results.

Run directly or by `make bench`. Prints tokens per second and the ratio of medians over interleaved repetitions.
"""

import statistics
import time

import torch

from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.rollout.static_cache import StaticCacheEngine
from gspo_rl.rollout.transformers import TransformersEngine
from gspo_rl.toy.arithmetic import ArithmeticTask
from gspo_rl.toy.policy import tiny_policy
from triptych.run.provenance import provenance

GROUPS, GROUP_SIZE, MAX_TOKENS, REPETITIONS = 16, 8, 48, 5


def main() -> None:
    policy = tiny_policy()
    # Random weights rarely sample the end token: several end tokens give the ragged lengths of a trained policy.
    policy.model.generation_config.eos_token_id = [1, 20, 21]
    prompts = [prompt for prompt in ArithmeticTask().prompts("train")[:GROUPS] for _ in range(GROUP_SIZE)]
    engines = {"static_cache": StaticCacheEngine(policy), "transformers": TransformersEngine(policy)}
    speeds: dict[str, list[float]] = {name: [] for name in engines}
    for repetition in range(REPETITIONS + 1):
        tokens = {}
        for name, engine in engines.items():
            seeds = [1000 * repetition + index for index in range(len(prompts))]
            started = time.perf_counter()
            completions = engine.generate(prompts, 1, SamplingConfig(max_tokens=MAX_TOKENS), seeds=seeds)
            seconds = time.perf_counter() - started
            tokens[name] = [item.token_ids.tolist() for item in completions]
            if repetition:  # the first is a warm-up
                speeds[name].append(sum(map(len, tokens[name])) / seconds)
        assert tokens["static_cache"] == tokens["transformers"]
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    origin = provenance()
    print(
        f"{origin['processor']}, {torch.get_num_threads()} thread, torch {origin['versions']['torch']}, transformers {origin['versions']['transformers']}"
    )
    print(f"{GROUPS} prompts x {GROUP_SIZE} samples, at most {MAX_TOKENS} tokens, {policy.num_parameters} parameters, float32")
    for name, speed in medians.items():
        print(f"{name:>14}  {speed:8.0f} tokens/s")
    print(f"{'ratio':>14}  {medians['static_cache'] / medians['transformers']:8.2f}")


if __name__ == "__main__":
    main()
