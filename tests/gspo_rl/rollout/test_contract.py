"""The contract of rollout engines, tested on each of them."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from gspo_rl.data.batch import Completion, Prompt
from gspo_rl.models.policy import Policy
from gspo_rl.rollout import RolloutEngine
from gspo_rl.rollout.sampling import SamplingConfig, uniform_noise
from gspo_rl.rollout.static_cache import StaticCacheEngine
from gspo_rl.rollout.transformers import TransformersEngine
from triptych.errors import UserError

ENGINES = [StaticCacheEngine, TransformersEngine]


PROMPTS = [Prompt(text, "") for text in ("1+2=", "1+2=", "what is this?", "x", "1+2=", "ab cd")]


SEEDS = [11, 12, 13, 14, 15, 16]


SAMPLING = SamplingConfig(max_tokens=24)


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.__name__)
def build(request: pytest.FixtureRequest) -> Callable[..., RolloutEngine]:
    engine: Callable[..., RolloutEngine] = request.param
    return engine


@pytest.fixture
def ending_policy(small_policy: Policy) -> Policy:
    """The random policy with a dozen tokens that end a response, so that rows end at different lengths."""
    small_policy.model.generation_config.eos_token_id = list(range(20, 32))
    return small_policy


def reference(policy: Policy, prompt: Prompt, seed: int, sampling: SamplingConfig) -> tuple[list[int], list[float]]:
    """One token at a time, without cache, batch or padding, inverting the distribution in float64."""
    ids = list(policy.encode(prompt))
    noise = uniform_noise([seed], sampling.max_tokens)[0].tolist()
    tokens: list[int] = []
    logprobs: list[float] = []
    for number in noise:
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        distribution = torch.softmax(logits / (sampling.temperature or 1.0), -1).tolist()
        if sampling.temperature == 0:
            token = max(range(len(distribution)), key=distribution.__getitem__)
        else:
            running, token = 0.0, -1
            while running <= number:
                token += 1
                running += distribution[token]
        tokens.append(token)
        logprobs.append(math.log(distribution[token]))
        ids.append(token)
        if token in policy.eos_ids:
            break
    return tokens, logprobs


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_completions_are_those_of_decoding_one_by_one(
    build: Callable[..., RolloutEngine], ending_policy: Policy, temperature: float
) -> None:
    sampling = SamplingConfig(max_tokens=24, temperature=temperature)
    completions = build(ending_policy).generate(PROMPTS, 1, sampling, seeds=SEEDS)
    lengths = set()
    for prompt, seed, completion in zip(PROMPTS, SEEDS, completions, strict=True):
        tokens, logprobs = reference(ending_policy, prompt, seed, sampling)
        assert completion.token_ids.tolist() == tokens
        # float32 logits of size 1 to 10, summed in another order
        assert completion.logprobs.tolist() == pytest.approx(logprobs, abs=5e-5)
        assert completion.prompt_ids == ending_policy.encode(prompt)
        assert completion.finished == (tokens[-1] in ending_policy.eos_ids)
        assert completion.text == ending_policy.decode(tokens)
        lengths.add(len(tokens))
    assert temperature == 0 or len(lengths) > 2, "the case should cover rows that leave the batch at different times"


def contents(completions: list[Completion]) -> list[tuple[Any, ...]]:
    """Every field of the completions in a form that can be compared."""
    return [
        (item.prompt_ids, item.token_ids.tolist(), item.logprobs.tolist(), item.text, item.finished, item.weight_version)
        for item in completions
    ]


def test_a_completion_does_not_depend_on_its_batch(build: Callable[..., RolloutEngine], ending_policy: Policy) -> None:
    together = build(ending_policy).generate(PROMPTS, 1, SAMPLING, seeds=SEEDS)
    alone: list[Completion] = []
    for prompt, seed in zip(PROMPTS, SEEDS, strict=True):
        alone += build(ending_policy).generate([prompt], 1, SAMPLING, seeds=[seed])
    small = build(ending_policy, max_batch=2).generate(PROMPTS[::-1], 1, SAMPLING, seeds=SEEDS[::-1])[::-1]
    for other in (alone, small):
        assert [item.token_ids.tolist() for item in other] == [item.token_ids.tolist() for item in together]
        for found, expected in zip(other, together, strict=True):
            assert found.logprobs.tolist() == pytest.approx(expected.logprobs.tolist(), abs=5e-5)


def test_samples_of_a_prompt_are_those_of_the_prompt_repeated(build: Callable[..., RolloutEngine], ending_policy: Policy) -> None:
    prompts, seeds = [PROMPTS[0], PROMPTS[2]], list(range(6))
    grouped = build(ending_policy).generate(prompts, 3, SAMPLING, seeds=seeds)
    repeated = build(ending_policy).generate([prompt for prompt in prompts for _ in range(3)], 1, SAMPLING, seeds=seeds)
    assert contents(grouped) == contents(repeated)
    assert len({tuple(item.token_ids.tolist()) for item in grouped[:3]}) > 1


def test_completions_carry_the_version_of_the_weights_that_sampled_them(build: Callable[..., RolloutEngine], small_policy: Policy) -> None:
    engine = build(small_policy)
    assert engine.generate(PROMPTS[:1], 1, SAMPLING, seeds=[0])[0].weight_version == 0
    engine.update_weights(
        ((name, torch.full_like(own, 0.01)) for name, own in small_policy.model.named_parameters(prefix="model")), version=12
    )
    assert engine.generate(PROMPTS[:1], 1, SAMPLING, seeds=[0])[0].weight_version == 12
    assert all(bool((parameter == 0.01).all()) for parameter in small_policy.model.parameters())


def test_a_float32_engine_is_exact_and_repeatable_and_closes_twice(build: Callable[..., RolloutEngine], small_policy: Policy) -> None:
    engine = build(small_policy)
    assert engine.is_exact
    assert contents(engine.generate(PROMPTS, 1, SAMPLING, seeds=SEEDS)) == contents(engine.generate(PROMPTS, 1, SAMPLING, seeds=SEEDS))
    engine.close()
    engine.close()
    small_policy.model.to(torch.bfloat16)
    assert not build(small_policy).is_exact


def test_a_bfloat16_engine_rounds_the_newest_weights_and_leaves_the_policy_alone(
    build: Callable[..., RolloutEngine], small_policy: Policy
) -> None:
    before = {name: own.clone() for name, own in small_policy.model.state_dict().items()}
    engine = build(small_policy, dtype="bfloat16")
    assert not engine.is_exact
    exact = build(small_policy)
    torch.manual_seed(0)
    for version in (0, 1):
        newer = {name: own + version * 0.5 * torch.randn_like(own) for name, own in small_policy.model.named_parameters(prefix="model")}
        engine.update_weights(iter(newer.items()), version=version)
        for name, own in small_policy.model.state_dict().items():
            assert own.dtype == torch.float32
            assert own.equal(before[name]), "the trainer's weights were rounded"
        completions = engine.generate(PROMPTS, 1, SamplingConfig(max_tokens=24, temperature=0.7), seeds=SEEDS)
        exact.update_weights(iter(newer.items()), version=version)
        for completion in completions:
            assert completion.weight_version == version
            ids = torch.tensor([[*completion.prompt_ids, *completion.token_ids.tolist()]])
            logprobs = torch.log_softmax(small_policy.model(input_ids=ids).logits[0] / 0.7, dim=-1)
            start = len(completion.prompt_ids)
            expected = logprobs[start - 1 : -1].gather(1, ids[0, start:, None]).squeeze(1)
            # 8 bits of mantissa: 0.4 % of logits of size 1 to 100
            assert (completion.logprobs - expected).abs().max() < 1
            assert (completion.logprobs - expected).abs().max() > 1e-5, "it computes in float32"
        before = {name: own.clone() for name, own in small_policy.model.state_dict().items()}


def test_an_unknown_precision_is_refused(build: Callable[..., RolloutEngine], small_policy: Policy) -> None:
    with pytest.raises(UserError, match="rollout.dtype is 'int8': choose one of float32, bfloat16"):
        build(small_policy, dtype="int8")


def test_samples_follow_the_policy(build: Callable[..., RolloutEngine], ending_policy: Policy) -> None:
    """2000 first tokens against their probabilities: Pearson's chi-squared over the likelier tokens."""
    count = 2000
    completions = build(ending_policy, max_batch=1000).generate([PROMPTS[0]], count, SamplingConfig(max_tokens=1), seeds=list(range(count)))
    with torch.no_grad():
        logits = ending_policy.model(input_ids=torch.tensor([ending_policy.encode(PROMPTS[0])])).logits[0, -1]
    probabilities = torch.softmax(logits.double(), -1).tolist()
    counts = Counter(int(item.token_ids[0]) for item in completions)
    cells = [(counts[token], count * p) for token, p in enumerate(probabilities) if count * p >= 5]
    statistic = sum((observed - expected) ** 2 / expected for observed, expected in cells)
    # Mean n, variance 2n: five standard deviations above.
    assert statistic < len(cells) + 5 * math.sqrt(2 * len(cells))


