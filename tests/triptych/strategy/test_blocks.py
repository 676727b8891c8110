"""Operations that strategies share, against plain torch."""

import copy

import pytest
import torch
from torch import Tensor, nn

from triptych.errors import UserError
from triptych.strategy.blocks import (
    autocast_forward,
    check_precision,
    clipped_step,
    copy_without_weights,
    host_copy,
    parameter_owners,
    recompute_activations,
    repeated_blocks,
    scalars_to_vectors,
)


class Counting(nn.Module):
    """A block that counts its forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        return torch.tanh(self.linear(x))


class Stack(nn.Module):
    """Two blocks, a scalar parameter, and a head tied to the first block's weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Counting() for _ in range(2))
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.head = nn.Linear(4, 4, bias=False)
        self.head.weight = self.blocks[0].linear.weight

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(self.gain * x)


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(x).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_recomputing_runs_each_block_twice_with_equal_gradients(inputs: Tensor) -> None:
    model = Stack()
    expected = gradients(model, inputs)
    assert [block.forwards for block in model.blocks] == [1, 1]
    recompute_activations(model)
    forwards = [block.forward for block in model.blocks]
    recompute_activations(model)
    assert [block.forward for block in model.blocks] == forwards, "a second call changes nothing"
    found = gradients(model, inputs)
    assert [block.forwards for block in model.blocks] == [3, 3]
    assert found.keys() == expected.keys()
    # The same operations in the same order: bit-identical.
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    with torch.no_grad():
        model(inputs)
    assert [block.forwards for block in model.blocks] == [4, 4], "without gradients nothing is recomputed"


def test_a_list_of_one_type_without_parameters_is_no_block() -> None:
    model = nn.ModuleDict({"plain": nn.ModuleList([nn.Tanh(), nn.Tanh()]), "empty": nn.ModuleList()})
    assert repeated_blocks(model) == []
    with pytest.raises(UserError, match="activation_checkpointing is true but the model has no repeated blocks: leave it false"):
        recompute_activations(model)


def test_autocast_lowers_products_and_keeps_parameters_in_float32(inputs: Tensor) -> None:
    model, expected = nn.Linear(4, 4), nn.Linear(4, 4)
    expected.load_state_dict(model.state_dict())
    autocast_forward(model, "float32", torch.device("cpu"))
    assert model(inputs).dtype == torch.float32
    autocast_forward(model, "bfloat16", torch.device("cpu"))
    found = model(inputs)
    assert found.dtype == torch.bfloat16
    assert model.weight.dtype == torch.float32
    # bfloat16 has 8 bits of mantissa: 2**-8 relative per factor, over sums of 4 products of size about 1.
    torch.testing.assert_close(found.float(), expected(inputs), rtol=0.02, atol=0.02)
    found.float().sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.dtype == torch.float32


def test_an_unknown_precision_is_refused_with_the_known_ones() -> None:
    assert check_precision("bfloat16") == "bfloat16"
    with pytest.raises(UserError, match="strategy.precision is 'half': choose one of float32, bfloat16"):
        check_precision("half")


def test_scalars_become_vectors_with_equal_outputs_and_gradients(inputs: Tensor) -> None:
    model = Stack()
    model.gain.requires_grad_(False)
    changed = copy.deepcopy(model)
    scalars_to_vectors(changed)
    assert changed.gain.shape == (1,)
    assert not changed.gain.requires_grad
    assert changed.head.weight is changed.blocks[0].linear.weight
    assert torch.equal(changed(inputs), model(inputs))
    changed.gain.requires_grad_(True)
    model.gain.requires_grad_(True)
    # Reduction to (1,) and to a scalar may sum in another order: float32 over 12 terms.
    torch.testing.assert_close(gradients(changed, inputs)["gain"].squeeze(), gradients(model, inputs)["gain"], rtol=1e-6, atol=1e-6)


def test_a_tied_parameter_has_two_owners() -> None:
    model = Stack()
    owners = [(owner, name) for owner, name, parameter in parameter_owners(model) if parameter is model.head.weight]
    assert owners == [(model.blocks[0].linear, "weight"), (model.head, "weight")]
    assert len(list(parameter_owners(model))) == len(list(model.parameters())) + 1


def test_a_copy_without_weights_names_the_source_of_each_parameter(inputs: Tensor) -> None:
    model = Stack()
    copied, sources = copy_without_weights(model)
    assert copied.gain.shape == (1,), "scalars become vectors"
    given = dict(model.named_parameters())
    with torch.no_grad():
        filled = {name: nn.Parameter(sources[id(parameter)].clone()) for name, parameter in copied.named_parameters()}
    assert all(torch.equal(filled[name].view(given[name].shape), given[name]) for name in given)
    assert all(source.device.type == "cpu" for source in sources.values())
    assert all(not parameter.is_meta for parameter in model.parameters()), "the source is unchanged"


def plain_step(parameter: Tensor, gradient: Tensor, max_norm: float, rate: float) -> Tensor:
    """SGD with the gradient scaled down to `max_norm`, from the definition."""
    return parameter - rate * gradient * min(1.0, max_norm / float(gradient.norm()))


@pytest.mark.parametrize("max_grad_norm", [2.5, 100.0], ids=["clipped", "unclipped"])
def test_a_clipped_step_is_its_definition(max_grad_norm: float) -> None:
    model = nn.Linear(2, 1, bias=False)
    before, gradient = model.weight.detach().clone(), torch.tensor([[3.0, 4.0]])  # norm 5
    model.weight.grad = gradient.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=7.0)
    report = clipped_step(model, optimizer, max_grad_norm=max_grad_norm, learning_rate=0.1)
    assert (report.grad_norm, report.skipped) == (5.0, False), "the norm before clipping"
    # torch clips by max_norm / (norm + 1e-6): 2e-7 relative.
    torch.testing.assert_close(model.weight.detach(), plain_step(before, gradient, max_grad_norm, 0.1), rtol=1e-6, atol=1e-6)
    assert model.weight.grad is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_skips_the_step_and_is_cleared(value: float) -> None:
    model = nn.Linear(2, 1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.weight.grad, model.bias.grad = torch.tensor([[1.0, value]]), torch.ones(1)
    assert clipped_step(model, optimizer, max_grad_norm=1.0, learning_rate=0.1).skipped
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert not optimizer.state, "no moments were made"
    assert model.bias.grad is None


def test_a_host_copy_is_independent_and_contiguous() -> None:
    tensor = torch.arange(6.0).view(2, 3).requires_grad_()
    tree = {"model": [tensor.t(), 3], "whole": tensor, "step": "5"}
    copied = host_copy(tree)
    with torch.no_grad():
        tensor.zero_()
    assert copied["step"] == "5"
    assert torch.equal(copied["whole"], torch.arange(6.0).view(2, 3))
    found, number = copied["model"]
    assert number == 3
    assert torch.equal(found, torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]))
    assert found.is_contiguous()
    assert not found.requires_grad
