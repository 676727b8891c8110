"""Training stage of the video model: the frames of a shot after its keyframe, at one noise level per shot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captain_cinema.data import ClipData
from captain_cinema.models import CaptionEmbeddings, Frames, TrainableKeyframeModel, encode_frames
from captain_cinema.numerics.flow import NoiseLevels, frame_losses, interpolate, loss_weights
from captain_cinema.video.diffusion import ClipConditioning, repeat_frames
from triptych.errors import UserError
from triptych.seeding import generator


@dataclass
class VideoLossConfig(NoiseLevels):
    """Settings of the video loss and of the frames of a training step.

    Attributes:
        keyframe_noise: largest noise level of the keyframe of the shot, as sampled keyframes have errors.
        whole_clips: fraction of the steps with all frames of a clip. The others have the keyframe and `some_frames` later
            ones, sampled per clip: frames of one clip are redundant, so more clips per step are more informative.
        some_frames: number of later frames in those steps.
    """

    keyframe_noise: float = 0.1
    whole_clips: float = 1.0
    some_frames: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("keyframe_noise", "whole_clips"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"loss.{name} is {getattr(self, name)}: it must be between 0 and 1")
        if self.some_frames < 1:
            raise UserError(f"loss.some_frames is {self.some_frames}: it must be 1 or more")


class VideoStage:
    """Trains a model to predict clips from their keyframe, their caption and the keyframes of other shots.

    Args:
        model: the video model.
        data: clips.
        conditioning: selection of the keyframes of other shots.
        loss: settings.
        seed: seed of the noise, the noise levels and the selected frames.
    """

    def __init__(
        self, model: TrainableKeyframeModel, data: ClipData, conditioning: ClipConditioning, loss: VideoLossConfig, *, seed: int
    ) -> None:
        assert isinstance(model, nn.Module)
        self.model: nn.Module = model
        self.num_examples = data.num_examples
        self._data = data
        self._conditioning = conditioning
        self._loss = loss
        self._seed = seed
        self._space = model.space
        self._encode = model.encode_captions

    def losses(self, model: nn.Module, indices: Sequence[int], *, step: int, first: int, batch_size: int) -> Mapping[str, Tensor]:
        """Weighted mean squared error of the frames after the keyframe."""
        examples = self._data.examples(indices)
        streams = [generator(self._seed, "video", step, first + index) for index in range(len(examples))]
        device = next(model.parameters()).device
        keyframes = torch.stack([example.keyframes for example in examples]).to(device)
        boards = [example.storyboard for example in examples]
        captions = CaptionEmbeddings.stack([self._encode([shot.caption for shot in board.shots]) for board in boards]).to(device)
        shots = [example.index for example in examples]
        around = self._conditioning.frames(keyframes, captions, shots, self._space)
        # moments (batch, frames) are indices into each clip, and the position ids of the target.
        moments = torch.stack([self._moments(examples[0].clip.shape[0], step, stream) for stream in streams])
        clips = torch.stack([example.clip[own] for example, own in zip(examples, moments, strict=True)])
        data = encode_frames(self._space, clips)
        noise = torch.stack([torch.randn(data.shape[1:], generator=stream) for stream in streams]).to(data)
        times = torch.stack([self._times(data.shape[1], stream) for stream in streams]).to(data)
        noisy = interpolate(data.flatten(0, 1), noise.flatten(0, 1), times.flatten()).view_as(data)
        own = captions[torch.arange(len(examples)), shots].map(lambda tensor: repeat_frames(tensor, data.shape[1]))
        target = Frames(noisy.to(device), own, times.to(device), moments.float().to(device))
        predicted = model([*around, target], attention="joint")[-1][:, 1:].flatten(0, 1)
        errors = frame_losses(predicted, data[:, 1:].flatten(0, 1).to(device))
        weights = loss_weights(times[:, 1:].flatten(), floor=self._loss.weight_floor).to(device)
        return {"loss": (weights * errors).mean(), "error": errors.detach().mean()}

    def _moments(self, num_frames: int, step: int, stream: torch.Generator) -> Tensor:
        """Indices of the frames of a clip in a step, increasing, the keyframe first; their number is the same for all clips of a step."""
        whole = float(torch.rand((), generator=generator(self._seed, "whole clips", step))) < self._loss.whole_clips
        if whole or self._loss.some_frames >= num_frames - 1:
            return torch.arange(num_frames)
        later = 1 + torch.randperm(num_frames - 1, generator=stream)[: self._loss.some_frames]
        return torch.cat((torch.zeros(1, dtype=torch.long), later.sort().values))

    def _times(self, num_frames: int, stream: torch.Generator) -> Tensor:
        """Noise levels (frames,): one for the shot, a lower one for its keyframe."""
        (level,) = self._loss.sample(1, generator=stream)
        times = level.expand(num_frames).clone()
        times[0] = torch.minimum(level, self._loss.keyframe_noise * torch.rand((), generator=stream))
        return times
