"""Random streams derived from one seed by name, so that no stream depends on how often another was drawn from."""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed that is a pure function of `seed` and `names`, equal on every machine and Python version.

    A position in a stream is part of the name (`derive_seed(seed, "rollout", step, prompt, sample)`), never a
    count of earlier samples: so a resumed run, another batch size or another number of ranks gets the same
    numbers.

    Example:
        >>> derive_seed(0, "rollout", 3) == derive_seed(0, "rollout", 3)
        True
        >>> derive_seed(0, "rollout", 3) == derive_seed(0, "rollout", "3")
        False
    """
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh `torch.Generator` on `device`, seeded with `derive_seed(seed, *names)`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))


class GlobalRandomState:
    """Torch's global generators (CPU and every visible CUDA device) as a component of a checkpoint.

    The toolkit samples from named generators; dropout inside a model samples from the global ones, whose states
    must be saved for an exact resume. One file per rank.
    """

    def __init__(self, rank: int = 0) -> None:
        self._name = f"rank_{rank:05d}.safetensors"

    def save(self, directory: Path) -> None:
        """Writes the states as uint8 tensors into `directory`."""
        states = {"cpu": torch.get_rng_state()}
        for index in range(torch.cuda.device_count()):
            states[f"cuda:{index}"] = torch.cuda.get_rng_state(index)
        save_file(states, directory / self._name)

    def load(self, directory: Path) -> None:
        """Restores what `save` wrote; devices that are absent here are skipped.

        A rank without a file of its own (the run had fewer ranks) keeps its fresh state.
        """
        path = directory / self._name
        if not path.exists():
            return
        states = load_file(path)
        torch.set_rng_state(states["cpu"])
        for index in range(torch.cuda.device_count()):
            if f"cuda:{index}" in states:
                torch.cuda.set_rng_state(states[f"cuda:{index}"], index)
