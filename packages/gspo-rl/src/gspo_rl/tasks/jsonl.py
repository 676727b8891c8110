"""A task from a JSON-lines file of questions and answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.tasks.answers import ANSWER_TYPES, parse_answer
from gspo_rl.tasks.grading import check_library, check_tolerance, grade
from triptych.errors import UserError
from triptych.files import parse_json
from triptych.seeding import derive_seed


class JsonlTask:
    """One JSON object per line, with the texts `question` and `answer`, and optionally `demonstration`.

    In place of `question`, `messages` may hold a conversation for the chat template: a list of objects with the texts `role` and
    `content`.

    Args:
        path: the file, UTF-8. Empty lines are skipped.
        answer_type: type of the answers, one of `gspo_rl.tasks.answers.ANSWER_TYPES`; `auto` finds that of each line. See
            `gspo_rl.grade`.
        held_out_path: a second file for the held-out split; without it a fraction of `path` is held out, chosen by a
            hash of the question, so that added lines do not move others between splits.
        held_out_fraction: that fraction, between 0 and 1.
        tolerance: largest difference of a decimal number from the answer, as a fraction of the answer.
        seed: seed of the hash that selects the held-out questions.

    Raises:
        UserError: if a file cannot be read, a line is broken (the message names it), an answer is
            of another type or empty, a question is in both splits, or a split is empty.
    """

    def __init__(
        self,
        path: str,
        *,
        answer_type: str = "auto",
        held_out_path: str | None = None,
        held_out_fraction: float = 0.1,
        tolerance: float = 1e-6,
        seed: int = 0,
    ) -> None:
        if answer_type not in ANSWER_TYPES:
            raise UserError(f"task.answer_type is '{answer_type}': choose one of {', '.join(ANSWER_TYPES)}")
        check_tolerance(tolerance)
        if not 0 < held_out_fraction < 1:
            raise UserError(f"task.held_out_fraction is {held_out_fraction}: it must lie between 0 and 1")
        self._type = answer_type
        self._tolerance = tolerance
        prompts = self._read(Path(path))
        if held_out_path is not None:
            self._splits = {"train": prompts, "held_out": self._read(Path(held_out_path))}
            trained = {prompt.key for prompt in prompts}
            shared = next((prompt.text for prompt in self._splits["held_out"] if prompt.key in trained), None)
            if shared is not None:
                raise UserError(f"the question {shared[:60]!r} stands in {path} and in {held_out_path}: remove it from one of them")
        else:
            held_out = [derive_seed(seed, prompt.key) % 10**6 < held_out_fraction * 10**6 for prompt in prompts]
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
        return self.blind_reward(prompt, completion) if completion.finished else 0.0

    def blind_reward(self, prompt: Prompt, completion: Completion) -> float:
        """1 if the response matches the answer, also one that the token limit cut; else 0."""
        return grade(prompt.answer, completion.text, answer_type=self._type, tolerance=self._tolerance)

    def demonstrate(self, prompt: Prompt, generator: torch.Generator) -> str:
        """The demonstration of the line, or its answer."""
        return str(prompt.metadata.get("demonstration", prompt.answer))

    def _read(self, path: Path) -> list[Prompt]:
        try:
            # Not splitlines: JSON allows U+2028 and its like inside a string.
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except FileNotFoundError:
            raise UserError(f"task.path is '{path}': there is no such file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read ({error}): it must be a UTF-8 text file") from error
        prompts = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            row = parse_json(line, where, "fix or remove the line")
            messages = _messages(row)
            question = messages[-1]["content"] if messages else row.get("question") if isinstance(row, dict) else None
            if not isinstance(question, str) or not _is_answer(row.get("answer")):
                raise UserError(f"{where} lacks the text 'question' or the text or number 'answer': fix or remove the line")
            answer = str(row["answer"])
            try:
                is_formula = parse_answer(answer, self._type).type == "symbolic"
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
            if is_formula:
                check_library(where)
            metadata = {"demonstration": str(row["demonstration"])} if "demonstration" in row else {}
            prompts.append(Prompt(text=question, answer=answer, metadata=metadata, messages=messages))
        return prompts


def _messages(row: object) -> tuple[Mapping[str, str], ...]:
    """The conversation of a line; empty if it has none that is one."""
    found = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(found, list) or not all(isinstance(message, dict) for message in found):
        return ()
    messages = tuple({"role": message.get("role"), "content": message.get("content")} for message in found)
    return messages if all(isinstance(text, str) for message in messages for text in message.values()) else ()


def _is_answer(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)
