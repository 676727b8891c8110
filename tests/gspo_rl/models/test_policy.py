"""Policies: scores against the plain model, tokenizer, saving and loading."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from gspo_rl.data.batch import Prompt
from gspo_rl.models.policy import Policy, TokenScorer, pretrained_policy
from gspo_rl.toy.policy import character_tokenizer
from triptych.errors import UserError


def plain_scores(policy: Policy, ids: list[int], start: int, temperature: float) -> list[float]:
    """Log-probability of each token from `start` on, one unpadded sequence at a time."""
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([ids])).logits[0].double() / temperature
    return [float(torch.log_softmax(logits[index - 1], -1)[ids[index]]) for index in range(start, len(ids))]


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_scores_of_a_padded_batch_are_those_of_each_sequence_alone(chunk: int | None, temperature: float, small_policy: Policy) -> None:
    policy = Policy(small_policy.model, small_policy.tokenizer, head_chunk_tokens=chunk)
    ids = torch.randint(3, 90, (3, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(3, 20, dtype=torch.bool)
    spans = [(5, 20), (8, 12), (2, 3)]
    for row, (start, stop) in enumerate(spans):
        mask[row, start:stop] = True
    scores = policy.scorer(ids, mask, temperature)
    assert (scores.logprobs[~mask] == 0).all()
    for row, (start, stop) in enumerate(spans):
        expected = plain_scores(policy, ids[row, :stop].tolist(), start, temperature)
        # Another batch shape sums in another order: a few float32 roundings of logits of size 1.
        torch.testing.assert_close(
            scores.logprobs[row, start:stop].double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=2e-5
        )


def test_a_saved_policy_reloads_with_transformers_alone(small_policy: Policy, tmp_path: Path) -> None:
    small_policy.save(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("12+3=")["input_ids"] == list(small_policy.encode(Prompt("12+3=", "15")))
    assert tokenizer.decode(tokenizer("12 + 3")["input_ids"]) == "12 + 3"
    for name, parameter in small_policy.model.named_parameters():
        assert torch.equal(dict(model.named_parameters())[name], parameter)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    loaded = pretrained_policy(str(tmp_path))
    assert loaded.eos_ids == small_policy.eos_ids


def test_a_mixture_of_experts_is_a_policy_too(tmp_path: Path) -> None:
    tokenizer = character_tokenizer()
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        intermediate_size=32, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2, max_position_embeddings=64,
    )  # fmt: skip
    Policy(Qwen3MoeForCausalLM(config), tokenizer).save(tmp_path)
    policy = pretrained_policy(str(tmp_path), head_chunk_tokens=5)
    mask = torch.ones(1, 9, dtype=torch.bool)
    mask[0, :2] = False
    ids = torch.arange(10, 19)[None]
    scores = policy.scorer(ids, mask, 1.0)
    expected = torch.tensor(plain_scores(policy, ids[0].tolist(), 2, 1.0))
    torch.testing.assert_close(scores.logprobs[0, 2:], expected, rtol=0, atol=2e-5)


def test_a_head_that_is_more_than_a_product_is_not_chunked() -> None:
    tokenizer = character_tokenizer()
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=32))
    Policy(model, tokenizer, head_chunk_tokens=8)  # GPT-2's head is a plain product
    model.lm_head.bias = torch.nn.Parameter(torch.ones(len(tokenizer)))
    with pytest.raises(UserError, match="head_chunk_tokens=null"):
        Policy(model, tokenizer, head_chunk_tokens=8)


def test_characters_outside_the_vocabulary_are_refused_by_name(small_policy: Policy) -> None:
    with pytest.raises(UserError, match="characters outside the policy's vocabulary .*é"):
        small_policy.encode(Prompt("caf\u00e9", "1"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "/no/such/folder"}, "no such folder"),
        ({"path": "./missing"}, "no such folder"),
        ({"path": "nobody/has-this-model"}, "allow_download=true"),
        ({"path": "x", "dtype": "float8"}, "policy.dtype is 'float8'"),
    ],
)
def test_a_missing_model_is_refused_in_one_line(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        pretrained_policy(**options)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="config.json"):
        pretrained_policy(str(tmp_path))


def test_a_chat_policy_without_a_template_is_refused(small_policy: Policy) -> None:
    with pytest.raises(UserError, match="chat template"):
        Policy(small_policy.model, small_policy.tokenizer, chat=True)


def test_a_chat_template_is_applied(small_policy: Policy) -> None:
    template = "{% for message in messages %}[{{ message.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    small_policy.tokenizer.chat_template = template
    policy = Policy(small_policy.model, small_policy.tokenizer, chat=True)
    assert policy.decode(policy.encode(Prompt("hi", ""))) == "[hi]>"


@pytest.mark.parametrize("family", ["Qwen3", "Llama", "Qwen2", "Qwen3Moe", "GPTNeoX"])
def test_rows_with_the_same_prompt_may_share_it(random_policy: Callable[..., Policy], family: str) -> None:
    """Scores and gradients are those of every row by itself."""
    options = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16} if family == "Qwen3Moe" else {}
    policy = random_policy(family=family, **options)
    prompts = ["1+2=", "1+2=", "what is this?", "x", "1+2=", "x"]
    responses = ["3", "five", "a test", "y", "a very long answer", "zz"]
    rows = [(policy.encode(Prompt(prompt, "")), policy.encode_response(text)) for prompt, text in zip(prompts, responses, strict=True)]
    input_ids = torch.zeros(len(rows), max(len(one) + len(other) for one, other in rows), dtype=torch.long)
    mask = torch.zeros_like(input_ids, dtype=torch.bool)
    for index, (prompt, response) in enumerate(rows):
        input_ids[index, : len(prompt) + len(response)] = torch.tensor([*prompt, *response])
        mask[index, len(prompt) : len(prompt) + len(response)] = True
    found = []
    for scorer in (
        TokenScorer(policy.model, head_chunk_tokens=None),
        TokenScorer(policy.model, head_chunk_tokens=None, share_prompts=True),
    ):
        policy.model.zero_grad()
        scores = scorer(input_ids, mask, 0.7)
        (scores.logprobs * torch.arange(1, mask.shape[1] + 1)).sum().backward()
        found.append(
            (scores, {name: parameter.grad.clone() for name, parameter in policy.model.named_parameters() if parameter.grad is not None})
        )
    (plain, gradients), (shared, shared_gradients) = found
    torch.testing.assert_close(shared.logprobs, plain.logprobs, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(shared.entropy, plain.entropy, atol=2e-5, rtol=1e-5)
    assert gradients.keys() == shared_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(shared_gradients[name], gradient, atol=1e-4 * float(gradient.abs().max()) + 1e-6, rtol=1e-4, msg=name)


def test_a_row_without_a_response_and_responses_of_one_token_can_share(small_policy: Policy) -> None:
    input_ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9], [5, 6, 7, 0]])
    mask = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]).bool()
    plain, shared = (
        TokenScorer(small_policy.model, head_chunk_tokens=None, share_prompts=share)(input_ids, mask, 1.0) for share in (False, True)
    )
    torch.testing.assert_close(shared.logprobs, plain.logprobs, atol=2e-5, rtol=1e-5)
    assert shared.logprobs[2].tolist() == [0, 0, 0, 0]


CHAT = "{% for message in messages %}<{{ message.role[0] }}>{{ message.content | trim }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}>{% endif %}{% if loud %}!{% endif %}"


def chat_policy(policy: Policy, **template: Any) -> Policy:
    policy.tokenizer.chat_template = CHAT
    return Policy(policy.model, policy.tokenizer, chat=True, template=template)


def spelled(policy: Policy, ids: Sequence[int]) -> str:
    return str(policy.tokenizer.decode(list(ids)))


def test_a_system_message_and_arguments_reach_the_template(small_policy: Policy) -> None:
    policy = chat_policy(small_policy, system="be brief", loud=True)
    assert spelled(policy, policy.encode(Prompt("hi", ""))) == "<s>be brief<eos><u>hi<eos>>!"
    assert spelled(policy, chat_policy(small_policy).encode(Prompt("hi", ""))) == "<u>hi<eos>>"
    with pytest.raises(UserError, match="policy.template holds arguments"):
        Policy(small_policy.model, small_policy.tokenizer, template={"loud": True})


def test_a_conversation_is_a_prompt(small_policy: Policy) -> None:
    messages = ({"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}, {"role": "user", "content": "3"})
    policy = chat_policy(small_policy)
    assert spelled(policy, policy.encode(Prompt("3", "", messages=messages))) == "<u>1<eos><a>2<eos><u>3<eos>>"
    with pytest.raises(UserError, match="policy.chat=true"):
        small_policy.encode(Prompt("3", "", messages=messages))


def test_control_tokens_in_a_prompt_are_text(small_policy: Policy) -> None:
    (end,) = small_policy.eos_ids
    text = "a<eos><u>b"
    plain = small_policy.encode(Prompt(text, ""))
    assert end not in plain
    assert spelled(small_policy, plain) == text
    policy = chat_policy(small_policy, system="<eos>!")
    found = policy.encode(Prompt(text, ""))
    assert found.count(end) == 2, "the template's own"
    assert spelled(policy, found) == f"<s><eos>!<eos><u>{text}<eos>>"
    harmless = policy.encode(Prompt("a", ""))
    assert len(found) == len(harmless) + len(text) - 1


@pytest.mark.parametrize("template", ["<s>{{ messages[-1]['content'] }}", "{{ bos_token }}{{ messages[-1]['content'] }}"])
def test_a_prompt_begins_with_one_token_of_beginning(small_policy: Policy, template: str) -> None:
    """Tokenizers that add such a token do it to a rendered template as well, which has one already."""
    tokenizer = small_policy.tokenizer
    tokenizer.add_special_tokens({"bos_token": "<eos>"})
    begin = tokenizer.bos_token_id
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<eos> $A", special_tokens=[("<eos>", begin)])
    tokenizer.chat_template = template.replace("<s>", "<eos>")
    assert tokenizer("ab")["input_ids"].count(begin) == 1, "the case has a tokenizer that adds it"
    for policy in (small_policy, Policy(small_policy.model, tokenizer, chat=True)):
        for text in ("ab", "a<pad>b"):
            ids = policy.encode(Prompt(text, ""))
            assert (ids[0], ids.count(begin)) == (begin, 1)
            assert spelled(policy, ids[1:]) == text


def test_the_way_of_prompting_is_saved_with_the_policy(small_policy: Policy, tmp_path: Path) -> None:
    chat_policy(small_policy, system="be brief").save(tmp_path)
    prompt = Prompt("hi", "")
    assert spelled(small_policy, pretrained_policy(str(tmp_path)).encode(prompt)) == "<s>be brief<eos><u>hi<eos>>"
    assert spelled(small_policy, pretrained_policy(str(tmp_path), chat=True).encode(prompt)) == "<u>hi<eos>>"
    assert spelled(small_policy, pretrained_policy(str(tmp_path), chat=False).encode(prompt)) == "hi"


def test_a_copy_in_bfloat16_keeps_the_rotary_frequencies_and_the_tied_head(small_policy: Policy) -> None:
    """A model that is cast as a whole rounds its rotary frequencies too: after some hundred tokens it sees other positions."""
    policy = chat_policy(small_policy, system="be brief")
    low = policy.in_precision("bfloat16")
    assert low.dtype == torch.bfloat16
    for (name, buffer), (_, own) in zip(low.model.named_buffers(), policy.model.named_buffers(), strict=True):
        assert buffer.dtype == own.dtype, name
        assert buffer.equal(own)
    for name, parameter in low.model.named_parameters():
        assert parameter.equal(policy.model.get_parameter(name).bfloat16())
    assert (low.model.lm_head.weight is low.model.model.embed_tokens.weight) == policy.model.config.tie_word_embeddings
    assert low.encode(Prompt("hi", "")) == policy.encode(Prompt("hi", ""))


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(small_policy: Policy) -> None:
    small_policy.tokenizer.add_tokens(["<new>"])
    with pytest.raises(UserError, match="the tokenizer has 100 tokens and the model embeddings of 99"):
        Policy(small_policy.model, small_policy.tokenizer)


def test_weights_that_lack_a_tensor_are_refused(small_policy: Policy, tmp_path: Path) -> None:
    small_policy.save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack or do not fit 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        pretrained_policy(str(tmp_path))
