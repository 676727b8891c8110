"""Equality of LaTeX formulas by `math-verify`, in a process of its own that can be stopped.

The library's own time limit is a signal, which works on the main thread only.
"""

import atexit
import json
import select
import subprocess
import sys
import threading
from functools import lru_cache

_SERVER = "gspo_rl.tasks.symbolic"
_SECONDS = 5.0
_LONGEST = 400  # characters


def is_equivalent(expected: str, stated: str, *, seconds: float = _SECONDS) -> bool:
    r"""Whether two formulas are equal; false if one cannot be read, or the comparison takes too long.

    Args:
        expected, stated: LaTeX without dollar signs, such as `2\pi`.
        seconds: time limit of the comparison.
    """
    if max(len(expected), len(stated)) > _LONGEST:
        return False
    return _worker().ask(expected, stated, seconds)


class _Worker:
    """A process that compares formulas, one pair at a time; started at the first question and again after a stop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self.stop)

    def ask(self, expected: str, stated: str, seconds: float) -> bool:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
                )
                self._answer("[]", 60.0)  # the imports
            answer = self._answer(json.dumps([expected, stated]), seconds)
            if answer is None:
                self.stop()
            return answer == "true"

    def _answer(self, question: str, seconds: float) -> str | None:
        assert self._process is not None
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(question + "\n")
            stdin.flush()
        except OSError:  # it has died
            return None
        return stdout.readline().strip() if select.select([stdout], [], [], seconds)[0] else None

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@lru_cache(maxsize=1)
def _worker() -> _Worker:
    return _Worker()
