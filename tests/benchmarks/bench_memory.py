"""One shot for growing numbers of past shots: GoldenMem against the full memory, and folding against dense masks.

Run directly or by `make bench`. Times are forward passes of the default small model, float32, one story.
"""

import time
from collections.abc import Callable

import torch

from captain_cinema.conditioning import MemoryPolicy, memory_groups
from captain_cinema.models import FrameGroup
from captain_cinema.models.mmdit import MMDiTConfig, SmallMMDiT
from captain_cinema.toy.captions import CAPTION_FIELDS

REPEATS = 3


def seconds(call: Callable[[], object]) -> float:
    call()
    started = time.perf_counter()
    for _ in range(REPEATS):
        call()
    return (time.perf_counter() - started) / REPEATS


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    model = SmallMMDiT(MMDiTConfig()).eval()
    print(f"{'past':>6}{'memory':>10}{'tokens':>8}{'folded':>10}{'masked':>10}{'sampler step':>20}{'of the full memory':>20}")
    for num_past in (8, 16, 32, 48):
        frames = torch.randn(1, num_past, 3, 64, 64)
        captions = torch.ones(1, num_past, len(CAPTION_FIELDS), dtype=torch.long)
        target = FrameGroup(torch.randn(1, 1, 3, 64, 64), captions[:, :1], torch.ones(1, 1), torch.zeros(1, 1))
        full = 0.0
        for name, policy in (("full", MemoryPolicy("uniform")), ("golden", MemoryPolicy(frames_per_level=max(1, num_past // 4)))):
            plan = policy.plan(num_past, short_side=8, text_tokens=model.text_tokens)
            memory = memory_groups(frames, captions, [range(num_past)], plan, patch=8, timesteps=torch.zeros(1, num_past))
            known = model.remember(memory)
            folded = seconds(lambda: model.predict([*memory, target]))  # noqa: B023
            masked = seconds(lambda: model.predict([*memory, target], masked=True))  # noqa: B023
            step = seconds(lambda: model.predict([target], memory=known))  # noqa: B023
            full = folded if name == "full" else full
            print(
                f"{num_past:>6}{name:>10}{plan.tokens:>8}{1e3 * folded:>8.1f} ms{1e3 * masked:>8.1f} ms{1e3 * step:>17.1f} ms{folded / full:>20.2f}"
            )


if __name__ == "__main__":
    main()
