"""`python -m gspo_rl.commands.train`: cold start, reinforcement learning, and what it came to."""

import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from hydra.utils import instantiate
from omegaconf import MISSING
from transformers.utils.logging import disable_progress_bar

from gspo_rl.evaluation import EvaluationConfig, EvaluationResult
from gspo_rl.numerics.objectives import Objective
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.trainer import FitResult, GSPOTrainer, TrainerConfig
from gspo_rl.training.cold_start import ColdStartConfig, cold_start
from triptych.commands.entry_point import entry_point
from triptych.commands.messages import choice_name
from triptych.commands.sweep import is_member
from triptych.evaluation.statistics import paired_difference
from triptych.optim import OptimizerConfig
from triptych.report.render import Chart, ReportConfig, Samples
from triptych.run.config import RunConfig
from triptych.run.session import Run
from triptych.seeding import generator
from triptych.telemetry.logging import get_logger
from triptych.telemetry.tracking.jsonl import read_rows

_logger = get_logger("train")


@dataclass
class TrainConfig(RunConfig):
    """Settings of `gspo-train`.

    Attributes:
        policy: the model to train (group `policy`).
        objective: the loss (group `objective`).
        task: prompts and rewards (group `task`).
        rollout: the sampler (group `rollout`).
        strategy: how the model is placed and stepped (group `strategy`).
        sampling: how responses are drawn.
        cold_start: the supervised phase before.
        optimizer: AdamW and its learning-rate curve.
        trainer: the loop.
        evaluation: what is evaluated before and after.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        "task.held_out_share": "task.held_out_fraction",
    }

    policy: Any = MISSING
    objective: Any = MISSING
    task: Any = MISSING
    rollout: Any = MISSING
    strategy: Any = MISSING
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    cold_start: ColdStartConfig = field(default_factory=ColdStartConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def _check(config: TrainConfig) -> None:
    """An objective that would refuse its hyperparameters does so here, before a model is loaded."""
    objective: Objective = instantiate(config.objective)
    nothing = torch.zeros(1, 1)
    objective(nothing, nothing, torch.zeros(1), torch.ones(1, 1, dtype=torch.bool))


@entry_point("gspo", "train", TrainConfig, check=_check)
def main(config: TrainConfig) -> float:
    """Trains, evaluates, writes the run's folder and returns the held-out accuracy."""
    disable_progress_bar()  # transformers draws one for every file it reads or writes
    objective: Objective = instantiate(config.objective)
    tracker = None if config.tracker is None else instantiate(config.tracker)
    # A constant learning rate does not depend on the number of steps, so a run may simply be made longer.
    budget_keys = () if config.optimizer.depends_on_total_steps else ("trainer.max_steps",)
    with Run.open(config, budget_keys=budget_keys, tracker=tracker) as run:
        task = instantiate(config.task)
        policy = instantiate(config.policy, device=run.device)
        strategy = instantiate(config.strategy, run.world, max_grad_norm=config.optimizer.max_grad_norm)
        with closing(instantiate(config.rollout, policy)) as engine:
            trainer = GSPOTrainer(
                policy,
                engine,
                task,
                objective,
                strategy,
                config.trainer,
                sampling=config.sampling,
                optimizer=config.optimizer,
                evaluation=config.evaluation,
            )
            if not run.checkpoint_steps:  # a resumed run has its weights from the checkpoint
                identity = {"policy": config.policy, "task": config.task}
                cold_start(
                    policy,
                    task,
                    config.cold_start,
                    world=run.world,
                    seed=config.seed,
                    cache_directory=run.cache_directory,
                    identity=identity,
                )
            result = trainer.fit(run)
        if run.world.is_main:
            _conclude(config, run, trainer, result)
        run.world.barrier()
    return result.after.accuracy.mean


