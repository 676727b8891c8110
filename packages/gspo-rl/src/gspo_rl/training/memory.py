"""The size of a micro-batch from the memory that is free, measured by what autograd keeps."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gspo_rl.models.policy import Policy
from triptych.distributed import World
from triptych.strategy import Strategy
from triptych.telemetry.logging import get_logger

_logger = get_logger("memory")

_PROBE_TOKENS = 64
_STATE_BYTES = 12  # gradient and two moments of a parameter in float32
_USED = 0.7  # of the free memory: the rest is for temporary tensors and fragmentation
_MOST_TOKENS = 65536  # larger micro-batches are not faster


class MemoryPlan(NamedTuple):
    """What fits.

    Attributes:
        tokens: padded tokens of a micro-batch, a power of two.
        bytes_per_token: of activations.
        free: bytes that are left for them.
        recomputes: whether activations are recomputed in the backward.
    """

    tokens: int
    bytes_per_token: int
    free: int
    recomputes: bool


def plan_memory(policy: Policy, strategy: Strategy, world: World, *, longest: int) -> MemoryPlan:
    """The largest micro-batch that fits; activations are recomputed if a single sequence would not fit otherwise.

    Called before the strategy prepares the policy, on every rank; all get the same plan.

    Args:
        policy: its activations are measured by two short forwards.
        strategy: `recomputes` is set where it helps.
        world: the ranks; those without a GPU of their own share the memory of the machine.
        longest: tokens of the longest sequence.
    """
    is_gpu = world.device.type == "cuda"
    # Sharding strategies build a sharded copy and divide gradients and moments among the ranks.
    shards = world.size if strategy.syncs_in_forward else 1
    states = (_STATE_BYTES * policy.num_trainable + (4 * policy.num_parameters if strategy.syncs_in_forward else 0)) // shards
    available = free_memory(world.device) // (1 if is_gpu else world.size)
    free = min(world.gather_objects([max(0, available - states)]))
    # K bytes of n tokens are a * n + b * n^2; b is 0 but for attention that keeps its matrix.
    count = max(2, min(_PROBE_TOKENS, policy.max_positions // 2))
    short, long = (activation_bytes(policy.scorer, num_tokens=number) for number in (count, 2 * count))
    quadratic = max(0, long - 2 * short) / (2 * count**2)
    kept = short / count + quadratic * max(0, longest - count)
    # Recomputed: the input of every block, and all of one block at a time.
    config = policy.model.config.get_text_config()
    inputs = 4 * config.hidden_size * (config.num_hidden_layers + 2) + kept / config.num_hidden_layers
    recomputes = strategy.recomputes or (_USED * free < kept * longest and not getattr(policy.scorer, "share_prompts", False))
    per_token = min(kept, inputs) if recomputes else kept
    fitting = max(1, int(_USED * free / per_token))
    tokens = min(_MOST_TOKENS, 2 ** int(math.log2(fitting)))
    if fitting < longest:
        _logger.warning(
            "a sequence of %d tokens needs %s for its activations, and %s are free: lower sampling.max_tokens, or train with adapter=lora "
            "or strategy=fsdp",
            longest,
            _size(per_token * longest),
            _size(free),
        )
    return MemoryPlan(tokens, round(per_token), free, recomputes)


def describe(plan: MemoryPlan) -> str:
    """The plan in one line."""
    recomputed = ", recomputed in the backward" if plan.recomputes else ""
    return f"at most {plan.tokens:,} tokens: {_size(plan.bytes_per_token)} of activations each{recomputed}, {_size(plan.free)} free"


def activation_bytes(scorer: nn.Module, *, num_tokens: int = _PROBE_TOKENS) -> int:
    """Bytes that autograd keeps for the backward of one sequence of `num_tokens`, without the parameters.

    Args:
        scorer: a `TokenScorer`.
        num_tokens: all but the first are scored.
    """
    device = next(scorer.parameters()).device
    parameters = {parameter.untyped_storage().data_ptr() for parameter in scorer.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage: Any = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.ones(1, num_tokens, dtype=torch.long, device=device)
    mask = torch.ones(1, num_tokens, dtype=torch.bool, device=device)
    mask[:, 0] = False
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        scores = scorer(ids, mask, 1.0)
    del scores
    return sum(kept.values())


def free_memory(device: torch.device) -> int:
    """Bytes that a process can still allocate: of the GPU, or of the machine within the limit of a container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").is_file() else []
    available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    limits = [*available, *_container_room(Path("/sys/fs/cgroup"))]
    return min(limits) if limits else 8 * 2**30


def _container_room(folder: Path) -> list[int]:
    """Bytes below the limit of a control group of version 2; empty without a limit."""
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return []
    return [max(0, int(limit) - int(used))] if limit.isdigit() and used.isdigit() else []


def _size(number: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} GiB"
