"""The supervised phase before reinforcement learning: a policy that is right some of the time."""

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

from gspo_rl.data.batch import Completion, Prompt, collate
from gspo_rl.models.policy import Policy
from gspo_rl.tasks import DemonstratingTask, Task
from triptych.distributed import World
from triptych.errors import UserError
from triptych.files import write_atomically
from triptych.optim import OptimizerConfig, build_adamw, learning_rate_at, set_learning_rate
from triptych.seeding import generator
from triptych.telemetry.logging import get_logger, progress
from triptych.training.order import ShuffledOrder

_logger = get_logger("cold_start")


@dataclass
class ColdStartConfig:
    """Supervised training on a task's demonstrations. The paper, too, starts from a fine-tuned "cold-start" model.

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


def cold_start(
    policy: Policy, task: Task, config: ColdStartConfig, *, world: World, seed: int, cache_directory: Path, identity: Mapping[str, Any]
) -> None:
    """Trains `policy` in place on demonstrations, or takes the weights from an earlier run with the same inputs.

    Rank 0 trains and the others read its result, so that every number of ranks begins with the same weights.

    Args:
        policy: the policy, freshly built.
        task: must be a `DemonstratingTask`.
        config: the phase's settings.
        world: the processes of the run.
        seed: seed of the demonstrations and their order.
        cache_directory: finished phases live below `cold_start-<fingerprint>/`.
        identity: everything else the result depends on (the policy's and the task's settings).

    Raises:
        UserError: if the task has no demonstrations, or one is too long for the policy.
    """
    if config.steps == 0:
        return
    if not isinstance(task, DemonstratingTask):
        raise UserError(f"cold_start.steps is {config.steps} but {type(task).__name__} has no demonstrations: use cold_start.steps=0")
    demonstrations = _demonstrations(task, config, seed)
    everything = {
        "config": asdict(config),
        "seed": seed,
        "torch": torch.__version__,
        "initial_weights": _weights_digest(policy),
        "demonstrations": hashlib.sha256(json.dumps([(prompt.text, text) for prompt, text in demonstrations]).encode()).hexdigest(),
        **identity,
    }
    fingerprint = hashlib.sha256(json.dumps(everything, sort_keys=True, default=str).encode()).hexdigest()[:16]
    folder = cache_directory / f"cold_start-{fingerprint}"
    with world.main_first() as is_main:
        if is_main and folder.is_dir():
            _logger.info("cold start: taken from %s", folder)
        elif is_main:
            _train(policy, demonstrations, config)
            _store(policy, folder, everything)
    load_model(policy.model, folder / "model.safetensors", device=str(policy.device))


def _demonstrations(task: DemonstratingTask, config: ColdStartConfig, seed: int) -> list[tuple[Prompt, str]]:
    """All demonstrations of the phase in order; a fraction of a second for a laptop's phase."""
    prompts = task.prompts("train")
    chosen = [prompts[index] for index in ShuffledOrder(len(prompts), seed=seed).take(0, config.steps * config.batch_size)]
    return [(prompt, task.demonstrate(prompt, generator(seed, "demonstration", place))) for place, prompt in enumerate(chosen)]


def _weights_digest(policy: Policy) -> str:
    digest = hashlib.sha256()
    for name, tensor in policy.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _train(policy: Policy, demonstrations: Sequence[tuple[Prompt, str]], config: ColdStartConfig) -> None:
    schedule = OptimizerConfig(
        learning_rate=config.learning_rate, warmup_steps=config.warmup_steps, schedule="linear", weight_decay=config.weight_decay
    )
    optimizer = build_adamw(policy.model, schedule)
    with progress(config.steps, "cold start") as bar:
        for step in range(config.steps):
            taught = []
            for prompt, text in demonstrations[step * config.batch_size : (step + 1) * config.batch_size]:
                token_ids = policy.encode_response(text)
                taught.append(Completion(policy.encode(prompt), token_ids, (0.0,) * len(token_ids), text, finished=True))
            longest = max(len(item.prompt_ids) + len(item.token_ids) for item in taught)
            if longest > policy.max_positions:
                raise UserError(
                    f"a prompt with its demonstration has {longest} tokens but the policy holds {policy.max_positions} positions: "
                    "raise policy.max_positions or choose another task"
                )
            nothing = torch.zeros(len(taught))
            batch = collate(taught, nothing, nothing, pad_id=policy.pad_id).to(policy.device)
            scores = policy.scorer(batch.input_ids, batch.response_mask, 1.0)
            loss = -scores.logprobs.sum() / batch.response_mask.sum()
            if not torch.isfinite(loss):
                raise UserError(f"the cold start's loss is {loss.item()} at step {step + 1}: lower cold_start.learning_rate")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.model.parameters(), schedule.max_grad_norm)
            set_learning_rate(optimizer, learning_rate_at(step, config.steps, schedule))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            bar.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
            bar.update()
    _logger.info("cold start: %d supervised steps, last loss %.3f", config.steps, loss.item())


def _store(policy: Policy, folder: Path, everything: Mapping[str, Any]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent))
    save_model(policy.model, str(partial / "model.safetensors"))
    write_atomically(partial / "cold_start.json", json.dumps(everything, indent=1, default=str))
    try:
        partial.rename(folder)
    except OSError:
        # Another run with the same inputs was faster; its weights are the same.
        if not folder.is_dir():
            raise
        shutil.rmtree(partial)
