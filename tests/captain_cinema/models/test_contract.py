"""The contract of keyframe models, tested for every implementation, and of latent spaces and frames."""

import pytest
import torch

from captain_cinema.conditioning import MemoryPolicy, position_ids_by_rank, remembered_frames
from captain_cinema.data.storyboard import Shot, Storyboard
from captain_cinema.models import CaptionEmbeddings, Frames, KeyframeModel, LatentSpace, PixelSpace, encode_frames
from captain_cinema.numerics.memory import MemoryPlan
from captain_cinema.sampling import KeyframeSampler, SamplingConfig

# In the vocabulary of tiny cinema, so that its encoder can parse them as well.
CAPTIONS = ["ada in the attic", "bo in the garden", "ada in the garden"]


def target(model: KeyframeModel, captions: CaptionEmbeddings, size: int = 64) -> Frames:
    rows, columns = model.space.size(size, size)
    latents = torch.randn(1, 1, model.space.channels, rows, columns, generator=torch.Generator().manual_seed(1))
    return Frames(latents, captions[None, :1], torch.full((1, 1), 0.7), torch.zeros(1, 1))


def memory(model: KeyframeModel, captions: CaptionEmbeddings) -> list[Frames]:
    pixels = torch.rand(1, 2, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    past = Frames(pixels, captions[None, 1:3], torch.zeros(1, 2), position_ids_by_rank(1, 2))
    plan = MemoryPlan(((64 // model.space.pixels_per_token,) * 2, (2, 2)))
    return remembered_frames(past, [[1, 0]], plan, model.space)


@torch.no_grad()
def test_velocities_have_the_shape_of_the_latents_and_depend_on_the_memory(keyframe_model: KeyframeModel) -> None:
    captions = keyframe_model.encode_captions(CAPTIONS)
    assert len(captions) == 3
    frame, past = target(keyframe_model, captions), memory(keyframe_model, captions)
    alone = keyframe_model.velocity([frame])
    together = keyframe_model.velocity([*past, frame])
    assert [tuple(part.shape) for part in together] == [tuple(group.latents.shape) for group in (*past, frame)]
    assert (together[-1] - alone[-1]).abs().max() > 1e-4
    cached = keyframe_model.velocity([frame], memory=keyframe_model.remember(past))
    torch.testing.assert_close(cached[-1], together[-1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_encoded_captions_do_not_depend_on_the_batch(keyframe_model: KeyframeModel) -> None:
    together = keyframe_model.encode_captions(CAPTIONS)
    for index, caption in enumerate(CAPTIONS):
        assert torch.equal(keyframe_model.encode_captions([caption]).tokens[0], together[index].tokens)


def test_the_schedule_runs_from_noise_to_data(keyframe_model: KeyframeModel) -> None:
    for num_steps in (1, 2, 8):
        sigmas = keyframe_model.sigmas(num_steps, 64)
        assert (len(sigmas), float(sigmas[0]), float(sigmas[-1])) == (num_steps + 1, 1.0, 0.0)
        assert bool((sigmas.diff() < 0).all())


def test_the_space_of_a_model_is_a_latent_space(keyframe_model: KeyframeModel) -> None:
    space = keyframe_model.space
    images = torch.rand(2, 3, 64, 48) * 2 - 1
    latents = space.encode(images)
    assert tuple(latents.shape) == (2, space.channels, *space.size(64, 48))
    assert space.decode(latents).shape == images.shape


class HalfSpace:
    """Latents of half the size with four channels, so that a sampler that assumes pixels fails."""

    channels = 4
    pixels_per_token = 8

    def size(self, height: int, width: int) -> tuple[int, int]:
        return height // 2, width // 2

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.avg_pool2d(images, 2)
        return torch.cat((small, small.mean(1, keepdim=True)), dim=1)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(latents[:, :3], scale_factor=2.0)


class Echo:
    """A model of `HalfSpace` with velocity 0 that records its inputs."""

    text_tokens = 3

    def __init__(self) -> None:
        self.space: LatentSpace = HalfSpace()
        self.seen: list[Frames] = []

    def encode_captions(self, captions: list[str]) -> CaptionEmbeddings:
        """Features, mask and a pooled vector, as text encoders return."""
        lengths = torch.tensor([[len(caption.split()) > index for index in range(3)] for caption in captions])
        return CaptionEmbeddings(torch.ones(len(captions), 3, 5), lengths, torch.ones(len(captions), 7))

    def remember(self, frames: list[Frames]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        self.seen += frames
        return []

    def sigmas(self, num_steps: int, num_tokens: int) -> torch.Tensor:
        return torch.linspace(1, 0, num_steps + 1)

    def velocity(self, frames: list[Frames], **options: object) -> list[torch.Tensor]:
        self.seen += frames
        return [torch.zeros_like(group.latents) for group in frames]


@pytest.mark.parametrize("mode", ["extend", "causal", "joint"])
def test_the_sampler_works_in_any_latent_space_with_any_encoder(mode: str) -> None:
    model = Echo()
    board = Storyboard("film", {"ada": ""}, {}, tuple(Shot(caption, ("ada",)) for caption in CAPTIONS), 0)
    sampling = SamplingConfig(mode=mode, num_steps=1)
    keyframes = KeyframeSampler(model, MemoryPolicy(), sampling, image_size=(32, 48)).sample(board)  # type: ignore[arg-type]
    assert [tuple(keyframe.frame.shape) for keyframe in keyframes] == [(3, 32, 48)] * 3
    assert model.seen
    for group in model.seen:
        assert group.latents.shape[2] == 4
        assert group.captions.tokens.shape[:2] == group.latents.shape[:2]
        assert group.captions.mask is not None
        assert group.captions.mask.shape == (*group.latents.shape[:2], 3)
        assert group.captions.pooled is not None
        assert group.captions.pooled.shape == (*group.latents.shape[:2], 7)
        if not group.is_memory:
            assert tuple(group.latents.shape[-2:]) == (16, 24)


def test_selection_and_order_apply_to_all_tensors_of_frames() -> None:
    count = torch.arange(4.0)
    captions = CaptionEmbeddings(count.view(1, 4, 1, 1), count.view(1, 4, 1) > 1, count.view(1, 4, 1))
    frames = Frames(count.view(1, 4, 1, 1, 1), captions, count[None], count[None])

    def read(part: Frames) -> list[list[float]]:
        assert part.captions.mask is not None
        assert part.captions.pooled is not None
        tensors = (part.latents, part.captions.tokens, part.captions.pooled, part.timesteps, part.position_ids)
        assert (part.captions.mask.flatten() == (part.timesteps.flatten() > 1)).all()
        return [tensor.flatten().tolist() for tensor in tensors]

    assert read(frames.flip()) == [[3, 2, 1, 0]] * 5
    assert read(frames.select(slice(1, 3))) == [[1, 2]] * 5
    assert read(frames.select([3, 0])) == [[3, 0]] * 5
    moved = frames.to(torch.device("meta"))
    assert moved.latents.is_meta
    assert moved.captions.tokens.is_meta
    assert moved.captions.pooled is not None
    assert moved.captions.pooled.is_meta


def test_the_pixel_space_is_the_identity() -> None:
    images = torch.rand(2, 3, 3, 16, 16)
    assert torch.equal(encode_frames(PixelSpace(8), images), images)
    assert PixelSpace(8).size(32, 48) == (32, 48)
