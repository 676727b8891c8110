"""Training of the keyframe model: alternative next shots over one memory, or whole sequences with a noise level per frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from captain_cinema.conditioning import MemoryPolicy, memory_groups
from captain_cinema.curriculum import Stage, draw_policy, stage_at
from captain_cinema.data.captions import Caption, caption_indices
from captain_cinema.data.tiny import StoryExample, TinyCinema
from captain_cinema.flow import frame_losses, interpolate, loss_weights, sample_timesteps
from captain_cinema.models import FrameGroup
from captain_cinema.models.mmdit import SmallMMDiT
from triptych.errors import UserError
from triptych.seeding import generator

REGIMES = ("extend", "forcing")


@dataclass
class KeyframeLossConfig:
    """What a training step shows the model.

    Attributes:
        regime: `extend` (alternative next shots share a memory that carries no loss) or `forcing` (every frame of a
            sequence has its own noise level and is a target; the paper's).
        policies: shares of the memories that steps are trained with, by name in the config's `memories`.
        context_noise: largest noise level of a memory frame; the paper's best is 0.25.
        described: share of the targets whose caption describes character and place.
        timestep_mean, timestep_deviation, share_at_one: density of the targets' noise levels, see `sample_timesteps`.
        weight_floor: noise level below which the loss is weighted no higher.
    """

    regime: str = "extend"
    policies: dict[str, float] = field(default_factory=dict)
    context_noise: float = 0.25
    described: float = 0.15
    timestep_mean: float = 0.9
    timestep_deviation: float = 1.3
    share_at_one: float = 0.15
    weight_floor: float = 0.25

    def __post_init__(self) -> None:
        if self.regime not in REGIMES:
            raise UserError(f"loss.regime is '{self.regime}': choose one of {', '.join(REGIMES)}")
        for name in ("context_noise", "described"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"loss.{name} is {getattr(self, name)}: it must lie between 0 and 1")


class KeyframeStage:
    """Keyframes of tiny cinema from their captions and a memory.

    Args:
        model: the keyframe model.
        data: stories.
        memories: policies by name.
        curriculum: lengths of the sequences over the steps; a sequence of one pair has no past.
        loss: settings.
        seed: seed of noise, noise levels and the choice of memories.
    """

    def __init__(
        self,
        model: SmallMMDiT,
        data: TinyCinema,
        memories: Mapping[str, MemoryPolicy],
        curriculum: Sequence[Stage],
        loss: KeyframeLossConfig,
        *,
        seed: int,
    ) -> None:
        self.model: nn.Module = model
        self.num_examples = data.num_examples
        self._data = data
        self._memories = dict(memories)
        self._curriculum = list(curriculum)
        self._loss = loss
        self._seed = seed
        self._patch = model.patch
        self._text_tokens = model.text_tokens
        self._short_side = data.image_size // model.patch

    def losses(self, model: nn.Module, indices: Sequence[int], *, step: int, first: int, batch_size: int) -> Mapping[str, Tensor]:
        """Weighted mean squared error of the data that the targets are predicted to be."""
        num_past = self._curriculum[stage_at(step, self._curriculum)[0]].num_pairs - 1
        examples = self._data.examples(indices, num_past=num_past)
        # One stream per example: what befalls it does not depend on the rank that holds it.
        streams = [generator(self._seed, "keyframes", step, first + place) for place in range(len(examples))]
        policy = self._memories[draw_policy(self._loss.policies, generator=generator(self._seed, "policy", step))]
        device = next(model.parameters()).device
        memory = self._memory(examples, policy, num_past, streams) if num_past else []
        target, data = self._targets(examples, streams)
        groups = [_to(group, device) for group in (*memory, target)]
        predicted = model(groups, attention="extend")[-1].flatten(0, 1)
        errors = frame_losses(predicted, data.flatten(0, 1).to(device))
        weights = loss_weights(target.timesteps.flatten(), floor=self._loss.weight_floor).to(device)
        return {"loss": (weights * errors).mean(), "error": errors.detach().mean()}

    def _memory(
        self, examples: Sequence[StoryExample], policy: MemoryPolicy, num_past: int, streams: Sequence[torch.Generator]
    ) -> list[FrameGroup]:
        plan = policy.plan(num_past, short_side=self._short_side, text_tokens=self._text_tokens)
        frames = torch.stack([example.past_frames for example in examples])
        captions = torch.stack([caption_indices([shot.caption for shot in example.story.shots]) for example in examples])
        # The alternatives show one character at one place in several framings, so that they ask the past for the same.
        ranks = [policy.ranks([shot.tags for shot in example.story.shots], example.next_shots[0].tags) for example in examples]
        noise = torch.stack([self._loss.context_noise * torch.rand(num_past, generator=stream) for stream in streams])
        return memory_groups(frames, captions, ranks, plan, patch=self._patch, timesteps=noise, generators=streams)

    def _targets(self, examples: Sequence[StoryExample], streams: Sequence[torch.Generator]) -> tuple[FrameGroup, Tensor]:
        data = torch.stack([example.next_frames for example in examples])
        captions, timesteps, noise = [], [], []
        for example, stream in zip(examples, streams, strict=True):
            said: list[Caption] = []
            for shot in example.next_shots:
                described = float(torch.rand((), generator=stream)) < self._loss.described
                looks = (example.story.characters[shot.name], example.story.places[shot.place]) if described else (None, None)
                said.append(shot.caption.described(*looks))
            captions.append(caption_indices(said))
            timesteps.append(
                sample_timesteps(
                    len(said),
                    mean=self._loss.timestep_mean,
                    deviation=self._loss.timestep_deviation,
                    share_at_one=self._loss.share_at_one,
                    generator=stream,
                )
            )
            noise.append(torch.randn(example.next_frames.shape, generator=stream))
        times = torch.stack(timesteps)
        noisy = interpolate(data.flatten(0, 1), torch.stack(noise).flatten(0, 1), times.flatten()).view_as(data)
        return FrameGroup(noisy, torch.stack(captions), times, torch.zeros_like(times)), data


def _to(group: FrameGroup, device: torch.device) -> FrameGroup:
    return FrameGroup(
        group.latents.to(device), group.captions.to(device), group.timesteps.to(device), group.slots.to(device), group.is_memory
    )
