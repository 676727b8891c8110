"""Group Sequence Policy Optimization (arXiv 2507.18071) for language models.

The names below are loaded when they are first used: the paper's mathematics imports torch alone. `gspo_rl.trainer` holds the
loop, `gspo_rl.models` the policies, `gspo_rl.rollout` the samplers and `gspo_rl.tasks` the rewards.
"""

from typing import TYPE_CHECKING

from triptych.lazy import lazy_exports

if TYPE_CHECKING:
    from gspo_rl.data.batch import Completion as Completion
    from gspo_rl.data.batch import Prompt as Prompt
    from gspo_rl.models.policy import Policy as Policy
    from gspo_rl.models.policy import pretrained_policy as pretrained_policy
    from gspo_rl.numerics.advantages import group_relative_advantages as group_relative_advantages
    from gspo_rl.numerics.objectives import ObjectiveOutput as ObjectiveOutput
    from gspo_rl.numerics.objectives import grpo as grpo
    from gspo_rl.numerics.objectives import gspo as gspo
    from gspo_rl.numerics.objectives import gspo_token as gspo_token
    from gspo_rl.rollout.sampling import SamplingConfig as SamplingConfig
    from gspo_rl.tasks.grading import grade as grade
    from gspo_rl.trainer import GSPOTrainer as GSPOTrainer
    from gspo_rl.trainer import TrainerConfig as TrainerConfig

__version__ = "0.1.0"

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "Completion": "data.batch",
        "GSPOTrainer": "trainer",
        "ObjectiveOutput": "numerics.objectives",
        "Policy": "models.policy",
        "Prompt": "data.batch",
        "SamplingConfig": "rollout.sampling",
        "TrainerConfig": "trainer",
        "grade": "tasks.grading",
        "group_relative_advantages": "numerics.advantages",
        "grpo": "numerics.objectives",
        "gspo": "numerics.objectives",
        "gspo_token": "numerics.objectives",
        "pretrained_policy": "models.policy",
    },
)
