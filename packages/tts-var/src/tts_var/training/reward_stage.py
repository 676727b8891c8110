"""Training of the reward: a contrastive image-text model on noisy, unfinished and corrupted images and near-miss captions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.nn import functional

from triptych.distributed import World
from triptych.errors import UserError
from triptych.seeding import generator
from tts_var.data import CaptionedImages
from tts_var.models.autoencoder import BinaryTokenizer
from tts_var.models.clip import ImageTextModel
from tts_var.models.quantizers import add_scale, quantize_bits
from tts_var.numerics.scales import ScaleTable


@dataclass
class RewardLossConfig:
    """Negatives, noise and ranking loss of the reward.

    Attributes:
        near_misses: number of wrong captions per image, each different in one count, colour, shape or the relation.
        caption_noise: fraction of the images whose caption is replaced by a near miss.
        pixel_noise: largest standard deviation of the noise on images in [-1, 1].
        prefix_fraction: fraction of a batch that is decoded from a random number of first scales; the others from all scales.
        first_prefix: smallest number of scales of such an image.
        corruption_weight: weight of the ranking loss of an image over its corrupted copy (`with_corrupted_regions`); 0 for none.
    """

    near_misses: int = 3
    caption_noise: float = 0.05
    pixel_noise: float = 0.2
    prefix_fraction: float = 0.5
    first_prefix: int = 3
    corruption_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("caption_noise", "prefix_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"loss.{name} is {getattr(self, name)}: it must be between 0 and 1")
        for name, least in (("near_misses", 0), ("pixel_noise", 0), ("first_prefix", 1), ("corruption_weight", 0)):
            if getattr(self, name) < least:
                raise UserError(f"loss.{name} is {getattr(self, name)}: it must be {least} or more")


def with_corrupted_regions(bits: Sequence[UInt8[Tensor, "batch rows columns channels"]], *, generator: torch.Generator) -> list[Tensor]:
    """Bits of corrupted copies: in one region of each image, bits are replaced by those of another image of the batch.

    In a random rectangle of a quarter of the image's area, from a random scale on, each bit is replaced by that of
    the next image of the batch with a probability per image between 0.1 and 0.5. This imitates the errors of a sampler
    that samples bits independently: mixed colours and frayed outlines. Bits that are equal in both images are unchanged.

    Args:
        bits: bits of the batch, one tensor per scale.
        generator: the random stream.
    """
    batch = len(bits[0])
    corner = torch.rand(batch, 2, generator=generator) * 0.5
    begin = torch.randint(1, len(bits), (batch,), generator=generator)
    rate = 0.1 + 0.4 * torch.rand(batch, generator=generator)
    corrupted = []
    for scale, own in enumerate(bits):
        # inside (batch, rows, columns) is built per axis: cell centres in [0, 1] against corner (batch, 2); taken (batch, rows,
        # columns, channels) is where the bit of `roll(-1)`, the next image of the batch, is used.
        inside = torch.ones(batch, 1, 1, dtype=torch.bool)
        for axis, size in enumerate(own.shape[1:3]):
            offset = (torch.arange(size) + 0.5) / size - corner[:, axis, None]
            inside = inside & ((offset >= 0) & (offset < 0.5)).unsqueeze(2 - axis)
        taken = (torch.rand(own.shape, generator=generator) < rate[:, None, None, None]) & inside[..., None]
        taken &= (scale >= begin)[:, None, None, None]
        corrupted.append(torch.where(taken, own.roll(-1, dims=0), own))
    return corrupted


class RewardStage:
    """Contrastive training on a batch of images, their captions, and near misses of these captions.

    Args:
        model: the module to train, which embeds images and prompts.
        tokenizer: the frozen tokenizer, which decodes unfinished and corrupted images.
        scales: grids of the tokenizer.
        data: captioned images.
        loss: settings of the loss.
        seed: seed of noise, near misses, prefixes and corruption.
        world: the processes that share a batch; each image is compared with the texts of all of them.
    """

    def __init__(
        self,
        model: ImageTextModel,
        tokenizer: BinaryTokenizer,
        scales: ScaleTable,
        data: CaptionedImages,
        loss: RewardLossConfig,
        *,
        seed: int,
        world: World | None = None,
    ) -> None:
        assert isinstance(model, nn.Module)
        self.model: nn.Module = model
        self.num_examples = data.num_examples
        self._tokenizer = tokenizer.eval()
        self._grids = scales.latent_grids
        self._data = data
        self._loss = loss
        self._seed = seed
        self._world = world or World()

    def losses(self, model: nn.Module, indices: Sequence[int], *, step: int, first: int, batch_size: int) -> Mapping[str, Tensor]:
        """Symmetric contrastive loss (arXiv 2103.00020); equal captions of a batch are positives of one another.

        Logits cover images and texts of all processes, so the loss is that of the whole batch. Corrupted copies add
        -log sigmoid(own - corrupted), the ranking loss of ImageReward (arXiv 2304.05977, equation 1). `accuracy` is the
        fraction of images with a higher score for their caption than for all its near misses, `slip_accuracy` the
        fraction of captions with a higher score for their image than for its corrupted copy.
        """
        examples = self._data.examples(indices)
        rows, misses = len(indices), self._loss.near_misses
        texts = [self._texts(text, generator(self._seed, "reward_texts", step, first + row)) for row, text in enumerate(examples.prompts)]
        stream = generator(self._seed, "reward", step)
        images, corrupted = self._augmented(examples.images, stream, first=first, batch_size=batch_size)
        device = next(model.parameters()).device
        # Images and corrupted copies are embedded in one pass: (2 * rows, width); texts are (rows, 1 + misses, width), the caption first.
        batch = images if corrupted is None else torch.cat((images, corrupted))
        image_embeddings, text_embeddings, scale = model((batch.to(device) + 1) / 2, [text for own in texts for text in own])
        clean_embeddings, text_embeddings = image_embeddings[:rows], text_embeddings.view(rows, 1 + misses, -1)
        all_texts = self._world.gather_objects(texts)
        to_texts = _contrastive(
            scale * clean_embeddings @ self._world.all_gather(text_embeddings).flatten(0, 1).T,
            [own[0] for own in texts],
            [text for own in all_texts for text in own],
        )
        to_images = _contrastive(
            scale * text_embeddings[:, 0] @ self._world.all_gather(clean_embeddings).T,
            [own[0] for own in texts],
            [own[0] for own in all_texts],
        )
        own_logits = scale * (clean_embeddings[:, None] * text_embeddings).sum(-1)
        accuracy = (own_logits[:, :1] > own_logits[:, 1:]).all(1).float().mean()
        metrics = {"loss": (to_texts + to_images) / 2, "accuracy": accuracy.detach()}
        if corrupted is not None:
            margin = own_logits[:, 0] - scale * (image_embeddings[rows:] * text_embeddings[:, 0]).sum(1)
            metrics["loss"] = metrics["loss"] + self._loss.corruption_weight * functional.softplus(-margin).mean()
            metrics["slip_accuracy"] = (margin > 0).float().mean().detach()
        return metrics

    def _texts(self, text: str, stream: torch.Generator) -> list[str]:
        """The caption of an image, which may be replaced by a near miss, followed by near misses of the true caption."""
        wrong = [self._data.near_miss(text, generator=stream) for _ in range(self._loss.near_misses)]
        noisy = float(torch.rand((), generator=stream)) < self._loss.caption_noise
        return [self._data.near_miss(text, generator=stream) if noisy else text, *wrong]

    @torch.no_grad()
    def _augmented(self, images: Tensor, stream: torch.Generator, *, first: int, batch_size: int) -> tuple[Tensor, Tensor | None]:
        """Decoded images, some unfinished, all noisy, and their corrupted copies.

        Every process samples the noise of the whole batch and uses the rows of its own shard.
        """
        own = slice(first, first + len(images))
        device = next(self._tokenizer.parameters()).device
        # Random numbers are generated on the CPU, so that they are equal on every device.
        quantized = quantize_bits(self._tokenizer.encode(images.to(device)).cpu(), self._grids)
        chosen = torch.full((batch_size,), len(self._grids) - 1)
        count = int(self._loss.prefix_fraction * batch_size)
        chosen[:count] = torch.randint(self._loss.first_prefix - 1, len(self._grids), (count,), generator=stream)
        deviation = self._loss.pixel_noise * torch.rand(batch_size, 1, 1, 1, generator=stream)[own]

        def decoded_from(latents: Sequence[Tensor]) -> Tensor:
            latent = torch.stack([latents[int(scale)][row] for row, scale in enumerate(chosen[own])])
            decoded = self._tokenizer.decode(latent.to(device)).cpu()
            return decoded + deviation * torch.randn(batch_size, *decoded.shape[1:], generator=stream)[own]

        clean = decoded_from([*quantized.prefixes, quantized.latent])
        if not self._loss.corruption_weight:
            return clean, None
        running = [torch.zeros_like(quantized.latent)]
        for bits in with_corrupted_regions([self._world.all_gather(scale) for scale in quantized.bits], generator=stream):
            running.append(add_scale(running[-1], bits[own]))
        return clean, decoded_from(running[1:])


def _contrastive(logits: Tensor, own: Sequence[str], others: Sequence[str]) -> Tensor:
    """Cross entropy of each row's softmax over columns, with the target mass spread evenly over the columns with the row's own text."""
    same = torch.tensor([[text == other for other in others] for text in own], device=logits.device).float()
    return -(logits.log_softmax(1) * same / same.sum(1, keepdim=True)).sum(1).mean()
