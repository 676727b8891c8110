"""What every test process has in common."""

import os

import pytest
from hypothesis import settings

# Two threads on two busy cores are slower than one; gloo must not look for a network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
os.environ["HF_HUB_OFFLINE"] = "1"

# A deadline is wall time, which has no meaning on a busy machine.
settings.register_profile("triptych", deadline=None, print_blob=True)
settings.load_profile("triptych")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
