"""Ends of responses: tokens and strings, wherever token boundaries lie."""

import pytest
import torch

from gspo_rl.models.policy import Policy
from gspo_rl.rollout.sampling import SamplingConfig
from gspo_rl.rollout.stopping import Stops
from triptych.errors import UserError


def ids(policy: Policy, text: str) -> list[int]:
    return list(policy.encode_response(text)[:-1])


def test_a_response_ends_with_the_token_that_completes_a_stop_string(small_policy: Policy) -> None:
    stops = Stops(small_policy, SamplingConfig(stop=["\n\n", "Q:"]))
    row = ids(small_policy, "42\n\nQ: more")
    assert stops.cut(row) == (4, "42", True)
    assert stops.cut(ids(small_policy, "42Q:\n\n")) == (4, "42", True)
    assert stops.cut(ids(small_policy, "42\n")) == (3, "42\n", False)
    assert stops.cut([*ids(small_policy, "4"), small_policy.eos_ids[0], *row]) == (2, "4", True)
    assert stops.cut([]) == (0, "", False)


def test_further_tokens_end_a_response(small_policy: Policy) -> None:
    (end,) = ids(small_policy, ";")
    stops = Stops(small_policy, SamplingConfig(stop_token_ids=[end]))
    assert stops.cut(ids(small_policy, "4;2")) == (2, "4;", True)
    assert set(stops.token_ids) == {end, *small_policy.eos_ids}
    assert stops.ended(torch.tensor([ids(small_policy, "4;"), ids(small_policy, "42")])).tolist() == [True, False]


@pytest.mark.parametrize("seed", range(20))
def test_an_end_is_noticed_at_the_token_that_completes_it(small_policy: Policy, seed: int) -> None:
    stops = Stops(small_policy, SamplingConfig(stop=["::", "aQb"]))
    letters = torch.randint(0, 4, (60,), generator=torch.Generator().manual_seed(seed)).tolist()
    row = ids(small_policy, "".join("ab:Q"[letter] for letter in letters))
    ended = [bool(stops.ended(torch.tensor([row[: index + 1]]))[0]) for index in range(len(row))]
    assert True in ended
    assert ended.index(True) + 1 == stops.cut(row).length


@pytest.mark.parametrize("settings", [{"stop": ["a", ""]}, {"stop_token_ids": [-1]}])
def test_ends_that_make_no_sense_are_refused(settings: dict[str, list[object]]) -> None:
    with pytest.raises(UserError, match="sampling.stop"):
        SamplingConfig(**settings)  # type: ignore[arg-type]
