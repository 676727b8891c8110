"""GSPO (arXiv 2507.18071) on one page: a small Qwen3 learns sums. `python gspo_loop.py [steps]` takes a minute on one core.

The whole algorithm in reading order, with the functions of `gspo_rl`; `gspo_rl.trainer` is the same loop with evaluation, exact
resume, several GPUs and metrics.
"""

import sys

import torch

from gspo_rl import SamplingConfig, group_relative_advantages, gspo
from gspo_rl.data.batch import Completion, collate
from gspo_rl.rollout.static_cache import StaticCacheEngine
from gspo_rl.toy.arithmetic import ArithmeticTask
from gspo_rl.toy.policy import tiny_policy
from triptych.seeding import derive_seed, generator

PROMPTS, GROUP, MINIBATCHES = 16, 8, 4
CLIP = {"clip_low": 3e-4, "clip_high": 4e-4}  # section 5.1; half-widths around a ratio of 1
SAMPLING = SamplingConfig(max_tokens=40)


def supervised(policy, task, steps):
    """A cold start: the next-token loss on the task's demonstrations, some of them wrong."""
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=2e-3)
    prompts = task.prompts("train")
    for step in range(steps):
        examples = []
        for row in range(64):
            prompt = prompts[64 * step + row]
            ids = torch.tensor(policy.encode_response(task.demonstrate(prompt, generator(0, "demonstration", step, row))))
            examples.append(Completion(policy.encode(prompt), ids, torch.zeros(len(ids)), "", finished=True))
        batch = collate(examples, torch.zeros(64), torch.zeros(64), pad_id=policy.pad_id)
        scores = policy.scorer(batch.input_ids, batch.response_mask, 1.0)
        (-scores.logprobs.sum() / batch.response_mask.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()


def main(steps=20, cold_start_steps=150):
    """Returns the mean reward of every step."""
    policy, task = tiny_policy(), ArithmeticTask(min_digits=2, max_digits=3)
    supervised(policy, task, cold_start_steps)
    engine = StaticCacheEngine(policy)  # samples with the policy's own weights
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=1e-4, weight_decay=0.0)
    prompts, history = task.prompts("train"), []
    for step in range(steps):
        # Rollout: a group of samples for each prompt, every sample with a seed of its own.
        batch_prompts = prompts[PROMPTS * step : PROMPTS * (step + 1)]
        seeds = [derive_seed(0, "rollout", step, index) for index in range(PROMPTS * GROUP)]
        completions = engine.generate(batch_prompts, GROUP, SAMPLING, seeds=seeds)
        # Reward, and advantages relative to the group: (r - mean) / std (equation 6).
        rewards = torch.tensor([task.reward(batch_prompts[i // GROUP], item) for i, item in enumerate(completions)]).view(PROMPTS, GROUP)
        batch = collate(completions, rewards.flatten(), group_relative_advantages(rewards).flatten(), pad_id=policy.pad_id)
        for minibatch in batch.split(MINIBATCHES):
            # Loss: the sequence-level ratio s = exp(mean log pi/pi_old), clipped, times the advantage (equations 5 and 7).
            scores = policy.scorer(minibatch.input_ids, minibatch.response_mask, SAMPLING.temperature)
            output = gspo(scores.logprobs, minibatch.sampler_logprobs, minibatch.advantages, minibatch.response_mask, **CLIP)
            output.losses.mean().backward()
            torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        history.append(float(rewards.mean()))
        sys.stdout.write(
            f"step {step:3d}  reward {history[-1]:.2f}  clipped {float(output.metrics['clipped'].any(dim=1).float().mean()):.2f}\n"
        )
    return history


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
