"""The supervised phase before reinforcement learning, on a task's demonstrations."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model

from gspo_rl.data.batch import Batch, Completion, Prompt, collate
from gspo_rl.models.policy import Policy
from gspo_rl.tasks import DemonstratingTask, Task
from triptych.checkpoint import Saveable
from triptych.distributed import World
from triptych.errors import UserError
from triptych.files import give_default_mode, read_json, sha256, write_atomically
from triptych.optim import OptimizerConfig, build_adamw, learning_rate_at
from triptych.run.secret import without_secrets
from triptych.run.session import Run
from triptych.seeding import generator
from triptych.strategy.ddp import DDPStrategy
from triptych.telemetry.logging import get_logger
from triptych.training.order import ShuffledOrder

_logger = get_logger("cold_start")

WEIGHTS = "model.safetensors"
RECORD = "cold_start.json"


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
    the result of rank 0. Finished phases are kept below `<cache>/cold_start-<fingerprint>/` with a checksum; an unfinished one
    resumes from checkpoints in the run's folder.

    Args:
        policy: the policy with its initial weights.
        task: must be a `DemonstratingTask`.
        config: settings of the phase.
        run: processes, signals, seed and cache; a run that has not begun.
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
    with run.world.main_first() as is_main:
        is_stored = is_main and _is_intact(folder)
    if run.world.broadcast_object(is_stored):
        _logger.info("cold start: read from %s", folder)
    else:
        _train(policy, demonstrations, config, run, fingerprint, lambda: _store(policy, folder, without_secrets(everything)))
    load_model(policy.model, folder / WEIGHTS, device=str(policy.device))


def _is_intact(folder: Path) -> bool:
    """Whether a finished phase is in the cache with the weights that were written; damaged ones are moved aside."""
    if not folder.exists():
        return False
    try:
        record = read_json(folder / RECORD, "the cold start is trained again")
        expected = record.get("sha256") if isinstance(record, dict) else None
        found = sha256(folder / WEIGHTS)
    except (UserError, OSError):
        expected, found = None, ""
    if expected == found:
        return True
    aside = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".damaged", dir=folder.parent))
    folder.rename(aside)
    _logger.warning("cold start: %s does not match its checksum; it is kept as %s and the phase is trained again", folder, aside.name)
    return False


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


def _train(
    policy: Policy,
    demonstrations: Sequence[tuple[Prompt, str]],
    config: ColdStartConfig,
    run: Run,
    fingerprint: str,
    store: Callable[[], None],
) -> None:
    responses = _encode(policy, demonstrations)  # checked before anything is written
    schedule = OptimizerConfig(
        learning_rate=config.learning_rate, warmup_steps=config.warmup_steps, schedule="linear", weight_decay=config.weight_decay
    )
    # A replica on every rank: no communication.
    alone = World(rank=run.world.rank, local_rank=run.world.local_rank, device=run.device)
    strategy = DDPStrategy(alone, max_grad_norm=schedule.max_grad_norm)
    scorer = strategy.prepare(policy.scorer, lambda model: build_adamw(model, schedule))
    state: dict[str, Saveable] = {"model": strategy}
    with run.phase("cold_start", state, fingerprint=fingerprint) as restored:
        for step in run.steps(config.steps, state, first=restored + 1, title="cold start"):
            start = (step.number - 1) * config.batch_size
            batch = _collate(policy, responses[start : start + config.batch_size])
            scores = scorer(batch.input_ids, batch.response_mask, 1.0)
            loss = -scores.logprobs.sum() / batch.response_mask.sum()
            strategy.backward(loss)
            report = strategy.step(learning_rate_at(step.number - 1, config.steps, schedule))
            if report.skipped or not torch.isfinite(loss):
                raise UserError(
                    f"the cold start diverges at step {step.number} (loss {loss.item():.3g}, gradient norm {report.grad_norm:.3g}): "
                    "lower cold_start.learning_rate"
                )
            if step.number == config.steps:
                _logger.info("cold start: %d supervised steps, last loss %.3f", config.steps, loss.item())
        with run.world.main_first() as is_main:
            if is_main:
                store()


def _encode(policy: Policy, demonstrations: Sequence[tuple[Prompt, str]]) -> list[Completion]:
    """Prompts with their demonstrations as responses.

    Raises:
        UserError: if one is too long for the policy.
    """
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
    return responses


def _collate(policy: Policy, responses: Sequence[Completion]) -> Batch:
    zeros = torch.zeros(len(responses))  # rewards and advantages, unused here
    return collate(responses, zeros, zeros, pad_id=policy.pad_id).to(policy.device)


def _store(policy: Policy, folder: Path, everything: Mapping[str, Any]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent))
    save_model(policy.model, str(partial / WEIGHTS))
    partial.chmod(0o755)  # a temporary folder is its owner's only
    give_default_mode([partial / WEIGHTS])
    write_atomically(partial / RECORD, json.dumps({**everything, "sha256": sha256(partial / WEIGHTS)}, indent=1, default=str))
    try:
        partial.rename(folder)
    except OSError:
        # Another run with the same inputs has written the same weights.
        if not folder.is_dir():
            raise
        shutil.rmtree(partial)
