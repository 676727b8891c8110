"""State of a training inside a rollout batch and between steps, as a component of the checkpoint."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gspo_rl.data.batch import Batch
from gspo_rl.evaluation import EvaluationResult
from gspo_rl.metrics import MinibatchOutcome, SequenceTable
from triptych.checkpoint.weights import read_safetensors, write_safetensors
from triptych.distributed import World
from triptych.files import write_atomically

_TENSORS = ("input_ids", "response_mask", "sampler_logprobs", "rewards", "advantages")


@dataclass
class Rollout:
    """This rank's shard of a rollout batch, on the CPU.

    Attributes:
        groups: indices of its prompts in the rollout batch.
        batch: `group_size` rows for each of them, in order.
        metrics: rewards and lengths over all ranks.
        num_tokens: prompt and response tokens over all ranks.
        num_response_tokens: response tokens over all ranks.
        old_logprobs: recomputed by the policy before its first update, 0 outside responses; None if the sampler's are used.
        outcomes: of the mini-batches that are done.
    """

    groups: list[int]
    batch: Batch
    metrics: dict[str, float]
    num_tokens: int
    num_response_tokens: int
    old_logprobs: Float[Tensor, "batch tokens"] | None = None
    outcomes: list[MinibatchOutcome] = field(default_factory=list)

    def save(self, directory: Path, world: World) -> None:
        """Writes the shards of all ranks, ordered by group, so that any number of ranks can read theirs."""
        tensors = {name: getattr(self.batch, name) for name in _TENSORS}
        if self.old_logprobs is not None:
            tensors["old_logprobs"] = self.old_logprobs
        shards = world.gather_objects([(self.groups, tensors)])
        if not world.is_main:
            return
        order = torch.tensor([group for groups, _ in shards for group in groups]).argsort()
        merged = {name: _by_group([shard[name] for _, shard in shards], order) for name in tensors}
        columns = self.outcomes[0].sequences.columns if self.outcomes else ()
        for index, outcome in enumerate(self.outcomes):
            merged[f"sequences.{index}"] = outcome.sequences.values.cpu()
        write_safetensors(directory / "rollout.safetensors", merged)
        state = {"num_groups": len(order), "metrics": self.metrics, "tokens": [self.num_tokens, self.num_response_tokens]}
        state |= {"columns": columns, "grad_norms": [outcome.grad_norm for outcome in self.outcomes]}
        write_atomically(directory / "rollout.json", json.dumps(state))

    @classmethod
    def load(cls, directory: Path, groups: Sequence[int], device: torch.device) -> "Rollout":
        """The shard with the prompts `groups` of a rollout batch that `save` wrote."""
        state = json.loads((directory / "rollout.json").read_text())
        tensors = read_safetensors(directory / "rollout.safetensors")
        own = {name: _of_groups(tensors[name], state["num_groups"], groups) for name in (*_TENSORS, "old_logprobs") if name in tensors}
        columns = tuple(state["columns"])
        outcomes = [
            MinibatchOutcome(SequenceTable(columns, tensors[f"sequences.{index}"].to(device)), grad_norm)
            for index, grad_norm in enumerate(state["grad_norms"])
        ]
        batch = Batch(**{name: own[name] for name in _TENSORS})
        num_tokens, num_response_tokens = state["tokens"]
        return cls(list(groups), batch, state["metrics"], num_tokens, num_response_tokens, own.get("old_logprobs"), outcomes)


def _by_group(shards: Sequence[Tensor], order: Tensor) -> Tensor:
    """Rows of all shards, padded to one length, with the groups in `order`."""
    length = max(shard.shape[-1] for shard in shards)
    if shards[0].dim() == 2:
        shards = [torch.nn.functional.pad(shard, (0, length - shard.shape[1])) for shard in shards]
    rows = torch.cat(list(shards))
    return rows.unflatten(0, (len(order), -1))[order].flatten(0, 1)


def _of_groups(rows: Tensor, num_groups: int, groups: Sequence[int]) -> Tensor:
    return rows.unflatten(0, (num_groups, -1))[list(groups)].flatten(0, 1)


class TrainingProgress:
    """Totals, evaluations and an unfinished rollout batch; a component of the checkpoint.

    Args:
        world: the processes of the run.
        groups: this rank's prompts of a rollout batch.

    Attributes:
        train_seconds: in steps, over all invocations.
        num_tokens: prompt and response tokens of all steps and ranks.
        before, after: evaluations before the first and after the last step.
        microbatch_tokens: most tokens of a micro-batch; a resumed run keeps it.
        unfinished: a rollout batch with mini-batches left to train on.
    """

    def __init__(self, world: World, groups: Sequence[int]) -> None:
        self._world = world
        self._groups = groups
        self.train_seconds = 0.0
        self.num_tokens = 0
        self.microbatch_tokens = 0
        self.before: EvaluationResult | None = None
        self.after: EvaluationResult | None = None
        self.unfinished: Rollout | None = None

    def save(self, directory: Path) -> None:
        """Writes everything into `directory`."""
        if self.unfinished is not None:
            self.unfinished.save(directory, self._world)
        if self._world.is_main:
            state: dict[str, Any] = {"train_seconds": self.train_seconds, "num_tokens": self.num_tokens}
            state["is_unfinished"] = self.unfinished is not None
            state["microbatch_tokens"] = self.microbatch_tokens
            state |= {name: None if result is None else result.to_json() for name, result in self._evaluations().items()}
            write_atomically(directory / "trainer.json", json.dumps(state))

    def load(self, directory: Path) -> None:
        """Restores what `save` wrote."""
        state: Mapping[str, Any] = json.loads((directory / "trainer.json").read_text())
        self.train_seconds, self.num_tokens = state["train_seconds"], state["num_tokens"]
        self.microbatch_tokens = state.get("microbatch_tokens", self.microbatch_tokens)
        self.before, self.after = (None if state[name] is None else EvaluationResult.from_json(state[name]) for name in ("before", "after"))
        self.unfinished = Rollout.load(directory, self._groups, self._world.device) if state["is_unfinished"] else None

    def _evaluations(self) -> dict[str, EvaluationResult | None]:
        return {"before": self.before, "after": self.after}
