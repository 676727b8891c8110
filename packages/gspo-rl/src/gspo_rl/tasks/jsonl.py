"""A task from a JSON-lines file of questions and answers."""

from collections.abc import Sequence
from pathlib import Path

import torch

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.tasks.grading import MATCHES, grade, last_number
from triptych.errors import UserError
from triptych.files import parse_json
from triptych.seeding import derive_seed


class JsonlTask:
    """One JSON object per line, with the texts `question` and `answer`, and optionally `demonstration`.

    Args:
        path: the file, UTF-8. Empty lines are skipped.
        match: `numeric` compares the last number of the response with that of the answer; `string` compares the
            response's last non-empty line with the answer, ignoring white space and case.
        held_out_path: a second file for the held-out split; without it a fraction of `path` is held out, chosen by a
            hash of the question, so that added lines do not move others between splits.
        held_out_fraction: that fraction, between 0 and 1.
        tolerance: largest difference at which two numbers still match, relative to the answer.
        seed: seed of the hash that selects the held-out questions.

    Raises:
        UserError: if a file cannot be read, a line is broken (the message names it), an answer holds no number where
            one is needed, or a split is empty.
    """

    def __init__(
        self,
        path: str,
        *,
        match: str = "numeric",
        held_out_path: str | None = None,
        held_out_fraction: float = 0.1,
        tolerance: float = 1e-6,
        seed: int = 0,
    ) -> None:
        if match not in MATCHES:
            raise UserError(f"task.match is '{match}': choose one of {', '.join(MATCHES)}")
        if not 0 < held_out_fraction < 1:
            raise UserError(f"task.held_out_fraction is {held_out_fraction}: it must lie between 0 and 1")
        self._match = match
        self._tolerance = tolerance
        prompts = _read(Path(path), match)
        if held_out_path is not None:
            self._splits = {"train": prompts, "held_out": _read(Path(held_out_path), match)}
        else:
            held_out = [derive_seed(seed, prompt.text) % 10**6 < held_out_fraction * 10**6 for prompt in prompts]
            self._splits = {
                "train": [prompt for prompt, out in zip(prompts, held_out, strict=True) if not out],
                "held_out": [prompt for prompt, out in zip(prompts, held_out, strict=True) if out],
            }
        for split, chosen in self._splits.items():
            if not chosen:
                remedy = "change task.held_out_fraction or give task.held_out_path" if prompts else "add lines"
                raise UserError(f"{path} leaves no question for the {split} split ({len(prompts)} questions in all): {remedy}")

    def prompts(self, split: str) -> Sequence[Prompt]:
        """The questions of `train` or `held_out`, in file order."""
        return self._splits[split]

    def reward(self, prompt: Prompt, completion: Completion) -> float:
        """1 if the response ends by itself and matches the answer, else 0."""
        return grade(prompt.answer, completion.text, match=self._match, tolerance=self._tolerance) if completion.finished else 0.0

    def demonstrate(self, prompt: Prompt, generator: torch.Generator) -> str:
        """The demonstration of the line, or its answer."""
        return str(prompt.metadata.get("demonstration", prompt.answer))


def _read(path: Path, match: str) -> list[Prompt]:
    try:
        # Not splitlines: JSON allows U+2028 and its like inside a string.
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise UserError(f"task.path is '{path}': there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): it must be a UTF-8 text file") from error
    prompts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = parse_json(line, f"{path}, line {number}", "fix or remove the line")
        if not isinstance(row, dict) or not isinstance(row.get("question"), str) or not isinstance(row.get("answer"), str | int | float):
            raise UserError(f"{path}, line {number} lacks the text 'question' or the text or number 'answer': fix or remove the line")
        answer = str(row["answer"])
        if match == "numeric" and last_number(answer) is None:
            raise UserError(
                f"{path}, line {number} has the answer {answer[:40]!r} without a number: correct the line or use task.match=string"
            )
        metadata = {"demonstration": str(row["demonstration"])} if "demonstration" in row else {}
        prompts.append(Prompt(text=row["question"], answer=answer, metadata=metadata))
    return prompts
