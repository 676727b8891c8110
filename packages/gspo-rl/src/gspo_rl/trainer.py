"""The loop of GSPO: rollout, reward, advantages, mini-batches, loss, step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gspo_rl.data.batch import Batch, Completion, Prompt, collate, microbatches
from gspo_rl.diagnosis import Diagnosis
from gspo_rl.evaluation import EvaluationConfig, EvaluationResult, evaluate
from gspo_rl.metrics import MinibatchOutcome, SequenceTable, StepRecorder, rollout_metrics, sequence_table
from gspo_rl.models.policy import Policy
from gspo_rl.noise import noise_floor
from gspo_rl.numerics.advantages import group_relative_advantages
from gspo_rl.numerics.objectives import Objective, ObjectiveOutput
from gspo_rl.preflight import check_settings, check_task
from gspo_rl.progress import Rollout, TrainingProgress
from gspo_rl.records import completion_row, packed, record_name
from gspo_rl.rewards import Rewards, RewardTable
from gspo_rl.rollout import RolloutEngine
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.tasks import Task
from gspo_rl.training.memory import MemoryPlan, describe, plan_memory
from triptych.checkpoint import Saveable
from triptych.checkpoint.export import Exportable
from triptych.distributed import World
from triptych.errors import UserError
from triptych.optim import OptimizerConfig, build_adamw, learning_rate_at
from triptych.run.session import Run
from triptych.run.step import Evaluations, Step
from triptych.seeding import derive_seed
from triptych.strategy import Strategy
from triptych.telemetry.logging import get_logger
from triptych.training.guard import DivergenceGuard
from triptych.training.order import ShuffledOrder

_logger = get_logger("trainer")

DEFAULT_TOKENS = 16384

OLD_LOGPROBS = ("engine", "recompute")
COLUMNS = ("reward/mean", "clip_fraction/sequences", "entropy", "length/mean", "timing/tokens_per_second", "evaluation/accuracy")


@dataclass
class TrainerConfig:
    """Settings of the loop.

    Attributes:
        max_steps: number of steps; a step is one rollout batch and its mini-batches.
        prompts_per_step: distinct prompts in a rollout batch, over all ranks.
        group_size: samples per prompt.
        minibatches: optimizer steps that one rollout batch is divided into (paper: 4).
        microbatch_tokens: largest number of padded tokens in one forward and backward; changes memory and speed, not the gradient. None
            for what fits into the free memory, see `gspo_rl.training.memory`.
        old_logprobs: source of the ratio's denominator: `engine` takes those recorded by the rollout engine (for engines
            in the policy's own float32 precision), `recompute` evaluates the policy before the first update. The first
            mini-batch needs neither: its weights are the old ones, and its ratio is exactly 1.
        evaluate_every: steps between evaluations during training; 0 evaluates only before and after.
        noise_every: steps between measurements of the noise floor, see `gspo_rl.noise`; 0 for none.
        store_completions: whether every completion of training and evaluation is kept in `completions/`.
        show_every: steps between completions on the screen; 0 for none.
    """

    max_steps: int = 100
    prompts_per_step: int = 16
    group_size: int = 8
    minibatches: int = 4
    microbatch_tokens: int | None = DEFAULT_TOKENS
    old_logprobs: str = "engine"
    evaluate_every: int = 0
    noise_every: int = 20
    store_completions: bool = True
    show_every: int = 0

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise UserError(f"trainer.group_size is {self.group_size}: advantages compare samples of one prompt, so it must be 2 or more")
        if self.max_steps < 1 or (self.microbatch_tokens is not None and self.microbatch_tokens < 1) or self.minibatches < 1:
            raise UserError(
                f"trainer.max_steps is {self.max_steps}, trainer.minibatches {self.minibatches} and trainer.microbatch_tokens "
                f"{self.microbatch_tokens}: all must be 1 or more"
            )
        if self.prompts_per_step < 1 or self.prompts_per_step % self.minibatches:
            raise UserError(
                f"trainer.prompts_per_step is {self.prompts_per_step}, which {self.minibatches} mini-batches cannot divide evenly: "
                "make it a multiple of trainer.minibatches"
            )
        if self.old_logprobs == "sampler":
            raise UserError("trainer.old_logprobs=sampler was renamed: use trainer.old_logprobs=engine")
        if self.old_logprobs not in OLD_LOGPROBS:
            raise UserError(f"trainer.old_logprobs is '{self.old_logprobs}': choose one of {', '.join(OLD_LOGPROBS)}")
        for name in ("evaluate_every", "noise_every", "show_every"):
            if getattr(self, name) < 0:
                raise UserError(f"trainer.{name} is {getattr(self, name)}: it must be 0 or more")


class FitResult(NamedTuple):
    """Result of a finished run."""

    before: EvaluationResult
    after: EvaluationResult
    train_seconds: float
    tokens_per_second: float


@dataclass(frozen=True)
class Training:
    """The running training, passed along with its steps.

    Attributes:
        run: folder, processes and signals.
        order: of the training prompts.
        progress: totals and an unfinished rollout batch.
        guard: counts skipped optimizer steps.
        recorder: timings of a step.
        diagnosis: warns of a training that learns nothing.
    """

    run: Run
    order: ShuffledOrder
    progress: TrainingProgress
    guard: DivergenceGuard
    recorder: StepRecorder
    diagnosis: Diagnosis


class GSPOTrainer:
    """Trains a policy by group-relative reinforcement learning with any objective of `gspo_rl.numerics.objectives`.

    Args:
        policy: the policy to train, in place.
        engine: samples from it.
        task: prompts and rewards; `gspo_rl.rewards.Rewards` of a task for further rewards.
        objective: losses from log-probabilities, hyperparameters bound.
        strategy: places and steps the model.
        config: settings of the loop.
        sampling: length, temperature and truncation of responses.
        optimizer: AdamW and its learning-rate curve, counted in optimizer steps.
        evaluation: settings of the evaluations before and after.

    Raises:
        UserError: if the settings contradict the engine or the task.
    """

    def __init__(
        self,
        policy: Policy,
        engine: RolloutEngine,
        task: Task | Rewards,
        objective: Objective,
        strategy: Strategy,
        config: TrainerConfig,
        *,
        sampling: SamplingConfig,
        optimizer: OptimizerConfig,
        evaluation: EvaluationConfig,
    ) -> None:
        check_settings(policy, engine, strategy, sampling, old_logprobs=config.old_logprobs)
        self.policy = policy
        self._engine = engine
        self._rewards = task if isinstance(task, Rewards) else Rewards(task)
        self._task = self._rewards.task
        self._longest = check_task(policy, self._task, sampling, evaluation) + sampling.max_tokens
        self._objective = objective
        self._strategy = strategy
        self._config = config
        self._sampling = sampling
        self._optimizer = optimizer
        self._evaluation = evaluation
        self._prompts = self._task.prompts("train")
        self._most_tokens = config.microbatch_tokens or DEFAULT_TOKENS

    def fit(self, run: Run) -> FitResult:
        """Trains until `max_steps`, resuming from the run's newest checkpoint if it has one."""
        config, progress = self._config, TrainingProgress(run.world, self._groups(run.world))
        guard = DivergenceGuard(run, self._strategy, max_skipped=self._optimizer.max_skipped_steps)
        exportable = Exportable("hugging_face", "model", self.policy.scorer, self.policy.save_files)
        plan = plan_memory(self.policy, self._strategy, run.world, longest=self._longest) if config.microbatch_tokens is None else None
        if plan is not None:
            self._strategy.recomputes, self._most_tokens = plan.recomputes, plan.tokens
        progress.microbatch_tokens = self._most_tokens
        self.policy.scorer = self._strategy.prepare(self.policy.scorer, lambda model: build_adamw(model, self._optimizer))
        recorder = StepRecorder(self.policy.scorer, run.device, run.peak_flops(self._strategy.precision))
        diagnosis = Diagnosis(is_main=run.world.is_main, uses_sampler=config.old_logprobs == "engine")
        training = Training(run, ShuffledOrder(len(self._prompts), seed=run.seed), progress, guard, recorder, diagnosis)
        state: dict[str, Saveable] = {"model": self._strategy, "trainer": progress, "guard": guard}
        restored = run.begin(state, columns=COLUMNS, exportable=exportable)
        # Of a resumed run as before: another size would round otherwise.
        self._most_tokens = config.microbatch_tokens or progress.microbatch_tokens
        self._log_budget(plan)
        self._engine.update_weights(self._strategy.full_parameters(), version=(restored or 0) * config.minibatches)
        if restored is None:
            progress.before = self._evaluate(run, 0)
            run.log(progress.before.metrics(), step=0)
            run.checkpoint(0, state)

        def evaluate_policy() -> dict[str, float]:
            progress.after = self._evaluate(run, step.number)
            return progress.after.metrics()

        evaluations = Evaluations(evaluate_policy, config.evaluate_every)
        for step in run.steps(config.max_steps, state, first=1 + (restored or 0), guard=guard, evaluations=evaluations):
            self.train_step(training, step)
        recorder.close()
        self._strategy.gather()
        if progress.after is None:  # the restored checkpoint is that of `max_steps`, from a run with more steps
            progress.after = self._evaluate(run, restored or 0)
        assert progress.before is not None
        tokens_per_second = progress.num_tokens / max(progress.train_seconds, 1e-9)
        return FitResult(progress.before, progress.after, progress.train_seconds, tokens_per_second)

    def train_step(self, training: Training, step: Step) -> None:
        """One rollout batch and its mini-batches; adds to `step.metrics`.

        After a signal between two mini-batches the checkpoint holds the rollout batch with the mini-batches that are left.
        """
        config, progress, recorder = self._config, training.progress, training.recorder
        recorder.begin()
        rollout = progress.unfinished or self.collect(training, step.number)
        progress.unfinished = None
        recorder.begin_training()
        minibatches = rollout.batch.to(training.run.device).split(config.minibatches)
        if _is_turn(step.number, config.noise_every) and not rollout.outcomes:
            with recorder.watch.phase("noise"):
                rollout.metrics |= self._noise_floor(minibatches[0], training, step.number)
        old_logprobs = self._old_logprobs(rollout, minibatches, training)
        for index in range(len(rollout.outcomes), config.minibatches):
            sequences = self.accumulate_gradient(minibatches[index], old_logprobs[index], training.run.world, recorder)
            learning_rate = self._learning_rate(step.number, index)
            with recorder.watch.phase("optimizer"):
                report = self._strategy.step(learning_rate)
            rollout.outcomes.append(MinibatchOutcome(sequences, report.grad_norm))
            training.guard.count(report, where=f"step {step.number}, mini-batch {index + 1} of {config.minibatches}")
            if index + 1 < config.minibatches and training.run.is_interrupted():
                progress.unfinished = rollout
                step.stop()
        if not training.guard.is_sound:
            training.guard.check(step.number)  # before the engine samples with these weights
        with recorder.watch.phase("weights"):
            self._engine.update_weights(self._strategy.full_parameters(), version=step.number * config.minibatches)
        step.metrics |= recorder.metrics(rollout.metrics, rollout.outcomes, learning_rate=learning_rate)
        step.metrics |= recorder.timings(rollout.num_tokens, rollout.num_response_tokens)
        training.diagnosis.observe(step.number, step.metrics, rollout.outcomes)
        progress.train_seconds += step.metrics["timing/step_seconds"]
        progress.num_tokens += rollout.num_tokens

    def collect(self, training: Training, step: int) -> Rollout:
        """This rank's shard of a new rollout batch: completions, rewards and advantages."""
        world, watch = training.run.world, training.recorder.watch
        groups = self._groups(world)
        indices = training.order.take((step - 1) * self._config.prompts_per_step, self._config.prompts_per_step)
        prompts = [self._prompts[indices[group]] for group in groups]
        with watch.phase("generation"):
            completions = self._sample(prompts, groups, training.run.seed, step)
        with watch.phase("reward"):
            table = self._rewards([prompt for prompt in prompts for _ in range(self._config.group_size)], completions)
            rewards = table.total.view(len(prompts), self._config.group_size)
        self._store(training.run, step, [indices[group] for group in groups], completions, table)
        advantages = group_relative_advantages(rewards)
        with watch.phase("data"):
            batch = collate(completions, rewards.flatten(), advantages.flatten(), pad_id=self.policy.pad_id)
        counts = torch.tensor([sum(len(item.prompt_ids) for item in completions), int(batch.response_mask.sum())])
        num_prompt_tokens, num_response_tokens = world.all_reduce_sum(counts).tolist()
        metrics = rollout_metrics(completions, rewards, table, world)
        return Rollout(groups, batch, metrics, num_prompt_tokens + num_response_tokens, num_response_tokens)

    def accumulate_gradient(
        self, minibatch: Batch, old_logprobs: Float[Tensor, "batch tokens"] | None, world: World, recorder: StepRecorder
    ) -> SequenceTable:
        """Adds the mini-batch's gradient and returns its per-sequence numbers over all ranks.

        Every micro-batch is divided by the one global sum of weights, so how the mini-batch is split, ordered or
        distributed over ranks cannot change the gradient. `old_logprobs` is None in the first mini-batch, whose weights
        are still the old ones.
        """
        total_weight = self._total_weight(minibatch, world)
        silent, parts = self._by_signal(minibatch, world)
        tables: list[SequenceTable] = []

        def forward(scorer: nn.Module, rows: Tensor, part: Batch) -> ObjectiveOutput:
            scores = scorer(part.input_ids, part.response_mask, self._sampling.temperature)
            old = scores.logprobs.detach() if old_logprobs is None else old_logprobs[rows, : scores.logprobs.shape[1]]
            output = self._objective(scores.logprobs, old, part.advantages, part.response_mask, behavior_logprobs=part.sampler_logprobs)
            tables.append(sequence_table(part, scores, old, output))
            return output

        # DDP exchanges buffers in each of its forwards, whose number differs between ranks here.
        plain = getattr(self.policy.scorer, "module", self.policy.scorer)
        with torch.no_grad():
            for rows, part in silent:
                with recorder.watch.phase("forward"):
                    forward(plain, rows, part)
        for index, (rows, part) in enumerate(parts):
            with self._strategy.microbatch(last=index + 1 == len(parts)):
                with recorder.forward(part.input_ids.numel()):
                    output = forward(self.policy.scorer, rows, part)
                with recorder.watch.phase("backward"):
                    self._strategy.backward(output.losses.sum() / total_weight)
        return SequenceTable.merged(tables, [rows for rows, _ in (*silent, *parts)]).gathered(world)

    def _log_budget(self, plan: MemoryPlan | None) -> None:
        config, most = self._config, self._sampling.max_tokens
        if plan is not None:
            _logger.info("micro-batches      %s", describe(plan._replace(tokens=self._most_tokens)))
        responses = config.prompts_per_step * config.group_size
        _logger.info(
            "budget             %d steps of %d prompts x %d responses, at most %s response tokens",
            config.max_steps,
            config.prompts_per_step,
            config.group_size,
            f"{config.max_steps * responses * most:,}",
        )

    def _store(self, run: Run, step: int, indices: Sequence[int], completions: Sequence[Completion], table: RewardTable) -> None:
        """Keeps the completions of a step, and shows one now and then."""
        size, config = self._config.group_size, self._config
        shows = _is_turn(step, config.show_every)
        if not (shows or config.store_completions):
            return
        rows = [
            completion_row("train", indices[row // size], self._prompts[indices[row // size]], item, table.of(row))
            for row, item in enumerate(completions)
        ]
        if shows:
            best = max(range(len(rows)), key=lambda row: float(table.total[row]))
            for row in dict.fromkeys((0, best)):
                _logger.info("  %r -> %r  reward %g", rows[row]["prompt"], rows[row]["text"], float(table.total[row]))
        if config.store_completions:
            rows = run.world.gather_objects(rows)
            self._write_record(run, "step", step, rows)

    def _noise_floor(self, minibatch: Batch, training: Training, step: int) -> dict[str, float]:
        world = training.run.world
        found = noise_floor(lambda batch, tokens: self._score(batch, world, max_tokens=tokens), self._objective, minibatch, world)
        training.diagnosis.observe_noise(step, found)
        return found

    def _groups(self, world: World) -> list[int]:
        """This rank's prompts of a rollout batch: an equal shard of every mini-batch, so that mini-batches are the same sets."""
        config = self._config
        if config.prompts_per_step % (config.minibatches * world.size):
            raise UserError(
                f"trainer.prompts_per_step is {config.prompts_per_step}, which {config.minibatches} mini-batches on {world.size} "
                f"processes cannot divide evenly: make it a multiple of {config.minibatches * world.size}"
            )
        per_minibatch = config.prompts_per_step // config.minibatches
        return [index * per_minibatch + offset for index in range(config.minibatches) for offset in world.shard(per_minibatch)]

    def _sample(self, prompts: Sequence[Prompt], groups: Sequence[int], seed: int, step: int) -> list[Completion]:
        size = self._config.group_size
        seeds = [derive_seed(seed, "rollout", step, group, sample) for group in groups for sample in range(size)]
        return self._engine.generate(prompts, size, self._sampling, seeds=seeds)

    def _old_logprobs(self, rollout: Rollout, minibatches: Sequence[Batch], training: Training) -> list[Tensor | None]:
        """The ratio's denominators of each mini-batch; None for the first, whose weights are the old ones."""
        if self._config.old_logprobs == "engine":
            return [None, *(minibatch.sampler_logprobs for minibatch in minibatches[1:])]
        if rollout.old_logprobs is None:
            with training.recorder.watch.phase("old_logprobs"), torch.no_grad():
                scored = [self._score(minibatch, training.run.world) for minibatch in minibatches[1:]]
            rollout.old_logprobs = torch.cat([minibatches[0].sampler_logprobs, *scored]).cpu()
        old = rollout.old_logprobs.to(training.run.device).split(len(minibatches[0]))
        return [None, *old[1:]]

    @torch.no_grad()
    def _score(self, minibatch: Batch, world: World, *, max_tokens: int | None = None) -> Float[Tensor, "batch tokens"]:
        """The policy's log-probabilities of the response tokens, 0 elsewhere."""
        scored = torch.zeros_like(minibatch.sampler_logprobs)
        for rows, part in self._microbatches(minibatch, world, max_tokens=max_tokens):
            scores = self.policy.scorer(part.input_ids, part.response_mask, self._sampling.temperature)
            scored[rows, : scores.logprobs.shape[1]] = scores.logprobs
        return torch.where(minibatch.response_mask, scored, 0.0)

    def _by_signal(self, minibatch: Batch, world: World) -> tuple[list[tuple[Tensor, Batch]], list[tuple[Tensor, Batch]]]:
        """Micro-batches without and with a gradient: a sequence of advantage 0 has none, and needs no backward.

        At least one micro-batch has a backward, so that the ranks exchange gradients. Where ranks synchronise in every forward, all have.
        """
        has_gradient = minibatch.advantages != 0
        if self._strategy.syncs_in_forward or bool(has_gradient.all()):
            return [], self._microbatches(minibatch, world)
        if not has_gradient.any():
            has_gradient[0] = True
        found = []
        for chosen in (~has_gradient, has_gradient):
            rows = chosen.nonzero().squeeze(1)
            found.append([(rows[inner], part) for inner, part in self._microbatches(minibatch.select(rows), world)])
        return found[0], found[1]

    def _microbatches(self, minibatch: Batch, world: World, *, max_tokens: int | None = None) -> list[tuple[Tensor, Batch]]:
        """The mini-batch in parts; an equal number on all ranks if the ranks synchronise in every forward."""
        most_tokens = min(max_tokens or self._most_tokens, self._most_tokens)
        parts = list(microbatches(minibatch, max_tokens=most_tokens))
        if self._strategy.syncs_in_forward and world.size > 1:
            most = max(world.gather_objects([len(parts)]))
            parts = list(microbatches(minibatch, max_tokens=most_tokens, at_least=most))
        return parts

    def _total_weight(self, minibatch: Batch, world: World) -> float:
        """The divisor of a mini-batch's losses: the weights of all ranks' sequences, which depend on the mask alone."""
        zeros = torch.zeros_like(minibatch.sampler_logprobs)
        with torch.no_grad():
            weights = self._objective(zeros, zeros, minibatch.advantages, minibatch.response_mask, behavior_logprobs=zeros).weights
        return float(world.all_reduce_sum(weights.double().sum()))

    def _learning_rate(self, step: int, minibatch: int) -> float:
        config = self._config
        return learning_rate_at((step - 1) * config.minibatches + minibatch, config.max_steps * config.minibatches, self._optimizer)

    def _evaluate(self, run: Run, step: int) -> EvaluationResult:
        run.pause_watchdog()
        rows: list[dict[str, Any]] | None = [] if self._config.store_completions else None
        result = evaluate(self._engine, self._task, self._sampling, self._evaluation, world=run.world, seed=run.seed, rows=rows)
        if rows is not None:
            self._write_record(run, "evaluation", step, rows)
        return result

    @staticmethod
    def _write_record(run: Run, kind: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        if run.world.is_main:
            run.write_file(record_name(kind, step), packed(rows))


def _is_turn(step: int, every: int) -> bool:
    """Whether something that happens in the first step, and again after each `every` steps, happens now; never for 0."""
    return every > 0 and step % every == 1 % every