def _conclude(config: TrainConfig, run: Run, trainer: GSPOTrainer, result: FitResult) -> None:
    folder = run.directory / "policy"
    partial_folder = run.directory / ".policy.partial"
    shutil.rmtree(partial_folder, ignore_errors=True)
    trainer.policy.save(partial_folder)
    shutil.rmtree(folder, ignore_errors=True)
    partial_folder.rename(folder)

    before, after = result.before, result.after
    gain = paired_difference(
        torch.tensor(before.per_prompt, dtype=torch.float64),
        torch.tensor(after.per_prompt, dtype=torch.float64),
        generator=generator(config.seed, "gain"),
        confidence=config.evaluation.confidence,
    )
    clip_fractions = [row["clip_fraction/tokens"] for row in read_rows(run.directory / "metrics.jsonl") if "clip_fraction/tokens" in row]
    summary = {
        "name": config.name,
        "seed": config.seed,
        "objective": choice_name(config.objective),
        "steps": config.trainer.max_steps,
        "accuracy_before": before.accuracy.mean,
        "accuracy_before_interval": before.accuracy[1:],
        "accuracy_after": after.accuracy.mean,
        "accuracy_after_interval": after.accuracy[1:],
        "accuracy_gain": gain.mean,
        "accuracy_gain_interval": gain[1:],
        "greedy_before": before.greedy.mean,
        "greedy_after": after.greedy.mean,
        "pass_at_k_before": {str(k): value.mean for k, value in before.pass_at.items()},
        "pass_at_k_after": {str(k): value.mean for k, value in after.pass_at.items()},
        "num_prompts": len(after.per_prompt),
        "num_samples": config.evaluation.num_samples,
        "clip_fraction_tokens": sum(clip_fractions) / len(clip_fractions) if clip_fractions else None,
        "train_seconds": result.train_seconds,
        "tokens_per_second": result.tokens_per_second,
        "num_parameters": trainer.policy.num_parameters,
        "world_size": run.world.size,
        "policy": str(folder),
    }
    for name, evaluation in (("before", before), ("after", after)):
        run.write_text(f"completions_{name}.jsonl", "".join(json.dumps(sample._asdict()) + "\n" for sample in evaluation.samples))
    report = run.finish(summary, report=_report(config, run, before, after, result))
    _logger.info("")
    _logger.info("held-out accuracy  %s -> %s  (%+.1f points)", before.accuracy.percent(), after.accuracy.percent(), 100 * gain.mean)
    _logger.info("greedy accuracy    %.1f %% -> %.1f %%", 100 * before.greedy.mean, 100 * after.greedy.mean)
    _logger.info("training took      %.0f s at %.0f tokens per second", result.train_seconds, result.tokens_per_second)
    _logger.info("report             %s", report)
    _logger.info("policy             %s", folder)
    if not config.optimizer.depends_on_total_steps and not is_member():
        # The same overrides, with a larger budget: anything else would be another run.
        dropped = ("trainer.max_steps=", "overwrite=", "resume_step=", "resume=", "-")
        same = [shlex.quote(argument) for argument in sys.argv[1:] if not argument.startswith(dropped)]
        processes = f" NPROC={run.world.size}" if run.world.size > 1 else ""
        _logger.info(
            'go on              make train-gspo%s ARGS="%s"',
            processes,
            " ".join([*same, f"trainer.max_steps={2 * config.trainer.max_steps}"]),
        )
    # Another task, seed or temperature would measure something else, and could ask what was trained on.
    told = ("task", "seed=", "sampling.", "policy.chat=", "output_root=")
    same = [shlex.quote(argument) for argument in sys.argv[1:] if argument.startswith(told)]
    _logger.info('evaluate           make evaluate-gspo ARGS="%s"', " ".join([f"policy.path={folder}", *same]))


def _report(config: TrainConfig, run: Run, before: EvaluationResult, after: EvaluationResult, result: FitResult) -> ReportConfig:
    last = config.trainer.minibatches - 1
    ratio = {f"ratio/minibatch_{last}/q{level}": f"quantile .{level}" for level in ("05", "50", "95")}
    rows = [
        (old.prompt, old.answer, f"{old.completion}\n(reward {old.reward:g})", f"{new.completion}\n(reward {new.reward:g})")
        for old, new in zip(before.samples, after.samples, strict=True)
    ]
    return ReportConfig(
        title=f"{choice_name(config.objective).upper()} on {choice_name(config.task)}: {config.name}",
        headline={
            "held-out accuracy before": f"{100 * before.accuracy.mean:.1f} %",
            "held-out accuracy after": f"{100 * after.accuracy.mean:.1f} %",
            "greedy, before to after": f"{100 * before.greedy.mean:.1f} % to {100 * after.greedy.mean:.1f} %",
            "training": f"{result.train_seconds:.0f} s",
            "tokens per second": f"{result.tokens_per_second:.0f}",
        },
        notes=[
            f"Accuracy is the mean over {len(after.per_prompt)} held-out prompts of "
            f"{config.evaluation.num_samples} samples each, at temperature "
            f"{config.sampling.temperature:g}. One step is a rollout batch of {config.trainer.prompts_per_step} prompts with "
            f"{config.trainer.group_size} samples each, in {config.trainer.minibatches} mini-batches."
        ],
        charts=[
            Chart("Reward", {"reward/mean": "mean", "evaluation/accuracy": "held-out accuracy"}),
            Chart("Groups that teach nothing", {"reward/zero_advantage_groups": "all rewards equal"}, "share of groups"),
            Chart(
                "Clip fraction",
                {
                    "clip_fraction/tokens": "tokens",
                    "clip_fraction/sequences": "sequences",
                    "clip_fraction/sequences_two_sided": "sequences, two-sided",
                },
                "share",
            ),
            Chart("Importance ratio in the last mini-batch", ratio),
            Chart(
                "Displacement",
                {f"ratio_clip_widths/minibatch_{index}": f"mini-batch {index + 1}" for index in range(last + 1)},
                "clip widths",
            ),
            Chart("Entropy", {"entropy": "entropy"}, "nats per token"),
            Chart("KL divergence from the old policy", {"approx_kl": "k3 estimate"}, "nats per token"),
            Chart("Response length", {"length/mean": "all", "length/correct": "correct", "length/incorrect": "incorrect"}, "tokens"),
            Chart("Gradient norm", {"grad_norm": "before clipping"}),
            Chart("Sampler against trainer", {"sampler_difference/max": "largest", "sampler_difference/mean": "mean"}, "nats"),
            Chart(
                "Speed",
                {"timing/generation_tokens_per_second": "generation", "timing/training_tokens_per_second": "training"},
                "tokens per second",
            ),
        ],
        samples=[Samples("Held-out prompts, before and after", ("prompt", "answer", "before", "after"), rows)],
    )


if __name__ == "__main__":
    main()
