"""Group Sequence Policy Optimization (arXiv 2507.18071) for language models.

What stands here is the paper's mathematics and imports torch alone. `gspo_rl.trainer` holds the loop,
`gspo_rl.policy` the models, `gspo_rl.rollout` the samplers and `gspo_rl.tasks` the rewards.
"""

from gspo_rl.advantages import group_relative_advantages
from gspo_rl.objectives import ObjectiveOutput, grpo, gspo, gspo_token

__version__ = "0.1.0"

__all__ = ["ObjectiveOutput", "__version__", "group_relative_advantages", "grpo", "gspo", "gspo_token"]
