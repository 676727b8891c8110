"""`python -m gspo_rl.commands.evaluate`: avg@k and pass@k of any saved policy on a held-out split."""

import json
import pkgutil
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING
from transformers.utils.logging import disable_progress_bar

from gspo_rl.evaluation import EvaluationConfig, EvaluationResult, evaluate
from gspo_rl.models.folder import check_path
from gspo_rl.models.recorded import read_recorded
from gspo_rl.records import packed, record_name
from gspo_rl.rollout.sampling import SamplingConfig, SamplingOverrides
from gspo_rl.tasks.fitting import PromptConfig, fitting_task
from triptych.commands.build import build
from triptych.commands.entry_point import entry_point
from triptych.commands.messages import choice_name
from triptych.errors import UserError
from triptych.report import ReportConfig, Samples
from triptych.run.config import RunConfig
from triptych.run.secret import leaves, without_secrets
from triptych.run.session import Run
from triptych.run.targets import is_allowed, origin
from triptych.telemetry.logging import get_logger

_logger = get_logger("evaluate")

_TASKS = "gspo_rl."


@dataclass
class EvaluateConfig(RunConfig):
    """Settings of `gspo-evaluate`.

    Attributes:
        policy: the model to evaluate (group `policy`).
        task: prompts and rewards (group `task`); None for the task that the policy was trained on.
        rollout: the sampler (group `rollout`).
        prompts: the longest prompt, and what a longer one is met with; None for those of the policy's training.
        sampling: length, temperature and truncation of responses, where they differ from those of the policy's training.
        evaluation: split, number of prompts and samples.
        store_completions: whether every completion is kept in `completions/`.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        "task.held_out_share": "task.held_out_fraction",
        "task.match": "task.answer_type",
    }

    policy: Any = MISSING
    task: Any = None
    rollout: Any = MISSING
    prompts: PromptConfig | None = None
    sampling: SamplingOverrides = field(default_factory=SamplingOverrides)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    store_completions: bool = True


@entry_point("gspo", "evaluate", EvaluateConfig)
def main(config: EvaluateConfig) -> float:
    """Evaluates, writes the run's folder and returns the accuracy."""
    disable_progress_bar()  # transformers shows one for every file it reads
    config, sampling = _as_trained(config)
    rows: list[dict[str, Any]] | None = [] if config.store_completions else None
    with Run.open(config) as run:
        task = build(config.task)
        policy = build(config.policy, device=run.device)
        with closing(build(config.rollout, policy)) as engine:
            run.begin({})
            rooms = {config.evaluation.split: policy.max_positions - sampling.max_tokens}
            task = fitting_task(task, config.prompts or PromptConfig(), policy.encode, rooms)
            started = time.perf_counter()
            result = evaluate(engine, task, sampling, config.evaluation, world=run.world, seed=config.seed, rows=rows)
            seconds = time.perf_counter() - started
        if run.world.is_main:
            if rows is not None:
                run.write_file(record_name("evaluation", 0), packed(rows))
            _conclude(config, run, result, sampling, seconds)
        run.world.barrier()
    return result.accuracy.mean


def _as_trained(config: EvaluateConfig) -> tuple[EvaluateConfig, SamplingConfig]:
    """The config with the task that the policy was trained on unless it names one, and the sampling of the evaluation.

    Raises:
        UserError: if the policy's folder tells no task, or one of code that is not allowed.
    """
    path, training = config.policy.get("path"), None
    if isinstance(path, str):
        check_path(path)
        training = read_recorded(Path(path))["training"]
    training = training or {}
    if config.task is None:
        task = training.get("task")
        if not isinstance(task, Mapping) or not isinstance(task.get("_target_"), str):
            raise UserError(
                f"the folder of the policy ({path}) does not tell what it was trained on: choose a task, such as task=arithmetic"
            )
        _check_recorded(task, config.allowed_targets or [])
        config = replace(config, task=task)
    try:
        recorded = SamplingConfig(**(training.get("sampling") or {}))
        if config.prompts is None:
            config = replace(config, prompts=PromptConfig(**(training.get("prompts") or {})))
    except TypeError as error:
        raise UserError(
            f"the folder of the policy ({path}) names settings of sampling that do not exist ({error}): save it again"
        ) from error
    return config, config.evaluation.sampling.over(config.sampling.over(recorded))


def _check_recorded(task: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """Refuses a recorded task that is no task of this package, unless the user allows its code: the folder may come from elsewhere.

    A `_target_` inside its settings would build something before the task is called, so there may be none.

    Raises:
        UserError: naming the target.
    """
    target, settings = task["_target_"], {key: value for key, value in task.items() if key != "_target_"}
    special = sorted(key for key, _ in leaves(settings) if any(part.startswith("_") for part in key.split(".")))
    if special:
        raise UserError(f"the task of the policy's folder has '{special[0]}' among its settings, which could run code: choose a task")
    if is_allowed(target, (), allowed):
        return
    defined = origin(target, {"gspo_rl"})
    found = pkgutil.resolve_name(target) if defined.startswith(_TASKS) else None
    if not (isinstance(found, type) and hasattr(found, "prompts") and hasattr(found, "reward")):
        raise UserError(
            f"the task of the policy's folder is {target}, which is no task of gspo-rl: add allowed_targets=[{target}] if you trust it"
        )


def _conclude(config: EvaluateConfig, run: Run, result: EvaluationResult, sampling: SamplingConfig, seconds: float) -> None:
    k = config.evaluation.num_samples
    rows = {f"avg@{k}": result.accuracy, "greedy": result.greedy} | {f"pass@{n}": value for n, value in result.pass_at.items()}
    summary = {
        "name": config.name,
        "seed": config.seed,
        "policy": _policy_name(config.policy),
        "task": choice_name(config.task),
        "split": config.evaluation.split,
        "num_prompts": len(result.per_prompt),
        "num_samples": k,
        "accuracy": result.accuracy.mean,
        "mean_length": result.mean_length,
        "seconds": seconds,
        "metrics": {name: value._asdict() for name, value in rows.items()},
    }
    run.write_file("completions.jsonl", "".join(json.dumps(sample._asdict()) + "\n" for sample in result.samples))
    shown = [(item.prompt, item.answer, item.completion, f"{item.reward:g}") for item in result.samples]
    page = ReportConfig(
        title=f"Evaluation of {summary['policy']}",
        headline={name: value.percent() for name, value in rows.items()},
        notes=[
            f"{len(result.per_prompt)} prompts of the {config.evaluation.split} split, {k} samples each at temperature "
            f"{sampling.temperature:g}; {100 * config.evaluation.confidence:g} % bootstrap intervals over prompts."
        ],
        samples=[Samples("Samples", ("prompt", "answer", "completion", "reward"), shown)],
    )
    report = run.finish(summary, report=page)
    for name, value in rows.items():
        _logger.info("%-9s %s", name, value.percent())
    _logger.info("%d prompts, %d samples each, %.1f tokens on average, %.0f s", len(result.per_prompt), k, result.mean_length, seconds)
    _logger.info("report    %s", report)


def _policy_name(node: Mapping[str, Any]) -> str:
    path = node.get("path", choice_name(node))
    return str(without_secrets(path)) if not isinstance(path, Mapping) else str(path.get("file", choice_name(path)))


if __name__ == "__main__":
    main()
