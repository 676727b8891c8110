"""Training stage of the keyframe model: alternative next shots over one memory, or sequences with a noise level per frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from captain_cinema.conditioning import MemoryPolicy, remembered_frames
from captain_cinema.data import KeyframeData, KeyframeExample
from captain_cinema.data.storyboard import Shot
from captain_cinema.models import CaptionEmbeddings, Frames, TrainableKeyframeModel, encode_frames
from captain_cinema.numerics.curriculum import Stage, sample_policy, stage_at
from captain_cinema.numerics.flow import NoiseLevels, frame_losses, interpolate, loss_weights
from triptych.errors import UserError
from triptych.seeding import generator

REGIMES = ("extend", "forcing", "causal")


@dataclass
class KeyframeLossConfig(NoiseLevels):
    """Settings of the keyframe loss and of the sequences of a training step.

    Attributes:
        regimes: sampling weights of the kinds of steps. `extend`: alternative next shots over one memory without a loss.
            `forcing`: every frame of a sequence is a target with its own noise level, under joint attention (the paper).
            `causal`: the same under causal attention.
        policies: sampling weights of the memories of `extend` steps, by name in the config's `memories`.
        context_noise: largest noise level of a memory frame; best value of the paper: 0.25.
        position_gap: largest number of position ids skipped between consecutive ranks of a memory, so that the position ids
            of longer memories occur in training.
        described: fraction of targets with a memory whose caption describes character and place.
        described_alone: the same for targets without a memory.
    """

    regimes: dict[str, float] = field(default_factory=lambda: {"extend": 1.0})
    policies: dict[str, float] = field(default_factory=dict)
    context_noise: float = 0.25
    position_gap: int = 0
    described: float = 0.15
    described_alone: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.regimes if name not in REGIMES]
        if unknown or not sum(self.regimes.values()) > 0 or min(self.regimes.values()) < 0:
            raise UserError(f"loss.regimes is {dict(self.regimes)}: give weights of {', '.join(REGIMES)}, at least one above 0")
        for name in ("context_noise", "described", "described_alone"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"loss.{name} is {getattr(self, name)}: it must be between 0 and 1")
        if self.position_gap < 0:
            raise UserError(f"loss.position_gap is {self.position_gap}: it must be 0 or more")


class KeyframeStage:
    """Trains a model to predict keyframes from their captions and a memory.

    Args:
        model: the keyframe model.
        data: stories.
        memories: policies by name.
        curriculum: sequence lengths over the steps; a sequence of one pair has no past.
        loss: settings.
        seed: seed of the noise, the noise levels, the regimes and the memory policies.
    """

    def __init__(
        self,
        model: TrainableKeyframeModel,
        data: KeyframeData,
        memories: Mapping[str, MemoryPolicy],
        curriculum: Sequence[Stage],
        loss: KeyframeLossConfig,
        *,
        seed: int,
    ) -> None:
        assert isinstance(model, nn.Module)
        self.model: nn.Module = model
        self.num_examples = data.num_examples
        self._data = data
        self._memories = dict(memories)
        self._curriculum = list(curriculum)
        self._loss = loss
        self._seed = seed
        self._space = model.space
        self._encode = model.encode_captions
        self._text_tokens = model.text_tokens
        self._short_side = data.image_size // model.space.pixels_per_token

    def losses(self, model: nn.Module, indices: Sequence[int], *, step: int, first: int, batch_size: int) -> Mapping[str, Tensor]:
        """Weighted mean squared error of the predicted data of the targets."""
        num_past = self._curriculum[stage_at(step, self._curriculum)[0]].num_pairs - 1
        examples = self._data.examples(indices, num_past=num_past)
        # One random stream per example, so that its noise does not depend on the rank that holds it.
        streams = [generator(self._seed, "keyframes", step, first + index) for index in range(len(examples))]
        regime = sample_policy(self._loss.regimes, generator=generator(self._seed, "regime", step))
        device = next(model.parameters()).device
        memory: list[Frames] = []
        if regime == "extend":
            policy = (
                self._memories[sample_policy(self._loss.policies, generator=generator(self._seed, "policy", step))] if num_past else None
            )
            memory = self._memory(examples, policy, num_past, streams) if policy else []
            target, data = self._targets(examples, streams, described=self._loss.described if memory else self._loss.described_alone)
        else:
            target, data = self._sequence(examples, num_past, streams)
        frames = [group.to(device) for group in (*memory, target)]
        predicted = model(frames, attention="joint" if regime == "forcing" else regime)[-1].flatten(0, 1)
        errors = frame_losses(predicted, data.flatten(0, 1).to(device))
        weights = loss_weights(target.timesteps.flatten(), floor=self._loss.weight_floor).to(device)
        return {"loss": (weights * errors).mean(), "error": errors.detach().mean()}

    def _memory(
        self, examples: Sequence[KeyframeExample], policy: MemoryPolicy, num_past: int, streams: Sequence[torch.Generator]
    ) -> list[Frames]:
        plan = policy.plan(num_past, short_side=self._short_side, text_tokens=self._text_tokens)
        pasts = [example.storyboard.shots[:num_past] for example in examples]
        captions = self._captions([[shot.caption for shot in shots] for shots in pasts])
        # All alternatives have the same tags: those of the first rank the past for all.
        wanted = [example.storyboard.shots[num_past].tags for example in examples]
        ranks = [policy.ranks([shot.tags for shot in shots], tags) for shots, tags in zip(pasts, wanted, strict=True)]
        # Noise levels and position ids (batch, past) by rank; gaps of 1 or more keep the position ids increasing.
        noise = torch.stack([self._loss.context_noise * torch.rand(num_past, generator=stream) for stream in streams])
        gaps = [1 + _integers(num_past, self._loss.position_gap, stream) for stream in streams]
        position_ids = torch.stack(gaps).cumsum(1)
        past = Frames(torch.stack([example.past_frames for example in examples]), captions, noise, position_ids)
        return remembered_frames(past, ranks, plan, self._space, generators=streams)

    def _targets(
        self, examples: Sequence[KeyframeExample], streams: Sequence[torch.Generator], *, described: float
    ) -> tuple[Frames, Tensor]:
        data = encode_frames(self._space, torch.stack([example.next_frames for example in examples]))
        texts = [
            [_caption(example, shot, stream, described) for shot in example.storyboard.shots[len(example.past_frames) :]]
            for example, stream in zip(examples, streams, strict=True)
        ]
        noisy, times = self._noised(data, streams)
        return Frames(noisy, self._captions(texts), times, torch.zeros_like(times)), data

    def _sequence(self, examples: Sequence[KeyframeExample], num_past: int, streams: Sequence[torch.Generator]) -> tuple[Frames, Tensor]:
        """The past and the first next shot as one sequence of targets; captions describe looks at their first appearance."""
        frames = torch.stack([torch.cat((example.past_frames, example.next_frames[:1])) for example in examples])
        data = encode_frames(self._space, frames)
        boards = [example.storyboard for example in examples]
        texts = [replace(board, shots=board.shots[: num_past + 1]).captions() for board in boards]
        noisy, times = self._noised(data, streams)
        position_ids = torch.arange(num_past, -1, -1).float().expand_as(times)  # 0 for the newest pair, as for a target
        return Frames(noisy, self._captions(texts), times, position_ids), data

    def _captions(self, texts: Sequence[Sequence[str]]) -> CaptionEmbeddings:
        return CaptionEmbeddings.stack([self._encode(own) for own in texts])

    def _noised(self, data: Tensor, streams: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        times, noise = [], []
        for stream in streams:
            times.append(self._loss.sample(data.shape[1], generator=stream))
            noise.append(torch.randn(data.shape[1:], generator=stream))
        levels, sampled = torch.stack(times).to(data), torch.stack(noise).to(data)  # (batch, frames), and the shape of the data
        return interpolate(data.flatten(0, 1), sampled.flatten(0, 1), levels.flatten()).view_as(data), levels


def _caption(example: KeyframeExample, shot: Shot, stream: torch.Generator, described: float) -> str:
    if float(torch.rand((), generator=stream)) >= described:
        return shot.caption
    return example.storyboard.described(shot)


def _integers(count: int, largest: int, stream: torch.Generator) -> Tensor:
    """`count` integers from 0 to a bound that is sampled from 0 to `largest`."""
    bound = int(torch.randint(largest + 1, (), generator=stream))
    return torch.randint(bound + 1, (count,), generator=stream)
