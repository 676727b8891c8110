"""Policies: a causal language model with its tokenizer, and a module that scores response tokens."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from gspo_rl.data.batch import Prompt, distinct_prompts, left_padded
from gspo_rl.models.adapter import ADAPTER_FILE, Adapter, merged_state
from gspo_rl.models.folder import check_path
from gspo_rl.models.recorded import read_recorded, write_recorded
from gspo_rl.numerics.logprobs import TokenScores, token_scores, token_scores_from_hidden
from triptych.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TokenScorer(nn.Module):
    """A causal language model as a module whose forward scores response tokens.

    Strategies wrap this module: all computation that parallel training has to hook into is in its forward.

    Args:
        model: the language model.
        head_chunk_tokens: positions whose logits exist at one time; None computes all logits at once. See
            `token_scores_from_hidden`.
        share_prompts: whether rows with the same prompt share its forward and backward: faster by the fraction of prompt tokens.
    """

    def __init__(self, model: PreTrainedModel, *, head_chunk_tokens: int | None, share_prompts: bool = False) -> None:
        super().__init__()
        self.model = model
        self.head_chunk_tokens = head_chunk_tokens
        self.share_prompts = share_prompts

    def forward(
        self, input_ids: Int[Tensor, "batch tokens"], response_mask: Bool[Tensor, "batch tokens"], temperature: float
    ) -> TokenScores:
        """Scores of shape (batch, tokens), float32; 0 where `response_mask` is false.

        Rows are padded on the right, so causal attention never attends to padding and no attention mask is needed.
        """
        # Position t predicts token t + 1: the N response tokens are flattened before the head, to (N, hidden) or (N, vocab).
        wanted = response_mask[:, 1:]
        tokens = input_ids[:, 1:][wanted]
        if self.head_chunk_tokens is None and not self.share_prompts:
            logits = self.model(input_ids=input_ids, use_cache=False).logits[:, :-1][wanted]
            flat = token_scores(logits, tokens, temperature=temperature)
        else:
            if self.share_prompts:
                hidden = self._shared_hidden(input_ids, response_mask)
            else:
                hidden = self.model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state[:, :-1][wanted]
            chunk = self.head_chunk_tokens or max(1, len(tokens))
            head = self.model.get_output_embeddings()
            flat = token_scores_from_hidden(hidden, head.weight, tokens, temperature=temperature, chunk_tokens=chunk)
        zeros = torch.zeros(input_ids.shape, dtype=torch.float32, device=input_ids.device)
        rows = torch.nn.functional.pad(wanted, (1, 0))
        return TokenScores(zeros.masked_scatter(rows, flat.logprobs), zeros.masked_scatter(rows, flat.entropy))

    def _shared_hidden(self, input_ids: Int[Tensor, "batch tokens"], response_mask: Bool[Tensor, "batch tokens"]) -> Tensor:
        """Hidden states of shape (response tokens, width) that predict them, from one forward of each distinct prompt.

        The keys and values of a prompt are repeated for its rows, so the backward sums their gradients before it enters the prompt.
        """
        device = input_ids.device
        starts = response_mask.int().argmax(dim=1).clamp(min=1).tolist()  # of a row without a response: its first token
        prompts = [tuple(row[:start]) for row, start in zip(input_ids.tolist(), starts, strict=True)]
        distinct, row_of = distinct_prompts(prompts)
        rows = row_of.to(device)
        padded, mask = left_padded(distinct, 0)
        padded, real = padded.to(device), mask.long().to(device)
        positions = (real.cumsum(dim=1) - 1).clamp(min=0)  # padding is on the left
        output = self.model.base_model(input_ids=padded, attention_mask=real, position_ids=positions, use_cache=True)
        hidden = output.last_hidden_state[:, -1:][rows]
        valid_BR = self._responses(response_mask, response_mask, starts)
        if valid_BR.shape[1] > 1:  # the last token of a response predicts none
            cache = output.past_key_values
            cache.reorder_cache(rows)
            response_BR = self._responses(input_ids, response_mask, starts)[:, :-1]
            steps = torch.arange(response_BR.shape[1], device=device)
            output = self.model.base_model(
                input_ids=response_BR,
                attention_mask=torch.cat([real[rows], torch.ones_like(response_BR)], dim=1),  # padding on the right is never attended to
                position_ids=torch.tensor(starts, device=device)[:, None] + steps,
                past_key_values=cache,
                use_cache=True,
            )
            hidden = torch.cat([hidden, output.last_hidden_state], dim=1)
        return hidden[valid_BR]

    @staticmethod
    def _responses(values: Tensor, response_mask: Tensor, starts: Sequence[int]) -> Tensor:
        """The columns of the responses, moved to the left: (rows, longest response); what follows a response is padding."""
        length = max(1, int(response_mask.sum(dim=1).max()))
        columns = torch.tensor(starts, device=values.device)[:, None] + torch.arange(length, device=values.device)
        inside = columns < values.shape[1]
        return torch.where(inside, values.gather(1, columns.clamp(max=values.shape[1] - 1)), 0).to(values.dtype)


class Policy:
    """A causal language model and its tokenizer.

    Args:
        model: the language model to train.
        tokenizer: its tokenizer, with an end-of-sequence token.
        chat: whether prompts pass through the tokenizer's chat template.
        head_chunk_tokens: see `TokenScorer`.
        share_prompts: see `TokenScorer`.
        template: arguments of the chat template, such as `enable_thinking`; `system` is a system message before every prompt.

    Attributes:
        training: what it is trained on, saved with it; see `gspo_rl.models.recorded`.

    Raises:
        UserError: if the tokenizer has no end-of-sequence token, `chat` is set and it has no template, or
            the model does more than a matrix product between its last hidden state and its logits while
            `head_chunk_tokens` or `share_prompts` is set.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat: bool = False,
        head_chunk_tokens: int | None = None,
        share_prompts: bool = False,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        # Dropout is never active: the importance ratio would measure its noise instead of the policy's change.
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.scorer: nn.Module = TokenScorer(model, head_chunk_tokens=head_chunk_tokens, share_prompts=share_prompts)
        self._chat = chat
        self._template = dict(template or {})
        self._system = self._template.pop("system", None)
        self.training: Mapping[str, Any] | None = None
        self._adapter: Adapter | None = None
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"the tokenizer of {model.name_or_path or 'this policy'} has no end-of-sequence token: set one and save it again"
            )
        if chat and tokenizer.chat_template is None:
            raise UserError("policy.chat=true but the tokenizer has no chat template: use policy.chat=false")
        if template and not chat:
            raise UserError("policy.template holds arguments of a chat template, but policy.chat is false: use policy.chat=true")
        rows = model.get_input_embeddings().weight.shape[0]
        if len(tokenizer) > rows:
            raise UserError(f"the tokenizer has {len(tokenizer)} tokens and the model embeddings of {rows}: give the model's own tokenizer")
        if head_chunk_tokens is not None or share_prompts:
            self._check_head("policy.head_chunk_tokens=null policy.share_prompts=false")

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return self.model.dtype

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a response."""
        configured = self.model.generation_config.eos_token_id if self.model.generation_config is not None else None
        ids = configured if isinstance(configured, list) else [configured] if configured is not None else []
        return tuple(dict.fromkeys([*ids, int(self.tokenizer.eos_token_id)]))

    @property
    def pad_id(self) -> int:
        """The padding token, or the end-of-sequence token of a tokenizer that has none."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    @property
    def max_positions(self) -> int:
        """Longest sequence of the model, in tokens."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    @property
    def num_parameters(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def num_trainable(self) -> int:
        """Number of parameters that training changes."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of a prompt, through the chat template if the policy has `chat` set.

        Control tokens that are spelled out in the text of a prompt stay text: they end no turn.

        Raises:
            UserError: if the prompt is empty, holds a character outside the tokenizer's vocabulary, or is a conversation and `chat` is
                not set.
        """
        if self._chat:
            ids = self._encode_chat(prompt)
        elif prompt.messages:
            raise UserError("a prompt is a conversation of messages, which needs the chat template: use policy.chat=true")
        else:
            ids = self.tokenizer(prompt.text, split_special_tokens=self._has_control(prompt.text))["input_ids"]
        if not ids:
            raise UserError(f"a prompt is empty after tokenization ({prompt.text!r}): remove it")
        if self.tokenizer.unk_token_id is not None and self.tokenizer.unk_token_id in ids:
            unknown = sorted(
                {character for character in prompt.text if self.tokenizer.unk_token_id in self.tokenizer(character)["input_ids"]}
            )
            raise UserError(
                f"the prompt {prompt.text[:60]!r} holds characters outside the policy's vocabulary ({' '.join(unknown)}): remove them"
            )
        return tuple(ids)

    def _encode_chat(self, prompt: Prompt) -> list[int]:
        messages = prompt.conversation
        if self._system is not None:
            messages = [{"role": "system", "content": self._system}, *messages]
        options = {"add_generation_prompt": True, **self._template}
        if not any(self._has_control(message["content"]) for message in messages):
            return list(self.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options))
        # The template is rendered with a mark in place of each text, and the texts are encoded apart from it.
        marks = [f"\ue000{index}\ue001" for index in range(len(messages))]
        marked = [{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)]
        rest = str(self.tokenizer.apply_chat_template(marked, tokenize=False, **options))
        ids: list[int] = []
        for message, mark in zip(messages, marks, strict=True):
            before, found, after = rest.partition(mark)
            if not found:  # the template leaves this message out
                continue
            ids += self.tokenizer(before, add_special_tokens=False)["input_ids"]
            ids += self.tokenizer(message["content"].strip(), add_special_tokens=False, split_special_tokens=True)["input_ids"]
            rest = after
        return [*ids, *self.tokenizer(rest, add_special_tokens=False)["input_ids"]]

    def _has_control(self, text: str) -> bool:
        return any(token in text for token in self.tokenizer.all_special_tokens + list(self.tokenizer.get_added_vocab()))

    def encode_response(self, text: str) -> tuple[int, ...]:
        """Token ids of a demonstrated response, with the end-of-sequence token."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return (*ids, int(self.tokenizer.eos_token_id))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a response, without special tokens."""
        text = self.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def train_with(self, adapter: Adapter) -> None:
        """Freezes the model and adds an update that is trained in its place, such as `gspo_rl.models.lora.LoRA`.

        Raises:
            UserError: if it does not fit the model.
        """
        adapter.add(self.model)
        self.model.eval()
        self._adapter = adapter

    @torch.no_grad()
    def in_precision(self, dtype: str) -> "Policy":
        """The same prompting with a copy of the model in another precision; `copy_parameters` rounds newer weights into it.

        Args:
            dtype: `float32` or `bfloat16`.

        Raises:
            UserError: if `dtype` is unknown.
        """
        if dtype not in DTYPES:
            raise UserError(f"rollout.dtype is '{dtype}': choose one of {', '.join(DTYPES)}, or null for that of the policy")
        model = copy.deepcopy(self.model)
        for parameter in model.parameters():  # not the buffers: rotary frequencies need float32
            parameter.data = parameter.data.to(DTYPES[dtype])
        model.config.dtype = DTYPES[dtype]
        return Policy(model.requires_grad_(False), self.tokenizer, **self._prompting())

    @torch.no_grad()
    def copy_parameters(self, parameters: Iterator[tuple[str, Tensor]]) -> None:
        """Copies the parameters of another `TokenScorer` of the same architecture into the model, by name.

        Tensors that share storage with the model's own are skipped, and others rounded to its precision.
        """
        own = dict(self.model.named_parameters(prefix="model"))
        for name, parameter in parameters:
            if own[name].data_ptr() != parameter.data_ptr():
                own[name].copy_(parameter)

    def save(self, directory: Path) -> None:
        """Writes the policy in Hugging Face format (safetensors); `AutoModelForCausalLM` reads it back.

        With an adapter, the weights hold it too, and the folder `adapter` holds it alone.
        """
        self.model.save_pretrained(directory, state_dict=None if self._adapter is None else merged_state(self.model))
        if self._adapter is not None:
            self._adapter.save(self.model, directory / "adapter", base=self.model.name_or_path)
        self._save_prompting(directory)

    def save_files(self, directory: Path) -> None:
        """Writes the files of `save` except the weights: configs and tokenizer."""
        self.model.save_pretrained(directory, state_dict={})
        for path in directory.glob("*.safetensors*"):
            path.unlink()
        if self._adapter is not None:
            (directory / ADAPTER_FILE).write_text(json.dumps(self._adapter.settings()))
        self._save_prompting(directory)

    def _save_prompting(self, directory: Path) -> None:
        self.tokenizer.save_pretrained(directory)
        write_recorded(directory, **self._prompting(), training=self.training)

    def _prompting(self) -> dict[str, Any]:
        template = self._template if self._system is None else {**self._template, "system": self._system}
        return {"chat": self._chat, "template": template}

    def _check_head(self, remedy: str) -> None:
        """Compares the logits of a few tokens with the plain product of hidden states and head."""
        head = self.model.get_output_embeddings()
        ids = torch.arange(min(8, self.model.config.get_text_config().vocab_size), device=self.device)[None]
        with torch.no_grad():
            logits = self.model(input_ids=ids, use_cache=False).logits.float()
            hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            product = (hidden @ head.weight.T).float()
        if getattr(head, "bias", None) is not None or not torch.allclose(logits, product, rtol=1e-2, atol=1e-2):
            raise UserError(f"{type(self.model).__name__} does more than a matrix product between hidden states and logits: set {remedy}")


