"""Weights with an update beside them; the updates themselves are tested with LoRA."""

import torch

from gspo_rl.models.adapter import effective_weight, layers_with_update, merged_state


class Updated(torch.nn.Module):
    """A layer of the shape that peft gives one."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = torch.nn.Linear(2, 3)
        self.lora_A = torch.nn.Linear(2, 1, bias=False)

    @property
    def weight(self) -> torch.Tensor:
        return self.base_layer.weight

    def get_delta_weight(self, name: str) -> torch.Tensor:
        assert name == "default"
        return torch.full((3, 2), 0.5)


def test_a_plain_layer_has_its_own_weight() -> None:
    layer = torch.nn.Linear(2, 3)
    assert effective_weight(layer) is layer.weight
    assert layers_with_update(layer) == {}


def test_the_merged_state_has_the_names_of_the_plain_model() -> None:
    model = torch.nn.ModuleDict({"a": Updated(), "b": torch.nn.Linear(3, 1)})
    state = merged_state(model)
    assert set(state) == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert torch.equal(state["a.weight"], model["a"].base_layer.weight + 0.5)
    assert torch.equal(state["b.weight"], model["b"].weight)
    assert list(layers_with_update(model)) == ["a"]
