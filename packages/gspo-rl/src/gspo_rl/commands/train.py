"""`python -m gspo_rl.commands.train`: cold start, reinforcement learning, evaluation before and after."""

import json
import shlex
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from omegaconf import MISSING
from transformers.utils.logging import disable_progress_bar

from gspo_rl.evaluation import EvaluationConfig
from gspo_rl.numerics.objectives import Objective
from gspo_rl.report import summarize, training_report
from gspo_rl.rewards import TASK, RewardConfig, build_rewards
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.tasks.fitting import PromptConfig, fitting_task
from gspo_rl.trainer import FitResult, GSPOTrainer, TrainerConfig
from gspo_rl.training.cold_start import ColdStartConfig, cold_start
from gspo_rl.training.learning_rate import with_rate
from triptych.commands.build import build
from triptych.commands.entry_point import entry_point
from triptych.commands.messages import choice_name
from triptych.commands.sweep import is_member
from triptych.optim import OptimizerConfig
from triptych.run.config import RunConfig
from triptych.run.secret import without_secrets
from triptych.run.session import Run
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
        rewards: weights of the task's reward and of further reward functions, by name.
        rollout: the sampler (group `rollout`).
        strategy: how the model is placed and stepped (group `strategy`).
        prompts: the longest prompt, and what a longer one is met with.
        sampling: length, temperature and truncation of responses.
        adapter: an update that is trained instead of all parameters (group `adapter`); None for all.
        cold_start: the supervised phase before.
        optimizer: AdamW and its learning-rate curve.
        trainer: the loop.
        evaluation: settings of the evaluations before and after.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        "task.held_out_share": "task.held_out_fraction",
        "task.match": "task.answer_type",
    }

    policy: Any = MISSING
    objective: Any = MISSING
    task: Any = MISSING
    rewards: dict[str, RewardConfig] = field(default_factory=lambda: {TASK: RewardConfig()})
    rollout: Any = MISSING
    strategy: Any = MISSING
    prompts: PromptConfig = field(default_factory=PromptConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    adapter: Any = None
    cold_start: ColdStartConfig = field(default_factory=ColdStartConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def _check(config: TrainConfig) -> None:
    """Checks the hyperparameters of the objective before a model is loaded."""
    objective: Objective = build(config.objective)
    zeros = torch.zeros(1, 1)
    objective(zeros, zeros, torch.zeros(1), torch.ones(1, 1, dtype=torch.bool))


@entry_point("gspo", "train", TrainConfig, check=_check)
def main(config: TrainConfig) -> float:
    """Trains, evaluates, writes the run's folder and returns the held-out accuracy."""
    disable_progress_bar()  # transformers shows one for every file it reads or writes
    objective: Objective = build(config.objective)
    tracker = None if config.tracker is None else build(config.tracker)
    # A constant learning rate does not depend on the number of steps, so a finished run may be extended.
    budget_keys = () if config.optimizer.depends_on_total_steps else ("trainer.max_steps",)
    with Run.open(config, budget_keys=budget_keys, tracker=tracker) as run:
        task = build(config.task)
        policy = build(config.policy, device=run.device)
        if config.adapter is not None:
            policy.train_with(build(config.adapter))
        sampling = config.evaluation.sampling.over(config.sampling)
        lengths = {"train": config.sampling.max_tokens}
        lengths[config.evaluation.split] = max(sampling.max_tokens, lengths.get(config.evaluation.split, 0))
        rooms = {split: policy.max_positions - length for split, length in lengths.items()}
        task = fitting_task(task, config.prompts, policy.encode, rooms)
        policy.training = {"task": _shareable(config.task), "prompts": asdict(config.prompts), "sampling": asdict(sampling)}
        strategy = build(config.strategy, run.world, max_grad_norm=config.optimizer.max_grad_norm)
        with closing(build(config.rollout, policy)) as engine:
            trainer = GSPOTrainer(
                policy,
                engine,
                build_rewards(task, config.rewards, build),
                objective,
                strategy,
                config.trainer,
                sampling=config.sampling,
                optimizer=with_rate(config.optimizer, policy),
                evaluation=config.evaluation,
            )
            if not run.checkpoint_steps:  # a resumed run reads its weights from the checkpoint
                identity = {"policy": config.policy, "task": config.task}
                # Only where they are set, so that caches from before stay valid.
                identity |= {} if config.adapter is None else {"adapter": config.adapter}
                identity |= {} if config.prompts == PromptConfig() else {"prompts": asdict(config.prompts)}
                cold_start(policy, task, config.cold_start, run=run, identity=identity)
            result = trainer.fit(run)
        if run.world.is_main:
            _conclude(config, run, trainer, result)
        run.world.barrier()
    return result.after.accuracy.mean


def _shareable(task: Any) -> Any:
    """The node of a task, for the policy's folder; None if it holds something from the environment, which stays unwritten."""
    return task if without_secrets(task) == task else None


def _conclude(config: TrainConfig, run: Run, trainer: GSPOTrainer, result: FitResult) -> None:
    folder = run.directory / "policy"
    with run.staging(folder.name) as partial:
        trainer.policy.save(partial)
    for name, evaluation in (("before", result.before), ("after", result.after)):
        run.write_file(f"completions_{name}.jsonl", "".join(json.dumps(sample._asdict()) + "\n" for sample in evaluation.samples))
    summary = {
        "name": config.name,
        "seed": config.seed,
        "objective": choice_name(config.objective),
        "steps": config.trainer.max_steps,
        **summarize(result, read_rows(run.directory / "metrics.jsonl"), seed=config.seed, confidence=config.evaluation.confidence),
        "num_samples": config.evaluation.num_samples,
        "num_parameters": trainer.policy.num_parameters,
        "world_size": run.world.size,
        "policy": str(folder),
    }
    temperature = config.evaluation.sampling.over(config.sampling).temperature
    widths = (config.objective.get("clip_low"), config.objective.get("clip_high"))
    page = training_report(
        f"{choice_name(config.objective).upper()} on {choice_name(config.task)}: {config.name}",
        f"Accuracy is the mean over {len(result.after.per_prompt)} held-out prompts of {config.evaluation.num_samples} samples each, at "
        f"temperature {temperature:g}. One step is a rollout batch of {config.trainer.prompts_per_step} prompts with "
        f"{config.trainer.group_size} samples each, in {config.trainer.minibatches} mini-batches.",
        result,
        num_minibatches=config.trainer.minibatches,
        clip=widths if all(widths) else None,
    )
    report = run.finish(summary, report=page)
    before, after = result.before, result.after
    _logger.info("")
    gain = "of other prompts" if summary["accuracy_gain"] is None else f"{100 * summary['accuracy_gain']:+.1f} points"
    _logger.info("held-out accuracy  %s -> %s  (%s)", before.accuracy.percent(), after.accuracy.percent(), gain)
    _logger.info("greedy accuracy    %.1f %% -> %.1f %%", 100 * before.greedy.mean, 100 * after.greedy.mean)
    if before.blind is not None and after.blind is not None:
        _logger.info("right last value   %s -> %s, whatever the format", before.blind.percent(), after.blind.percent())
    _logger.info("training           %.0f s at %.0f tokens per second", result.train_seconds, result.tokens_per_second)
    _logger.info("report             %s", report)
    _logger.info("policy             %s", folder)
    _log_next_commands(config, run, folder)


def _log_next_commands(config: TrainConfig, run: Run, folder: Path) -> None:
    """The commands that continue and evaluate this run: its own overrides with a larger budget, or those of the task."""
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    if not config.optimizer.depends_on_total_steps and not is_member():
        changed = ("trainer.max_steps=", "overwrite=", "resume_step=", "resume=", "changed=")
        same = [shlex.quote(argument) for argument in arguments if not argument.startswith(changed)]
        processes = f" NPROC={run.world.size}" if run.world.size > 1 else ""
        longer = " ".join([*same, f"trainer.max_steps={2 * config.trainer.max_steps}"])
        _logger.info('continue           make train-gspo%s ARGS="%s"', processes, longer)
    # The policy's folder tells its task and sampling. Another seed would measure with other noise.
    same = [shlex.quote(argument) for argument in arguments if argument.startswith(("seed=", "output_root="))]
    _logger.info('evaluate           make evaluate-gspo ARGS="%s"', " ".join([f"policy.path={folder}", *same]))


if __name__ == "__main__":
    main()
