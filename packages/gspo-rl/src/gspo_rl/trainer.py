"""The loop: rollout, reward, advantage, loss, step."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gspo_rl.data.batch import Batch, Completion, Prompt, collate, microbatches
from gspo_rl.evaluation import EvaluationConfig, EvaluationResult, evaluate
from gspo_rl.metrics import MinibatchOutcome, SequenceTable, minibatch_metrics, rollout_metrics, sequence_table
from gspo_rl.models.policy import Policy
from gspo_rl.numerics.advantages import group_relative_advantages
from gspo_rl.numerics.objectives import Objective
from gspo_rl.rollout import RolloutEngine
from gspo_rl.rollout.sampling import SamplingConfig, check_lengths
from gspo_rl.tasks import Task
from triptych.checkpoint import Saveable
from triptych.checkpoint.export import Exportable
from triptych.distributed import World
from triptych.errors import UserError
from triptych.files import write_atomically
from triptych.optim import OptimizerConfig, build_adamw, learning_rate_at
from triptych.run.session import Run
from triptych.seeding import derive_seed
from triptych.strategy import Strategy
from triptych.telemetry.flops import FlopsMeter
from triptych.telemetry.logging import get_logger, progress
from triptych.telemetry.stopwatch import Stopwatch
from triptych.training.order import ShuffledOrder

_logger = get_logger("trainer")

OLD_LOGPROBS = ("sampler", "recompute")
COLUMNS = ("reward/mean", "clip_fraction/sequences", "entropy", "length/mean", "timing/tokens_per_second", "evaluation/accuracy")
_NUM_CHECKED_PROMPTS = 256


@dataclass
class TrainerConfig:
    """The loop's settings.

    Attributes:
        max_steps: number of steps; a step is one rollout batch and its mini-batches.
        prompts_per_step: distinct prompts in a rollout batch, over all ranks.
        group_size: samples per prompt.
        minibatches: optimizer steps that one rollout batch is divided into (paper: 4).
        microbatch_tokens: most padded tokens in one forward and backward; changes memory and speed, not the gradient.
        old_logprobs: where the ratio's denominator comes from: `sampler` takes what the rollout engine recorded (for
            engines of the policy's own float32 precision), `recompute` asks the policy before the first update. The
            first mini-batch needs neither: its weights are the old ones, and its ratio is exactly 1.
        evaluate_every: evaluate after each multiple of this many steps as well; 0 for only before and after.
    """

    max_steps: int = 100
    prompts_per_step: int = 16
    group_size: int = 8
    minibatches: int = 4
    microbatch_tokens: int = 16384
    old_logprobs: str = "sampler"
    evaluate_every: int = 0

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise UserError(f"trainer.group_size is {self.group_size}: advantages compare samples of one prompt, so it must be 2 or more")
        if self.max_steps < 1 or self.microbatch_tokens < 1 or self.minibatches < 1:
            raise UserError(
                f"trainer.max_steps is {self.max_steps}, trainer.minibatches {self.minibatches} and trainer.microbatch_tokens "
                f"{self.microbatch_tokens}: all must be 1 or more"
            )
        if self.prompts_per_step < 1 or self.prompts_per_step % self.minibatches:
            raise UserError(
                f"trainer.prompts_per_step is {self.prompts_per_step}, which {self.minibatches} mini-batches cannot share evenly: "
                "make it a multiple of trainer.minibatches"
            )
        if self.old_logprobs not in OLD_LOGPROBS:
            raise UserError(f"trainer.old_logprobs is '{self.old_logprobs}': choose one of {', '.join(OLD_LOGPROBS)}")
        if self.evaluate_every < 0:
            raise UserError(f"trainer.evaluate_every is {self.evaluate_every}: it must be 0 or more")


class FitResult(NamedTuple):
    """What a finished run came to."""

    before: EvaluationResult
    after: EvaluationResult
    train_seconds: float
    tokens_per_second: float


class GSPOTrainer:
    """Trains a policy by group-relative reinforcement learning with any objective of `gspo_rl.numerics.objectives`.

    Args:
        policy: the policy to train, in place.
        engine: samples from it.
        task: prompts and rewards.
        objective: losses from log-probabilities, hyperparameters bound.
        strategy: places and steps the model.
        config: the loop's settings.
        sampling: how responses are drawn.
        optimizer: AdamW and its learning-rate curve, counted in optimizer steps.
        evaluation: what is evaluated before and after.

    Raises:
        UserError: if the settings contradict the engine or the task.
    """

    def __init__(
        self,
        policy: Policy,
        engine: RolloutEngine,
        task: Task,
        objective: Objective,
        strategy: Strategy,
        config: TrainerConfig,
        *,
        sampling: SamplingConfig,
        optimizer: OptimizerConfig,
        evaluation: EvaluationConfig,
    ) -> None:
        self.policy = policy
        self._engine = engine
        self._task = task
        self._objective = objective
        self._strategy = strategy
        self._config = config
        self._sampling = sampling
        self._optimizer = optimizer
        self._evaluation = evaluation
        self._prompts = task.prompts("train")
        self._progress: _Progress
        self._num_skipped = 0
        self._watch = Stopwatch(policy.device)
        self._meter: FlopsMeter
        self._forward_tokens: list[int] = []  # padded, of each forward of a step
        self._check()

    def fit(self, run: Run) -> FitResult:
        """Trains until `max_steps`, going on from the run's newest checkpoint if it has one."""
        config = self._config
        done = self._progress = _Progress(run.world, self._my_groups(run.world))
        state: dict[str, Saveable] = {"model": self._strategy, "trainer": done}
        if config.prompts_per_step % (config.minibatches * run.world.size):
            raise UserError(
                f"trainer.prompts_per_step is {config.prompts_per_step}, which {config.minibatches} mini-batches on "
                f"{run.world.size} processes "
                f"cannot share evenly: make it a multiple of {config.minibatches * run.world.size}"
            )
        order = ShuffledOrder(len(self._prompts), seed=run.seed)
        exportable = Exportable("hugging_face", "model", self.policy.scorer, self.policy.save_files)
        self.policy.scorer = self._strategy.prepare(self.policy.scorer, lambda model: build_adamw(model, self._optimizer))
        self._meter = FlopsMeter(self.policy.scorer, run.peak_flops(self._strategy.precision))
        restored = run.begin(state, columns=COLUMNS, exportable=exportable)
        if restored is not None:
            self._engine.update_weights(self._strategy.full_parameters(), version=restored * config.minibatches)
        if restored is None:
            done.before = self._evaluate(run)
            run.log(_accuracies(done.before), step=0)
            run.checkpoint(0, state)
        self._num_skipped = done.num_skipped
        first = 1 + (restored or 0)
        run.note_signals()
        with progress(config.max_steps, "training", initial=first - 1, enabled=run.world.is_main) as bar:
            for step in range(first, config.max_steps + 1):
                started = time.perf_counter()
                metrics, num_tokens = self.train_step(run, order, step, state)
                done.advance(step, time.perf_counter() - started, num_tokens)
                metrics["timing/step_seconds"] = time.perf_counter() - started
                metrics["timing/tokens_per_second"] = num_tokens / metrics["timing/step_seconds"]
                run.end_step()
                is_interrupted = run.is_interrupted()
                # After a step that was left out the weights may be broken: the last good checkpoint stays the newest.
                is_sound = self._num_skipped == 0
                checkpoint_is_due = is_interrupted or (run.is_due(step) and is_sound) or step == config.max_steps
                evaluation_is_due = step == config.max_steps or (config.evaluate_every > 0 and step % config.evaluate_every == 0)
                if checkpoint_is_due or evaluation_is_due:
                    self._check_weights(run, step)
                if evaluation_is_due:
                    done.after = self._evaluate(run)
                    metrics.update(_accuracies(done.after))
                    is_interrupted = step < config.max_steps and run.is_interrupted()  # it may have taken long
                    checkpoint_is_due |= is_interrupted
                run.log(metrics, step=step)
                if checkpoint_is_due:
                    done.num_skipped = self._num_skipped
                    run.checkpoint(step, state)
                if is_interrupted:
                    run.stop(step)
                bar.update()
        run.wait_for_checkpoint()
        self._meter.close()
        self._strategy.gather()
        if done.after is None:  # a run whose last checkpoint is already that of max_steps, evaluated at another time
            done.after = self._evaluate(run)
        assert done.before is not None
        return FitResult(done.before, done.after, done.train_seconds, done.num_tokens / max(done.train_seconds, 1e-9))

    def train_step(self, run: Run, order: ShuffledOrder, step: int, state: Mapping[str, Saveable]) -> tuple[dict[str, float], int]:
        """One rollout batch and its mini-batches; returns the step's metrics and its number of tokens over all ranks.

        A signal between two mini-batches saves `state` with the batch as it stands, and stops.
        """
        config = self._config
        rollout = self._progress.unfinished or self._collect(run, order, step)
        self._progress.unfinished = None
        generated = time.perf_counter()

        completions, rewards = rollout.completions, rollout.rewards
        advantages = group_relative_advantages(rewards)
        with self._watch.phase("data"):
            batch = collate(completions, rewards.flatten(), advantages.flatten(), pad_id=self.policy.pad_id).to(run.device)
        metrics = rollout_metrics(completions, rewards, run.world)

        rows_per_minibatch = len(batch) // config.minibatches
        pieces = [batch.select(range(index * rows_per_minibatch, (index + 1) * rows_per_minibatch)) for index in range(config.minibatches)]
        if config.old_logprobs == "recompute" and rollout.old_logprobs is None:
            # Of the first mini-batch nobody asks: its weights are the old ones.
            first = [item.logprobs for item in completions[:rows_per_minibatch]]
            with self._watch.phase("old_logprobs"):
                rollout.old_logprobs = first + [row for piece in pieces[1:] for row in self._old_logprobs(piece, run.world)]
        self._meter.arm()
        self._forward_tokens = []
        for index in range(len(rollout.outcomes), config.minibatches):
            piece = pieces[index]
            old = None if index == 0 else piece.sampler_logprobs
            if index and rollout.old_logprobs is not None:
                old = piece.padded(rollout.old_logprobs[index * rows_per_minibatch : (index + 1) * rows_per_minibatch])
            optimizer_step = (step - 1) * config.minibatches + index
            learning_rate = learning_rate_at(optimizer_step, config.max_steps * config.minibatches, self._optimizer)
            sequences = self.accumulate_gradient(piece, old, run.world)
            with self._watch.phase("optimizer"):
                report = self._strategy.step(learning_rate)
            self._num_skipped = self._num_skipped + 1 if report.skipped else 0
            if self._num_skipped >= self._optimizer.max_skipped_steps:
                raise self._diverged(run, step, f"the gradient is not finite for {self._num_skipped} optimizer steps in a row", index)
            rollout.outcomes.append(MinibatchOutcome(sequences, report.grad_norm))
            if index + 1 < config.minibatches and run.is_interrupted():
                self._progress.unfinished = rollout
                if self._num_skipped:
                    self._check_weights(run, step)
                self._progress.num_skipped = self._num_skipped
                run.checkpoint(step - 1, state)
                run.stop(step - 1)
        if self._num_skipped:
            self._check_weights(run, step)  # before anything samples with them
        outcomes = rollout.outcomes
        with self._watch.phase("weights"):
            self._engine.update_weights(self._strategy.full_parameters(), version=step * config.minibatches)
        trained = time.perf_counter()

        metrics.update(minibatch_metrics(outcomes))
        metrics["skipped_steps"] = float(sum(not math.isfinite(outcome.grad_norm) for outcome in outcomes))
        metrics["learning_rate"] = learning_rate
        num_response = int(run.world.all_reduce_sum(batch.response_mask.sum().cpu()))
        num_tokens = int(run.world.all_reduce_sum(torch.tensor(sum(len(item.prompt_ids) + len(item.token_ids) for item in completions))))
        timings = self._watch.read()
        seconds = sum(timings[f"timing/{phase}_seconds"] for phase in ("forward", "backward", "optimizer"))
        metrics |= timings | self._meter.utilisation(forwards=sum(self._forward_tokens) / self._forward_tokens[0], seconds=seconds)
        metrics["timing/training_seconds"] = trained - generated
        if "timing/generation_seconds" in timings:  # not where the batch came from a checkpoint
            metrics["timing/generation_tokens_per_second"] = num_response / timings["timing/generation_seconds"]
        metrics["timing/training_tokens_per_second"] = num_tokens / (trained - generated)
        return metrics, num_tokens

    def _collect(self, run: Run, order: ShuffledOrder, step: int) -> "Rollout":
        """This rank's share of a fresh rollout batch, graded."""
        groups = self._my_groups(run.world)
        indices = order.take((step - 1) * self._config.prompts_per_step, self._config.prompts_per_step)
        prompts = [self._prompts[indices[group]] for group in groups]
        with self._watch.phase("generation"):
            completions = self._rollout(prompts, groups, run.seed, step)
        with self._watch.phase("reward"):
            rewards = self._rewards(prompts, completions)
        return Rollout(groups, completions, rewards)

    def _my_groups(self, world: World) -> list[int]:
        """This rank's prompts of a rollout batch: an equal share of every mini-batch, so that those stay the same sets."""
        per_minibatch = self._config.prompts_per_step // self._config.minibatches
        share = world.shard(per_minibatch)
        return [index * per_minibatch + place for index in range(self._config.minibatches) for place in share]

    def _rollout(self, prompts: Sequence[Prompt], groups: Sequence[int], seed: int, step: int) -> list[Completion]:
        size = self._config.group_size
        seeds = [derive_seed(seed, "rollout", step, group, sample) for group in groups for sample in range(size)]
        return self._engine.generate(prompts, size, self._sampling, seeds=seeds)

    def _rewards(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Float[Tensor, "prompts group"]:
        size = self._config.group_size
        rewards = [self._task.reward(prompts[place // size], completion) for place, completion in enumerate(completions)]
        return torch.tensor(rewards, dtype=torch.float32).view(len(prompts), size)

    def _microbatches(self, piece: Batch, world: World) -> list[tuple[Tensor, Batch]]:
        """The mini-batch in pieces; as many on all ranks, where these meet in every forward."""
        parts = list(microbatches(piece, max_tokens=self._config.microbatch_tokens))
        if self._strategy.syncs_in_forward and world.size > 1:
            most = max(world.gather_objects([len(parts)]))
            parts = list(microbatches(piece, max_tokens=self._config.microbatch_tokens, at_least=most))
        return parts

    def _old_logprobs(self, piece: Batch, world: World) -> list[tuple[float, ...]]:
        """What the policy gives the responses of a mini-batch before the first update, a row of response tokens each."""
        recomputed = torch.zeros_like(piece.sampler_logprobs)
        with torch.no_grad():
            for rows, part in self._microbatches(piece, world):
                scores = self.policy.scorer(part.input_ids, part.response_mask, self._sampling.temperature)
                recomputed[rows, : scores.logprobs.shape[1]] = scores.logprobs
        return [tuple(row[mask].tolist()) for row, mask in zip(recomputed, piece.response_mask, strict=True)]

    def accumulate_gradient(self, piece: Batch, old_logprobs: Float[Tensor, "batch tokens"] | None, world: World) -> SequenceTable:
        """Adds the mini-batch's gradient, and returns its per-sequence numbers over all ranks.

        Every micro-batch is divided by the one global sum of weights, so how the mini-batch is cut, ordered or
        spread over ranks cannot change the gradient. `old_logprobs` is None in the first mini-batch, whose weights
        are still the old ones.
        """
        total_weight = self._total_weight(piece, world)
        columns: tuple[str, ...] = ()
        numbers = torch.zeros(len(piece), 0, dtype=torch.float64, device=piece.input_ids.device)
        parts = self._microbatches(piece, world)
        for place, (rows, part) in enumerate(parts):
            with self._strategy.microbatch(last=place + 1 == len(parts)):
                with self._watch.phase("forward"):
                    scores = self.policy.scorer(part.input_ids, part.response_mask, self._sampling.temperature)
                    old = scores.logprobs.detach() if old_logprobs is None else old_logprobs[rows, : scores.logprobs.shape[1]]
                    output = self._objective(
                        scores.logprobs, old, part.advantages, part.response_mask, behavior_logprobs=part.sampler_logprobs
                    )
                with self._watch.phase("backward"):
                    self._strategy.backward(output.losses.sum() / total_weight)
            self._forward_tokens.append(part.input_ids.numel())
            columns, values = sequence_table(part, scores, old, output)
            if not place:
                numbers = numbers.new_zeros(len(piece), len(columns))
            numbers[rows] = values
        return SequenceTable(columns, world.all_gather(numbers))

    def _total_weight(self, piece: Batch, world: World) -> float:
        """What the losses of a mini-batch are divided by: the weights of all ranks' sequences, which the mask alone decides."""
        zeros = torch.zeros_like(piece.sampler_logprobs)
        with torch.no_grad():
            weights = self._objective(zeros, zeros, piece.advantages, piece.response_mask, behavior_logprobs=zeros).weights
        return float(world.all_reduce_sum(weights.double().sum()))

    def _evaluate(self, run: Run) -> EvaluationResult:
        run.rest()
        return evaluate(self._engine, self._task, self._sampling, self._evaluation, world=run.world, seed=run.seed)

    def _check(self) -> None:
        if self.policy.dtype != torch.float32:
            raise UserError(
                f"the policy is of {self.policy.dtype}, in which most AdamW steps round away: train with policy.dtype=float32 "
                "(other precisions can be evaluated)"
            )
        if self._config.old_logprobs == "sampler" and not self._engine.is_exact:
            raise UserError(
                f"trainer.old_logprobs=sampler needs a sampler that computes in float32 and repeats itself, not this "
                f"{type(self._engine).__name__}: the difference would pass for a policy change; use trainer.old_logprobs=recompute"
            )
        if self._config.old_logprobs == "sampler" and self._strategy.precision != "float32":
            raise UserError(
                f"trainer.old_logprobs=sampler needs a forward of float32, not strategy.precision={self._strategy.precision}: the "
                "difference would pass for a policy change; use trainer.old_logprobs=recompute"
            )
        if self._sampling.temperature == 0:
            raise UserError("sampling.temperature is 0: all samples of a prompt would be the same, and none could be reinforced; use 1")
        for split, prompts in (("train", self._prompts), ("held_out", self._task.prompts(self._evaluation.split))):
            if len(prompts) == 0:
                raise UserError(f"the task is empty: its {split} split has no prompt")
        # A file of questions is checked whole; of a task that makes its prompts on the spot, a sample has to do.
        num_checked = len(self._prompts) if isinstance(self._prompts, list) else _NUM_CHECKED_PROMPTS
        for prompts in (self._prompts[:num_checked], self._task.prompts(self._evaluation.split)[: self._evaluation.num_prompts]):
            lengths = [len(self.policy.encode(prompt)) for prompt in prompts]
            check_lengths(lengths, self._sampling.max_tokens, self.policy.max_positions)

    def _check_weights(self, run: Run, step: int) -> None:
        """A checkpoint must not be the first to hold weights that the last update broke."""
        if not all(bool(torch.isfinite(parameter).all()) for _, parameter in self._strategy.full_parameters()):
            raise self._diverged(run, step, "a weight is not finite", self._config.minibatches - 1)

    def _diverged(self, run: Run, step: int, what: str, minibatch: int) -> UserError:
        steps = run.checkpoint_steps
        kept = f"the checkpoint of step {steps[-1]} is intact" if steps else "there is no checkpoint"
        return UserError(
            f"{what} at step {step}, mini-batch {minibatch + 1} of {self._config.minibatches}: training has stopped and {kept}; "
            "lower optimizer.learning_rate"
        )


@dataclass
class Rollout:
    """One rank's share of a rollout batch on its way through the mini-batches.

    Attributes:
        groups: places of its prompts in the rollout batch.
        completions: `group_size` for each of them, in order.
        rewards: of shape (prompts, group).
        old_logprobs: per completion, where they were recomputed; None where they are the sampler's.
        outcomes: of the mini-batches that are done.
    """

    groups: list[int]
    completions: list[Completion]
    rewards: Float[Tensor, "prompts group"]
    old_logprobs: list[tuple[float, ...]] | None = None
    outcomes: list[MinibatchOutcome] = field(default_factory=list)

    def to_json(self, world: World) -> dict[str, Any]:
        """The shares of all ranks as plain values, by prompt, so that any number of ranks can divide them anew."""
        size = self.rewards.shape[1]
        mine = []
        for place, group in enumerate(self.groups):
            rows = slice(place * size, (place + 1) * size)
            old = None if self.old_logprobs is None else self.old_logprobs[rows]
            entry = {"group": group, "completions": [asdict(item) for item in self.completions[rows]], "old_logprobs": old}
            mine.append(entry | {"rewards": self.rewards[place].tolist()})
        outcomes = [
            {"columns": outcome.sequences.columns, "sequences": outcome.sequences.values.tolist(), "grad_norm": outcome.grad_norm}
            for outcome in self.outcomes
        ]
        return {"groups": world.gather_objects(mine), "outcomes": outcomes}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any], groups: list[int], device: torch.device) -> "Rollout":
        """The prompts `groups` of what `to_json` gave."""
        found = {entry["group"]: entry for entry in tree["groups"]}
        entries = [found[group] for group in groups]
        completions = [
            Completion(**(item | {key: tuple(item[key]) for key in ("prompt_ids", "token_ids", "logprobs")}))
            for entry in entries
            for item in entry["completions"]
        ]
        old = [tuple(row) for entry in entries for row in entry["old_logprobs"] or []]
        outcomes = [
            MinibatchOutcome(
                SequenceTable(tuple(outcome["columns"]), torch.tensor(outcome["sequences"], dtype=torch.float64, device=device)),
                outcome["grad_norm"],
            )
            for outcome in tree["outcomes"]
        ]
        rewards = torch.tensor([entry["rewards"] for entry in entries], dtype=torch.float32)
        return cls(groups, completions, rewards, old or None, outcomes)


class _Progress:
    """What the loop itself has to remember, as a component of the checkpoint."""

    def __init__(self, world: World, groups: list[int]) -> None:
        self._world = world
        self._groups = groups
        self.step = 0
        self.train_seconds = 0.0
        self.num_tokens = 0
        self.before: EvaluationResult | None = None
        self.after: EvaluationResult | None = None
        self.unfinished: Rollout | None = None
        self.num_skipped = 0  # optimizer steps in a row, at the checkpoint

    def advance(self, step: int, seconds: float, num_tokens: int) -> None:
        self.step = step
        self.train_seconds += seconds
        self.num_tokens += num_tokens

    def save(self, directory: Path) -> None:
        unfinished = None if self.unfinished is None else self.unfinished.to_json(self._world)
        if not self._world.is_main:
            return
        state: dict[str, Any] = {"step": self.step, "train_seconds": self.train_seconds, "num_tokens": self.num_tokens}
        state["before"] = None if self.before is None else self.before.to_json()
        state["after"] = None if self.after is None else self.after.to_json()
        state["unfinished"] = unfinished
        state["num_skipped"] = self.num_skipped
        write_atomically(directory / "trainer.json", json.dumps(state))

    def load(self, directory: Path) -> None:
        state = json.loads((directory / "trainer.json").read_text())
        self.step, self.train_seconds, self.num_tokens = state["step"], state["train_seconds"], state["num_tokens"]
        self.before = None if state["before"] is None else EvaluationResult.from_json(state["before"])
        self.after = None if state["after"] is None else EvaluationResult.from_json(state["after"])
        self.num_skipped = state["num_skipped"]
        if state["unfinished"] is not None:
            self.unfinished = Rollout.from_json(state["unfinished"], self._groups, self._world.device)


def _accuracies(result: EvaluationResult) -> dict[str, float]:
    return {
        "evaluation/accuracy": result.accuracy.mean,
        "evaluation/accuracy_greedy": result.greedy.mean,
        "evaluation/length": result.mean_length,
    }