def pretrained_policy(
    path: str,
    *,
    dtype: str = "float32",
    chat: bool | None = None,
    head_chunk_tokens: int | None = None,
    share_prompts: bool = False,
    attention: str = "sdpa",
    allow_download: bool = False,
    template: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> Policy:
    """Any Hugging Face causal language model, from a folder or by name. No code of the repository is executed.

    Args:
        path: folder in Hugging Face format, or a name like `Qwen/Qwen3-0.6B`.
        dtype: `float32` or `bfloat16`.
        chat: whether prompts pass through the tokenizer's chat template; None for what a policy that was saved here was trained with,
            and false for any other.
        head_chunk_tokens: see `TokenScorer`.
        share_prompts: see `TokenScorer`.
        attention: attention implementation of transformers (`sdpa`, `eager`, `flash_attention_2`).
        allow_download: whether a name may be fetched from the Hugging Face hub; otherwise only its local cache is used.
        template: arguments of the chat template, see `Policy`; None for those of a policy that was saved here.
        device: where the parameters go.

    Raises:
        UserError: if there is no such model, it cannot be read, or `dtype` is unknown.
    """
    if dtype not in DTYPES:
        raise UserError(f"policy.dtype is '{dtype}': choose one of {', '.join(DTYPES)}")
    options: dict[str, Any] = {"local_files_only": not allow_download, "trust_remote_code": False}
    check_path(path)
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            path, dtype=DTYPES[dtype], attn_implementation=attention, use_safetensors=True, output_loading_info=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        remedy = (
            "give a folder in Hugging Face format"
            if allow_download
            else "give a folder, or set policy.allow_download=true to fetch it by name"
        )
        raise UserError(f"policy.path is '{path}', which cannot be loaded ({reason}): {remedy}") from error
    lacking = sorted({*loading["missing_keys"], *(str(item[0]) for item in loading["mismatched_keys"])})
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise UserError(f"policy.path is '{path}', whose weights lack or do not fit '{lacking[0]}'{more}: download them again")
    if chat is None:
        recorded = read_recorded(Path(path))
        chat = recorded["chat"]
        template = recorded["template"] if chat and template is None else template
    return Policy(
        model.to(device), tokenizer, chat=chat, head_chunk_tokens=head_chunk_tokens, share_prompts=share_prompts, template=template
    )
