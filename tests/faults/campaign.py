"""Kills real runs at random moments and compares their metrics with those of uninterrupted runs.

    python tests/faults/campaign.py [kills] [seed]

Half of the kills are SIGKILL, half SIGTERM; every second run has two processes. Prints the count, and exits with 1 if a
result differs.
"""

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from conftest import Victim

STEPS = "trainer.max_steps=40"


def main() -> int:
    num_kills, seed = (int(given) for given in (*sys.argv[1:3], *("50", "0")[len(sys.argv) - 1 :]))
    rng = random.Random(seed)
    kills = runs = differences = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        references = {}
        for processes in (1, 2):
            reference = Victim(folder, f"whole{processes}", STEPS, processes=processes)
            started = time.monotonic()
            code, _, err = reference.end()
            assert code == 0, err
            references[processes] = ((reference.folder / "metrics.jsonl").read_bytes(), time.monotonic() - started)
        while kills < num_kills:
            processes = 1 + runs % 2
            expected, seconds = references[processes]
            runs += 1
            while True:
                victim = Victim(folder, f"run{runs}", STEPS, processes=processes)
                if kills < num_kills:
                    moment = rng.uniform(0.0, seconds)
                    deadline = time.monotonic() + moment
                    while victim.process.poll() is None and time.monotonic() < deadline:
                        time.sleep(0.01)
                    if victim.process.poll() is None:
                        number = rng.choice((signal.SIGKILL, signal.SIGTERM))
                        if number == signal.SIGKILL and processes == 2 and len(victim.ranks()) == 2:
                            os.kill(rng.choice(victim.ranks()), number)  # one rank only: the launcher must detect it
                        elif number == signal.SIGKILL:
                            os.killpg(victim.process.pid, number)
                        else:
                            victim.process.send_signal(number)
                        victim.end()
                        kills += 1
                        continue
                code, _, err = victim.end()
                if code != 0:
                    print(f"run {runs}: exit code {code}\n{err[-2000:]}")
                    differences += 1
                elif (victim.folder / "metrics.jsonl").read_bytes() != expected:
                    print(f"run {runs}: metrics.jsonl differs from that of the uninterrupted run")
                    differences += 1
                break
    print(f"{kills} kills over {runs} runs (seed {seed}): {differences} differ from the uninterrupted run")
    return int(differences > 0)


if __name__ == "__main__":
    sys.exit(main())
