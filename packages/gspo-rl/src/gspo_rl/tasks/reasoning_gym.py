"""Any family of the `reasoning-gym` library, graded by that library."""

from collections.abc import Mapping, Sequence
from typing import Any, overload

import reasoning_gym
import torch
from reasoning_gym.utils import extract_answer

from gspo_rl.data.batch import Completion, Prompt
from triptych.errors import UserError
from triptych.seeding import derive_seed

_TRIES = 100


class ReasoningGymTask:
    """One procedurally generated family, such as `chain_sum` or `basic_arithmetic`.

    Args:
        name: the family's name in the library.
        options: per family, the arguments its config takes (number of terms, of digits, ...). Only the entry of
            `name` is used; a family without one runs with the library's defaults.
        num_prompts: number of training prompts.
        num_held_out: number of held-out prompts; their questions never appear in training.
        wrong: fraction of demonstrations that are deliberately wrong: one partial sum off by one in `chain_sum`, the answer
            of another question in families without worked demonstrations.
        seed: seed of the questions.

    Raises:
        UserError: if the family or one of its options does not exist, or a split would be empty.
    """

    def __init__(
        self,
        name: str,
        *,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        num_prompts: int = 100_000,
        num_held_out: int = 1_000,
        wrong: float = 0.3,
        seed: int = 0,
    ) -> None:
        if num_prompts < 1 or num_held_out < 1:
            raise UserError(
                f"task.num_prompts is {num_prompts} and task.num_held_out {num_held_out}: the task is empty, both need 1 or more"
            )
        chosen = dict((options or {}).get(name, {}))
        self._train = _dataset(name, num_prompts, derive_seed(seed, "train"), chosen)
        self._name = name
        self._wrong = wrong
        held_out = _dataset(name, num_held_out, derive_seed(seed, "held_out"), chosen)
        self._held_out = [_prompt(held_out[index]) for index in range(num_held_out)]

    def prompts(self, split: str) -> Sequence[Prompt]:
        """The questions of `train` (generated on access) or `held_out`."""
        return self._held_out if split == "held_out" else _Disjoint(self._train, self._held_out)

    def reward(self, prompt: Prompt, completion: Completion) -> float:
        """The library's score between 0 and 1 of the text between `<answer>` tags, or of the whole response.

        A response that was cut by the token limit scores 0.
        """
        if not completion.finished:
            return 0.0
        answer = extract_answer(completion.text) or completion.text.strip()
        return float(self._train.score_answer(answer=answer, entry=dict(prompt.metadata)))

    def demonstrate(self, prompt: Prompt, generator: torch.Generator) -> str:
        """A response with errors at the rate `wrong`: partial sums and a tagged answer for `chain_sum`, else the bare answer."""
        chance, position, sign = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        is_wrong = chance < self._wrong
        if self._name == "chain_sum":
            return _partial_sums(prompt.metadata["metadata"]["expression"], slip=(position, sign) if is_wrong else None)
        return self._held_out[int(position * len(self._held_out))].answer if is_wrong else prompt.answer


class _Disjoint(Sequence[Prompt]):
    """Training questions, without those that are held out."""

    def __init__(self, dataset: Any, held_out: Sequence[Prompt]) -> None:
        self._dataset = dataset
        self._excluded = {prompt.text for prompt in held_out}

    def __len__(self) -> int:
        return len(self._dataset)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prompt]: ...
    def __getitem__(self, index: int | slice) -> Prompt | list[Prompt]:
        if isinstance(index, slice):
            return [self[item] for item in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        for attempt in range(_TRIES):
            # Item i is a function of the data set's seed plus i, so indices past its end give new questions.
            prompt = _prompt(self._dataset[index + attempt * len(self)])
            if prompt.text not in self._excluded:
                return prompt
        raise UserError(
            "no training question is left beside the held-out ones: the family is too small, lower task.num_held_out or widen task.options"
        )


def _partial_sums(expression: str, *, slip: tuple[float, float] | None) -> str:
    """Works through `4 - 1 - 7` from left to right: `4-1=3 3-7=-4 <answer>-4</answer>`.

    Args:
        expression: numbers with ` + ` and ` - ` between them.
        slip: position of the one wrong result as a fraction of the steps, and its direction (below one half: up); None for none.
    """
    first, *rest = expression.split()
    total, steps = int(first), []
    for index, (operator, number) in enumerate(zip(rest[::2], rest[1::2], strict=True)):
        result = total + int(number) if operator == "+" else total - int(number)
        if slip is not None and int(slip[0] * (len(rest) // 2)) == index:
            result += 1 if slip[1] < 0.5 else -1
        steps.append(f"{total}{operator}{number}={result}")
        total = result
    return f"{' '.join(steps)} <answer>{total}</answer>"


def _dataset(name: str, size: int, seed: int, options: Mapping[str, Any]) -> Any:
    if name not in reasoning_gym.factory.DATASETS:
        known = ", ".join(sorted(reasoning_gym.factory.DATASETS))
        raise UserError(f"task.name is '{name}', which is no family of reasoning-gym: choose one of {known}")
    try:
        return reasoning_gym.create_dataset(name, size=size, seed=seed % 2**31, **options)
    except (TypeError, AssertionError, ValueError) as error:
        raise UserError(f"task.options.{name} is {dict(options)}, which the family refuses ({error}): fix or remove the option") from error


def _prompt(entry: Mapping[str, Any]) -> Prompt:
    return Prompt(text=entry["question"], answer=str(entry["answer"]), metadata=entry)
