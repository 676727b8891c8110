"""Accuracy and pass@k of a policy on held-out prompts."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Self

import torch

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.records import completion_row
from gspo_rl.rewards import TASK, guarded, task_reward
from gspo_rl.rollout import RolloutEngine
from gspo_rl.rollout.sampling import SamplingConfig, SamplingOverrides
from gspo_rl.tasks import CORRECT, BlindTask, Task
from triptych.distributed import World
from triptych.errors import UserError
from triptych.evaluation.statistics import Interval, bootstrap_interval, pass_at_k
from triptych.seeding import derive_seed, generator
from triptych.telemetry.logging import get_logger, progress

_logger = get_logger("evaluation")

_NUM_SHOWN = 8  # prompts with a completion in the result


@dataclass
class EvaluationConfig:
    """Settings of an evaluation.

    Attributes:
        split: `held_out` or `train`.
        num_prompts: number of prompts, starting with the first; all of them if the split has fewer.
        num_samples: samples per prompt, at the sampling settings.
        sampling: where evaluations sample otherwise than rollouts.
        confidence: coverage of the bootstrap intervals over prompts.
    """

    split: str = "held_out"
    num_prompts: int = 256
    num_samples: int = 4
    sampling: SamplingOverrides = field(default_factory=SamplingOverrides)
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.split not in ("train", "held_out"):
            raise UserError(f"evaluation.split is '{self.split}': choose train or held_out")
        if self.num_prompts < 1 or self.num_samples < 1:
            raise UserError(
                f"evaluation.num_prompts is {self.num_prompts} and evaluation.num_samples {self.num_samples}: both need 1 or more"
            )
        if not 0 < self.confidence < 1:
            raise UserError(f"evaluation.confidence is {self.confidence}: it must lie between 0 and 1")


class Sample(NamedTuple):
    """A prompt, its first sampled completion, and that completion's reward."""

    prompt: str
    answer: str
    completion: str
    reward: float


@dataclass(frozen=True)
class EvaluationResult:
    """Result of an evaluation.

    Attributes:
        accuracy: avg@k, the fraction of correct samples, with its interval over prompts.
        greedy: fraction of prompts whose most likely response is correct, with its interval.
        pass_at: k -> pass@k with its interval, for k = 1, 2, 4, ... up to the number of samples.
        mean_length: mean length of the sampled responses in tokens.
        per_prompt: fraction of correct samples of each prompt.
        samples: the first few prompts with a completion.
        blind: fraction of samples whose last value is correct whatever their format is, with its interval; None for a task that cannot
            tell (`gspo_rl.tasks.BlindTask`).
        blind_per_prompt: that fraction of each prompt; empty where `blind` is None.
        truncated: fraction of samples that the token limit cut.
        prompts_digest: SHA-256 of all prompts and answers; two evaluations are paired only if it is equal.
    """

    accuracy: Interval
    greedy: Interval
    pass_at: dict[int, Interval]
    mean_length: float
    per_prompt: tuple[float, ...]
    samples: list[Sample] = field(default_factory=list)
    blind: Interval | None = None
    blind_per_prompt: tuple[float, ...] = ()
    truncated: float = 0.0
    prompts_digest: str = ""

    def metrics(self) -> dict[str, float]:
        """The metrics that are logged during training."""
        return {
            "evaluation/accuracy": self.accuracy.mean,
            "evaluation/accuracy_greedy": self.greedy.mean,
            **({} if self.blind is None else {"evaluation/accuracy_blind": self.blind.mean}),
            "evaluation/length": self.mean_length,
            "evaluation/truncated": self.truncated,
        }

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """Reads the values of `to_json`."""
        return cls(
            accuracy=Interval(*tree["accuracy"]),
            greedy=Interval(*tree["greedy"]),
            pass_at={int(k): Interval(*bounds) for k, bounds in tree["pass_at"].items()},
            mean_length=tree["mean_length"],
            per_prompt=tuple(tree["per_prompt"]),
            samples=[Sample(*sample) for sample in tree["samples"]],
            blind=None if tree["blind"] is None else Interval(*tree["blind"]),
            blind_per_prompt=tuple(tree["blind_per_prompt"]),
            truncated=tree["truncated"],
            prompts_digest=tree["prompts_digest"],
        )


