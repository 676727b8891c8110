"""Training of the video model: the frames of a shot after its keyframe, all at the shot's noise level."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captain_cinema.data.captions import caption_indices
from captain_cinema.data.clips import TinyClips
from captain_cinema.flow import frame_losses, interpolate, loss_weights, sample_timesteps
from captain_cinema.models import FrameGroup
from captain_cinema.models.mmdit import SmallMMDiT
from captain_cinema.video.mmdit import ClipConditioning
from triptych.errors import UserError
from triptych.seeding import generator


@dataclass
class VideoLossConfig:
    """What a training step shows the video model.

    Attributes:
        keyframe_noise: largest noise level of the shot's own keyframe: drawn ones are not perfect.
        timestep_mean: mean of the logit of the clips' noise levels, see `sample_timesteps`.
        timestep_deviation: its standard deviation.
        share_at_one: share of pure noise beside them.
        weight_floor: noise level below which the loss is weighted no higher.
    """

    keyframe_noise: float = 0.1
    timestep_mean: float = 0.9
    timestep_deviation: float = 1.3
    share_at_one: float = 0.15
    weight_floor: float = 0.25

    def __post_init__(self) -> None:
        for name in ("keyframe_noise", "share_at_one"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"loss.{name} is {getattr(self, name)}: it must lie between 0 and 1")
        if not self.weight_floor > 0 or self.timestep_deviation < 0:
            raise UserError(
                f"loss.weight_floor is {self.weight_floor} and timestep_deviation {self.timestep_deviation}: give above 0, and 0 or more"
            )


class VideoStage:
    """Clips of tiny cinema from their keyframe, their caption and the keyframes around them.

    Args:
        model: the video model.
        data: shots.
        conditioning: other shots' keyframes.
        loss: settings.
        seed: seed of noise and noise levels.
    """

    def __init__(self, model: SmallMMDiT, data: TinyClips, conditioning: ClipConditioning, loss: VideoLossConfig, *, seed: int) -> None:
        self.model: nn.Module = model
        self.num_examples = data.num_examples
        self._data = data
        self._conditioning = conditioning
        self._loss = loss
        self._seed = seed
        self._patch = model.patch

    def losses(self, model: nn.Module, indices: Sequence[int], *, step: int, first: int, batch_size: int) -> Mapping[str, Tensor]:
        """Weighted mean squared error of the frames after the keyframe."""
        examples = self._data.examples(indices)
        streams = [generator(self._seed, "video", step, first + place) for place in range(len(examples))]
        device = next(model.parameters()).device
        keyframes = torch.stack([example.keyframes for example in examples]).to(device)
        captions = torch.stack([caption_indices([shot.caption for shot in example.story.shots]) for example in examples]).to(device)
        shots = [example.index for example in examples]
        around = self._conditioning.groups(keyframes, captions, shots, patch=self._patch)
        data = torch.stack([example.clip for example in examples])
        noise = torch.stack([torch.randn(example.clip.shape, generator=stream) for example, stream in zip(examples, streams, strict=True)])
        times = torch.stack([self._times(data.shape[1], stream) for stream in streams])
        noisy = interpolate(data.flatten(0, 1), noise.flatten(0, 1), times.flatten()).view_as(data)
        said = captions[torch.arange(len(examples)), shots][:, None].expand(-1, data.shape[1], -1)
        slots = torch.arange(data.shape[1]).float().expand_as(times)
        target = FrameGroup(noisy.to(device), said, times.to(device), slots.to(device))
        predicted = model([*around, target], attention="joint")[-1][:, 1:].flatten(0, 1)
        errors = frame_losses(predicted, data[:, 1:].flatten(0, 1).to(device))
        weights = loss_weights(times[:, 1:].flatten(), floor=self._loss.weight_floor).to(device)
        return {"loss": (weights * errors).mean(), "error": errors.detach().mean()}

    def _times(self, num_frames: int, stream: torch.Generator) -> Tensor:
        """One noise level for the shot, another for its keyframe."""
        (level,) = sample_timesteps(
            1,
            mean=self._loss.timestep_mean,
            deviation=self._loss.timestep_deviation,
            share_at_one=self._loss.share_at_one,
            generator=stream,
        )
        times = level.expand(num_frames).clone()
        times[0] = torch.minimum(level, self._loss.keyframe_noise * torch.rand((), generator=stream))
        return times
