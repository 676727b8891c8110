"""Memory and time of chunked token scores against whole logits, at the vocabulary of Qwen3.

Run directly or by `make bench`. Each method runs in a separate process, for its own peak memory.
"""

import resource
import subprocess
import sys
import time

import torch

from gspo_rl.numerics.logprobs import token_scores, token_scores_from_hidden

POSITIONS, HIDDEN, VOCABULARY, CHUNK = 2048, 256, 151_936, 128


def measure(method: str) -> None:
    noise = torch.Generator().manual_seed(0)
    hidden = torch.randn(POSITIONS, HIDDEN, generator=noise).requires_grad_()
    head = (0.02 * torch.randn(VOCABULARY, HIDDEN, generator=noise)).requires_grad_()
    tokens = torch.randint(VOCABULARY, (POSITIONS,), generator=noise)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    if method == "chunked":
        scores = token_scores_from_hidden(hidden, head, tokens, chunk_tokens=CHUNK)
    else:
        scores = token_scores(hidden @ head.T, tokens)
    scores.logprobs.sum().backward()
    seconds = time.perf_counter() - started
    print(f"{seconds} {(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}")


def main() -> None:
    results = {}
    for method in ("whole", "chunked"):
        done = subprocess.run([sys.executable, __file__, method], capture_output=True, text=True, check=True)
        results[method] = [float(value) for value in done.stdout.split()]
        print(f"{method:>10}  {results[method][0]:6.2f} s  {results[method][1]:8.0f} MiB above the inputs")
    print(f"{'ratio':>10}  {results['chunked'][0] / results['whole'][0]:6.2f}    {results['chunked'][1] / results['whole'][1]:8.3f}")
    print(f"{POSITIONS} positions, width {HIDDEN}, {VOCABULARY} tokens, {CHUNK} positions per chunk, float32, forward and backward")


if __name__ == "__main__":
    measure(sys.argv[1]) if len(sys.argv) > 1 else main()
