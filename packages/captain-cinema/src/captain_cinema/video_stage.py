"""Training of the video model: the frames of a shot after its keyframe, all at the shot's noise level."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captain_cinema.data.captions import caption_indices
from captain_cinema.data.clips import TinyClips
from captain_cinema.flow import NoiseLevels, frame_losses, interpolate, loss_weights
from captain_cinema.models import FrameGroup
from captain_cinema.models.mmdit import SmallMMDiT
from captain_cinema.video.mmdit import ClipConditioning
from triptych.errors import UserError
from triptych.seeding import generator


@dataclass
class VideoLossConfig(NoiseLevels):
    """What a training step shows the video model.

    Attributes:
        keyframe_noise: largest noise level of the shot's own keyframe: drawn ones are not perfect.
    """

    keyframe_noise: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.keyframe_noise <= 1:
            raise UserError(f"loss.keyframe_noise is {self.keyframe_noise}: it must lie between 0 and 1")


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
        (level,) = self._loss.sample(1, generator=stream)
        times = level.expand(num_frames).clone()
        times[0] = torch.minimum(level, self._loss.keyframe_noise * torch.rand((), generator=stream))
        return times
