"""Signs that a training learns nothing or the wrong thing, each said once with its likely cause."""

from collections.abc import Mapping, Sequence

from gspo_rl.metrics import MinibatchOutcome
from triptych.telemetry.logging import get_logger

_logger = get_logger("diagnosis")

PATIENCE = 5
"""Steps in a row after which a sign counts."""
MOST_TRUNCATED = 0.5
MOST_CLIP_WIDTHS = 100.0
MOST_NOISE = 0.3


class Diagnosis:
    """Reads the metrics of each step and logs what they are a sign of.

    Args:
        is_main: whether this rank logs.
        uses_sampler: whether the ratio's denominators are the sampler's, so that its noise counts as a change of the policy.
    """

    def __init__(self, *, is_main: bool, uses_sampler: bool = True) -> None:
        self._is_main = is_main
        self._uses_sampler = uses_sampler
        self._said: set[str] = set()
        self._in_a_row: dict[str, int] = {}

    def observe(self, step: int, metrics: Mapping[str, float], outcomes: Sequence[MinibatchOutcome]) -> None:
        """Called after each step.

        Args:
            step: its number.
            metrics: of the step.
            outcomes: its mini-batches.
        """
        if self._lasts("no advantage", metrics["reward/zero_advantage_groups"] == 1):
            self._say("no advantage", step, _no_advantage(metrics))
        if self._lasts("truncated", metrics["length/truncated"] > MOST_TRUNCATED):
            self._say(
                "truncated",
                step,
                f"{100 * metrics['length/truncated']:.0f} % of the responses are cut by sampling.max_tokens and get no reward: raise it, "
                "or give sampling.stop if the policy is a base model that does not end its responses",
            )
        widths = metrics.get(f"ratio_clip_widths/minibatch_{len(outcomes) - 1}", 0.0)
        if self._lasts("widths", step > 1 and widths > MOST_CLIP_WIDTHS):
            self._say(
                "widths",
                step,
                f"the policy moves by {widths:.0f} clip widths within one rollout batch, so that most sequences are clipped: lower "
                "optimizer.learning_rate, or trainer.minibatches",
            )
        silent = [index for index, outcome in enumerate(outcomes) if not outcome.sequences.column("advantage").any()]
        has_momentum = step > 1 or (silent and silent[0] > 0)
        if silent and has_momentum and metrics["reward/zero_advantage_groups"] < 1:
            self._say(
                "momentum",
                step,
                f"mini-batch {silent[0] + 1} has no advantage, and the momentum of AdamW still moves the weights: raise "
                "trainer.prompts_per_step, or lower trainer.minibatches",
            )

    def observe_noise(self, step: int, metrics: Mapping[str, float]) -> None:
        """Called after each measurement of the noise floor."""
        for kind, parts in (("sampler", "the sampler and the trainer"), ("batching", "two batchings of the trainer")):
            noise = metrics.get(f"noise/{kind}_clip_widths", 0.0)
            if noise > MOST_NOISE and (kind == "batching" or self._uses_sampler):
                self._say(
                    f"noise {kind}",
                    step,
                    f"with equal weights, the ratios of {parts} differ by {noise:.2g} clip widths, which count as a change of the policy: "
                    "compute both in float32, use trainer.old_logprobs=recompute, or a wider clip range",
                )

    def _lasts(self, sign: str, is_present: bool) -> bool:
        self._in_a_row[sign] = self._in_a_row.get(sign, 0) + 1 if is_present else 0
        return self._in_a_row[sign] >= PATIENCE

    def _say(self, sign: str, step: int, message: str) -> None:
        if sign not in self._said and self._is_main:
            _logger.warning("step %d: %s", step, message)
        self._said.add(sign)


def _no_advantage(metrics: Mapping[str, float]) -> str:
    begin = f"in {PATIENCE} steps all samples of each prompt had one reward, so nothing is learned: "
    if metrics["reward/correct"] == 1:
        return begin + "every answer is right, choose harder prompts"
    if metrics["length/truncated"] > MOST_TRUNCATED:
        return begin + "most responses are cut, raise sampling.max_tokens or give sampling.stop"
    if metrics["reward/correct"] == 0:
        return begin + "no answer is right, look at the completions, and choose easier prompts, another format or a cold start"
    return begin + "raise trainer.group_size or sampling.temperature"