def test_a_prompt_that_leaves_no_room_is_refused(build: Callable[..., RolloutEngine], small_policy: Policy) -> None:
    with pytest.raises(UserError, match="longest prompt has 90 tokens and sampling.max_tokens is 24, but the policy holds 96"):
        build(small_policy).generate([Prompt("a" * 90, "")], 1, SAMPLING, seeds=[0])


def test_weights_that_are_not_finite_are_refused(build: Callable[..., RolloutEngine], small_policy: Policy) -> None:
    with torch.no_grad():
        small_policy.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        build(small_policy).generate(PROMPTS, 1, SAMPLING, seeds=SEEDS)


def test_stop_strings_and_tokens_end_responses(build: Callable[..., RolloutEngine], small_policy: Policy) -> None:
    engine, prompts, seeds = build(small_policy), PROMPTS * 4, list(range(24))
    free = engine.generate(prompts, 1, SAMPLING, seeds=seeds)
    letters = Counter(character for item in free for character in item.text)
    stop = letters.most_common(1)[0][0]
    stopped = engine.generate(prompts, 1, SamplingConfig(max_tokens=24, stop=[stop]), seeds=seeds)
    by_token = engine.generate(
        prompts, 1, SamplingConfig(max_tokens=24, stop_token_ids=list(small_policy.encode_response(stop)[:1])), seeds=seeds
    )
    for before, item, other in zip(free, stopped, by_token, strict=True):
        cut = before.text.partition(stop)
        assert item.text == cut[0]
        assert item.finished == (before.finished or bool(cut[1]))
        assert item.token_ids.tolist() == other.token_ids.tolist() == before.token_ids[: len(item.token_ids)].tolist()
        assert item.logprobs.tolist() == pytest.approx(before.logprobs[: len(item.token_ids)].tolist(), abs=5e-5)
    assert any(len(item.token_ids) < len(before.token_ids) for before, item in zip(free, stopped, strict=True))
