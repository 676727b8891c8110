"""The supervised phase before reinforcement learning, on a task's demonstrations."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model

from gspo_rl.data.batch import Batch, Completion, Prompt, collate
from gspo_rl.models.policy import Policy
from gspo_rl.tasks import DemonstratingTask, Task
from triptych.errors import UserError
from triptych.files import write_atomically
from triptych.optim import OptimizerConfig, build_adamw, learning_rate_at, set_learning_rate
from triptych.run.session import Run
from triptych.seeding import generator
from triptych.telemetry.logging import get_logger
from triptych.training.order import ShuffledOrder

_logger = get_logger("cold_start")


@dataclass
class ColdStartConfig:
    """Supervised training on a task's demonstrations (GSPO, section 5.1, starts from a fine-tuned "cold-start" model).

    Attributes:
        steps: optimizer steps; 0 skips the phase.
        batch_size: demonstrations per step.
        learning_rate: peak rate, reached after `warmup_steps` and decayed linearly to 0.
        warmup_steps: steps of linear warm-up.
        weight_decay: decay of matrices.
    """

    steps: int = 0
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup_steps: int = 20
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1:
            raise UserError(f"cold_start.steps is {self.steps} and cold_start.batch_size {self.batch_size}: they need 0 and 1 or more")


def cold_start(policy: Policy, task: Task, config: ColdStartConfig, *, run: Run, identity: Mapping[str, Any]) -> None:
    """Trains `policy` in place on demonstrations, or reads the weights of an earlier run with the same inputs.

    Every rank trains a replica on the same batches, so that the weights do not depend on the number of ranks; then all read
    the result of rank 0. Finished phases are kept below `<cache>/cold_start-<fingerprint>/`.

    Args:
        policy: the policy with its initial weights.
        task: must be a `DemonstratingTask`.
        config: settings of the phase.
        run: processes, signals, seed and cache; a signal ends the phase without a checkpoint.
        identity: everything else that the result depends on (the settings of policy and task).

    Raises:
        UserError: if the task has no demonstrations, or one is too long for the policy.
    """
    if config.steps == 0:
        return
    if not isinstance(task, DemonstratingTask):
        raise UserError(f"cold_start.steps is {config.steps} but {type(task).__name__} has no demonstrations: use cold_start.steps=0")
    demonstrations = _demonstrations(task, config, run.seed)
    everything = {
        "config": asdict(config),
        "seed": run.seed,
        "torch": torch.__version__,
        "initial_weights": _weights_digest(policy),
        "demonstrations": hashlib.sha256(json.dumps([(prompt.text, text) for prompt, text in demonstrations]).encode()).hexdigest(),
        **identity,
    }
    fingerprint = hashlib.sha256(json.dumps(everything, sort_keys=True, default=str).encode()).hexdigest()[:16]
    folder = run.cache_directory / f"cold_start-{fingerprint}"
    if all(run.world.gather_objects([folder.is_dir()])):  # the same decision on all ranks
        _logger.info("cold start: read from %s", folder)
    else:
        _train(policy, demonstrations, config, run)
        with run.world.main_first() as is_main:
            if is_main:
                _store(policy, folder, everything)
    load_model(policy.model, folder / "model.safetensors", device=str(policy.device))


def _demonstrations(task: DemonstratingTask, config: ColdStartConfig, seed: int) -> list[tuple[Prompt, str]]:
    """All demonstrations of the phase in order."""
    prompts = task.prompts("train")
    chosen = [prompts[index] for index in ShuffledOrder(len(prompts), seed=seed).take(0, config.steps * config.batch_size)]
    return [(prompt, task.demonstrate(prompt, generator(seed, "demonstration", index))) for index, prompt in enumerate(chosen)]


def _weights_digest(policy: Policy) -> str:
    digest = hashlib.sha256()
    for name, tensor in policy.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _train(policy: Policy, demonstrations: Sequence[tuple[Prompt, str]], config: ColdStartConfig, run: Run) -> None:
    schedule = OptimizerConfig(
        learning_rate=config.learning_rate, warmup_steps=config.warmup_steps, schedule="linear", weight_decay=config.weight_decay
    )
    optimizer = build_adamw(policy.model, schedule)
    for step in run.steps(config.steps, {}, title="cold start"):
        start = (step.number - 1) * config.batch_size
        batch = _collate(policy, demonstrations[start : start + config.batch_size])
        scores = policy.scorer(batch.input_ids, batch.response_mask, 1.0)
        loss = -scores.logprobs.sum() / batch.response_mask.sum()
        if not torch.isfinite(loss):
            raise UserError(f"the loss of the cold start is {loss.item()} at step {step.number}: lower cold_start.learning_rate")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), schedule.max_grad_norm)
        set_learning_rate(optimizer, learning_rate_at(step.number - 1, config.steps, schedule))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    _logger.info("cold start: %d supervised steps, last loss %.3f", config.steps, loss.item())


def _collate(policy: Policy, demonstrations: Sequence[tuple[Prompt, str]]) -> Batch:
    """Prompts with their demonstrations as responses."""
    responses = []
    for prompt, text in demonstrations:
        token_ids = torch.tensor(policy.encode_response(text))
        responses.append(Completion(policy.encode(prompt), token_ids, torch.zeros(len(token_ids)), text, finished=True))
    longest = max(len(item.prompt_ids) + len(item.token_ids) for item in responses)
    if longest > policy.max_positions:
        raise UserError(
            f"a prompt with its demonstration has {longest} tokens but the policy holds {policy.max_positions} positions: "
            "raise policy.max_positions or choose another task"
        )
    zeros = torch.zeros(len(responses))  # rewards and advantages, unused here
    return collate(responses, zeros, zeros, pad_id=policy.pad_id).to(policy.device)


def _store(policy: Policy, folder: Path, everything: Mapping[str, Any]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent))
    save_model(policy.model, str(partial / "model.safetensors"))
    write_atomically(partial / "cold_start.json", json.dumps(everything, indent=1, default=str))
    try:
        partial.rename(folder)
    except OSError:
        # Another run with the same inputs has written the same weights.
        if not folder.is_dir():
            raise
        shutil.rmtree(partial)
