"""The caption encoder: tokens as sums of embeddings, unset fields and the action token."""

import pytest
import torch

from captain_cinema.toy.captions import CAPTION_FIELDS, Caption, caption_indices
from captain_cinema.toy.encoder import TinyCaptionEncoder
from triptych.errors import UserError

NAMED = "ada in the attic, wide shot, on the left, with the red box, jumps"
DESCRIBED = "ada (blue, circle, cap, bar) in the attic (cream walls, moss ground, window), wide shot, on the left, with the red box, jumps"
# Fields of every token, written out independently of the code.
TOKENS = [
    ["name", "colour", "shape", "hat", "badge"],
    ["place", "wall", "ground", "decoration"],
    ["size"],
    ["position"],
    ["prop"],
    ["action"],
]


def encoder(*, says_action: bool = True) -> TinyCaptionEncoder:
    torch.manual_seed(0)
    return TinyCaptionEncoder(8, says_action=says_action)


def row(model: TinyCaptionEncoder, ids: torch.Tensor, field: str) -> torch.Tensor:
    return model.embeddings[field].weight[int(ids[CAPTION_FIELDS.index(field)])]  # type: ignore[index, union-attr, return-value]


def test_a_token_is_the_sum_of_the_embeddings_of_its_fields() -> None:
    model = encoder()
    (ids,) = model.tokenize([DESCRIBED])
    assert bool((ids > 0).all())
    expected = torch.stack([sum(row(model, ids, field) for field in fields) for fields in TOKENS])  # type: ignore[misc]
    # Sums of at most 5 values of standard deviation 0.5 in float32, in the same order.
    torch.testing.assert_close(model(ids), expected, atol=1e-6, rtol=0)


def test_unset_fields_of_a_description_add_nothing() -> None:
    model = encoder()
    (ids,) = model.tokenize([NAMED])
    tokens = model(ids)
    for token, fields in enumerate(TOKENS):
        assert torch.equal(tokens[token], row(model, ids, fields[0]))
    # An unset name is index 0 of its own embedding: its token is not empty.
    (unnamed,) = caption_indices([Caption(place="attic")])
    assert torch.equal(model(unnamed)[0], model.embeddings["name"].weight[0])  # type: ignore[index]


def test_without_actions_there_are_five_tokens_and_the_action_is_ignored() -> None:
    model = encoder(says_action=False)
    assert (model.num_tokens, "action" in model.embeddings) == (5, False)
    jumps, stands = model(model.tokenize([NAMED, NAMED.removesuffix(", jumps")]))
    assert jumps.shape == (5, 8)
    assert torch.equal(jumps, stands)
    acting = encoder()
    jumps, stands = acting(acting.tokenize([NAMED, NAMED.removesuffix(", jumps")]))
    assert torch.equal(jumps[:5], stands[:5])
    assert not torch.equal(jumps[5], stands[5])


def test_leading_dimensions_are_kept_and_every_set_value_has_a_gradient() -> None:
    model = encoder()
    ids = model.tokenize([NAMED, DESCRIBED, "bo"]).view(3, 1, -1).expand(3, 2, -1)
    tokens = model(ids)
    assert tokens.shape == (3, 2, model.num_tokens, 8)
    assert torch.equal(tokens[:, 0], tokens[:, 1])
    tokens.sum().backward()
    for field, embedding in model.embeddings.items():
        used = set(ids[..., CAPTION_FIELDS.index(field)].flatten().tolist())
        if field not in [fields[0] for fields in TOKENS]:
            used -= {0}
        gradient = embedding.weight.grad.abs().sum(1)  # type: ignore[union-attr, operator]
        assert set(gradient.nonzero().flatten().tolist()) == used, field


def test_a_caption_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="'dragon', which is not in the vocabulary of tiny cinema"):
        encoder().tokenize([NAMED, "a dragon"])