def evaluate(
    engine: RolloutEngine,
    task: Task,
    sampling: SamplingConfig,
    config: EvaluationConfig,
    *,
    world: World,
    seed: int,
    rows: list[dict[str, Any]] | None = None,
) -> EvaluationResult:
    """Samples every prompt `config.num_samples` times and once greedily, and grades all completions.

    The noise depends on the seed, the prompt and the sample alone, so two policies evaluated with one seed are
    compared on common random numbers, and the result does not depend on the number of ranks.

    Args:
        engine: the sampler, holding the policy.
        task: prompts and rewards.
        sampling: length, temperature and truncation of responses, unless `config.sampling` has others.
        config: prompts and samples.
        world: prompts are sharded over its ranks.
        seed: seed of the noise.
        rows: receives every completion of all ranks, see `gspo_rl.records`; None to drop them.
    """
    sampling = config.sampling.over(sampling)
    all_prompts = task.prompts(config.split)
    num_prompts = min(config.num_prompts, len(all_prompts))
    graded: list[_Graded] = []
    with progress(num_prompts, "evaluating", unit="prompt", enabled=world.is_main) as bar:
        own = list(world.shard(num_prompts))
        # Prompts of a chunk: about 512 completions, the greedy one of each prompt included, between updates of the bar.
        chunk = max(1, 512 // (config.num_samples + 1))
        for start in range(0, len(own), chunk):
            indices = own[start : start + chunk]
            prompts = [all_prompts[index] for index in indices]
            graded += _grade(engine, task, sampling, prompts, indices, config, seed)
            bar.update(len(indices) * world.size)
    graded = world.gather_objects(graded)
    if rows is not None:
        rows += [row for item in graded for row in item.rows]

    num_correct = [sum(reward >= CORRECT for reward in item.rewards) for item in graded]
    per_prompt = torch.tensor(num_correct, dtype=torch.float64) / config.num_samples
    stream = generator(seed, "bootstrap")

    def interval(values: torch.Tensor) -> Interval:
        return bootstrap_interval(values, generator=stream, confidence=config.confidence)

    blind = [item.blind for item in graded if item.blind is not None]
    ks = [2**power for power in range(config.num_samples.bit_length()) if 2**power <= config.num_samples]
    return EvaluationResult(
        accuracy=interval(per_prompt),
        greedy=interval(torch.tensor([float(item.greedy >= CORRECT) for item in graded], dtype=torch.float64)),
        pass_at={
            k: interval(torch.tensor([pass_at_k(config.num_samples, count, k) for count in num_correct], dtype=torch.float64)) for k in ks
        },
        mean_length=sum(sum(item.lengths) for item in graded) / (len(graded) * config.num_samples),
        per_prompt=tuple(per_prompt.tolist()),
        samples=[item.sample for item in graded[:_NUM_SHOWN]],
        blind=interval(torch.tensor(blind, dtype=torch.float64)) if blind else None,
        blind_per_prompt=tuple(blind),
        truncated=sum(item.num_truncated for item in graded) / (len(graded) * config.num_samples),
        prompts_digest=_digest([all_prompts[index] for index in range(num_prompts)]),
    )


class _Graded(NamedTuple):
    """The completions of one prompt."""

    rewards: list[float]
    lengths: list[int]
    greedy: float
    blind: float | None
    num_truncated: int
    sample: Sample
    rows: list[dict[str, Any]]  # the greedy completion is the last


def _digest(prompts: Sequence[Prompt]) -> str:
    return hashlib.sha256(json.dumps([(prompt.key, prompt.answer) for prompt in prompts]).encode()).hexdigest()


def _grade(
    engine: RolloutEngine,
    task: Task,
    sampling: SamplingConfig,
    prompts: Sequence[Prompt],
    indices: Sequence[int],
    config: EvaluationConfig,
    seed: int,
) -> list["_Graded"]:
    """The grades of each prompt."""
    num_samples = config.num_samples
    # (prompts * num_samples) completions, grouped by prompt; greedy decoding uses no noise, so its seeds are 0.
    seeds = [derive_seed(seed, "evaluation", index, sample) for index in indices for sample in range(num_samples)]
    sampled = engine.generate(prompts, num_samples, sampling, seeds=seeds)
    greedy = engine.generate(prompts, 1, sampling.greedy(), seeds=[0] * len(prompts))
    reward = task_reward(task)
    all_rewards, failures = guarded(reward, [prompt for prompt in prompts for _ in range(num_samples)], sampled)
    greedy_rewards, greedy_failures = guarded(reward, prompts, greedy)
    if failures or greedy_failures:
        number = len(failures) + len(greedy_failures)
        _logger.warning("the task's reward failed for %d completions, which count as wrong: %s", number, [*failures, *greedy_failures][0])
    graded = []
    for index, prompt in enumerate(prompts):
        completions: list[Completion] = sampled[index * num_samples : (index + 1) * num_samples]
        rewards = all_rewards[index * num_samples : (index + 1) * num_samples]
        sample = Sample(prompt.text, prompt.answer, completions[0].text, rewards[0])
        blind = None
        if isinstance(task, BlindTask):
            blind = sum(task.blind_reward(prompt, item) >= CORRECT for item in completions) / num_samples
        num_truncated = sum(not item.finished for item in completions)
        lengths = [len(item.token_ids) for item in completions]
        pairs = [*zip(completions, rewards, strict=True), (greedy[index], greedy_rewards[index])]
        rows = [completion_row(config.split, indices[index], prompt, item, {TASK: reward}) for item, reward in pairs]
        graded.append(_Graded(rewards, lengths, greedy_rewards[index], blind, num_truncated, sample, rows))
    return graded
