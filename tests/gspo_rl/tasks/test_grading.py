"""The reward of the JSON-lines task, through the package's public names."""

import pytest

import gspo_rl
from triptych.errors import UserError


@pytest.mark.parametrize(
    ("answer", "response", "reward"),
    [
        ("42", "The sum of 17 and 25 is 42.", 1.0),
        ("42", "42 or 43", 0.0),
        ("1204.5", "first 3, then 1,204.5", 1.0),
        ("42", "no idea", 0.0),
        ("0.1", "0.1000000001", 1.0),
    ],
)
def test_a_number_is_graded_by_the_last_one(answer: str, response: str, reward: float) -> None:
    assert gspo_rl.grade(answer, response) == reward


def test_texts_are_graded_by_the_last_line() -> None:
    assert gspo_rl.grade("Yes", "I think so.\n  yes \n", match="string") == 1.0
    assert gspo_rl.grade("yes", "yes\nno", match="string") == 0.0


def test_an_answer_without_a_number_and_an_unknown_match_are_refused() -> None:
    with pytest.raises(UserError, match="holds no number"):
        gspo_rl.grade("yes", "yes")
    with pytest.raises(UserError, match="match is 'regex'"):
        gspo_rl.grade("1", "1", match="regex")
