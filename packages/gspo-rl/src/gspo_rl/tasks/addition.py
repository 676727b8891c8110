"""Sums of whole numbers as questions in English, for pretrained policies."""

import random
from collections.abc import Sequence

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.tasks.grading import grade
from triptych.errors import UserError


class AdditionTask:
    """Questions such as "What is 17 + 25? Answer with the number only."; no sum is in both splits.

    Args:
        lowest: smallest term.
        highest: largest term.
        num_terms: number of terms.
        num_prompts: most training prompts.
        num_held_out: number of held-out prompts.
        question: the text of a prompt, with `{}` where the sum stands.
        seed: seed of the sums and of the split.

    Raises:
        UserError: if the range is empty, or too small for both splits.
    """

    def __init__(
        self,
        *,
        lowest: int = 1,
        highest: int = 30,
        num_terms: int = 2,
        num_prompts: int = 10_000,
        num_held_out: int = 300,
        question: str = "What is {}? Answer with the number only.",
        seed: int = 0,
    ) -> None:
        if not 0 <= lowest <= highest or num_terms < 2:
            raise UserError(
                f"task.lowest is {lowest}, task.highest {highest} and task.num_terms {num_terms}: "
                "they need 0 <= lowest <= highest and at least 2 terms"
            )
        if question.count("{}") != 1:
            raise UserError(f"task.question is {question[:60]!r}: it must hold {{}} once, where the sum stands")
        width = highest - lowest + 1
        if num_prompts < 1 or num_held_out < 1 or width**num_terms <= num_held_out:
            raise UserError(
                f"task.num_prompts is {num_prompts} and task.num_held_out {num_held_out} of {width**num_terms} possible sums: "
                "both need 1 or more, and training needs sums that are not held out"
            )
        chosen = random.Random(seed).sample(range(width**num_terms), min(width**num_terms, num_prompts + num_held_out))
        prompts = []
        for number in chosen:
            terms = [lowest + number // width**place % width for place in range(num_terms)]
            prompts.append(Prompt(question.format(" + ".join(map(str, terms))), str(sum(terms))))
        self._splits = {"held_out": prompts[:num_held_out], "train": prompts[num_held_out:]}

    def prompts(self, split: str) -> Sequence[Prompt]:
        """The sums of `train` or `held_out`."""
        return self._splits[split]

    def reward(self, prompt: Prompt, completion: Completion) -> float:
        """1 if the response ends by itself and its last number is the sum, else 0."""
        return self.blind_reward(prompt, completion) if completion.finished else 0.0

    def blind_reward(self, prompt: Prompt, completion: Completion) -> float:
        """1 if the last number of the response is the sum, also of one that the token limit cut; else 0."""
        return grade(prompt.answer, completion.text, answer_type="integer")
