"""Training of the reward: a contrastive image-text model that knows noise, unfinished pictures, near misses and slips."""

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
    """What makes the reward learn, and what keeps it imperfect.

    Attributes:
        near_misses: wrong captions per picture that differ in one count, colour, shape or the relation.
        caption_noise: share of the pictures that come with a near miss as their caption.
        pixel_noise: largest standard deviation of the noise on pictures in [-1, 1].
        prefix_fraction: share of a batch that is decoded from a random number of its first scales; the rest from all.
        first_prefix: fewest scales of such a picture.
        slip_weight: weight of the ranking loss that puts a picture above its copy with slips (`with_slips`); 0 for none.
    """

    near_misses: int = 3
    caption_noise: float = 0.05
    pixel_noise: float = 0.2
    prefix_fraction: float = 0.5
    first_prefix: int = 3
    slip_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("caption_noise", "prefix_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"loss.{name} is {getattr(self, name)}: it must lie between 0 and 1")
        for name, least in (("near_misses", 0), ("pixel_noise", 0), ("first_prefix", 1), ("slip_weight", 0)):
            if getattr(self, name) < least:
                raise UserError(f"loss.{name} is {getattr(self, name)}: it must be {least} or more")


def with_slips(bits: Sequence[UInt8[Tensor, "batch rows columns channels"]], *, generator: torch.Generator) -> list[Tensor]:
    """The bits of pictures in which a region has slipped, as happens to a sampler that draws bits independently.

    In a random rectangle of a quarter of the picture's area, from a random scale on, each bit is taken from the next
    picture of the batch with one probability between 0.1 and 0.5: colours mix, outlines fray. Where both pictures are
    alike nothing changes.

    Args:
        bits: one tensor per scale.
        generator: the random stream.
    """
    batch = len(bits[0])
    corner = torch.rand(batch, 2, generator=generator) * 0.5
    begin = torch.randint(1, len(bits), (batch,), generator=generator)
    share = 0.1 + 0.4 * torch.rand(batch, generator=generator)
    slipped = []
    for scale, own in enumerate(bits):
        inside = torch.ones(batch, 1, 1, dtype=torch.bool)
        for axis, size in enumerate(own.shape[1:3]):
            offset = (torch.arange(size) + 0.5) / size - corner[:, axis, None]
            inside = inside & ((offset >= 0) & (offset < 0.5)).unsqueeze(2 - axis)
        taken = (torch.rand(own.shape, generator=generator) < share[:, None, None, None]) & inside[..., None]
        taken &= (scale >= begin)[:, None, None, None]
        slipped.append(torch.where(taken, own.roll(-1, dims=0), own))
    return slipped


class RewardStage:
    """Contrastive learning over a batch of pictures, their captions, and near misses of those.

    Args:
        model: embeds pictures and prompts; a module.
        tokenizer: the frozen tokenizer, which makes unfinished pictures.
        scales: its grids.
        data: captioned pictures.
        loss: settings of the loss.
        seed: seed of noise, near misses and prefixes.
        world: the processes that share a batch; each picture is held against the texts of all of them.
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

        Pictures and texts of all processes are held against one another, so the loss is that of the whole batch.
        The slips add -log sigmoid(own - slipped), the ranking loss of ImageReward (arXiv 2304.05977, equation 1).
        `accuracy` is the share of pictures that prefer their own caption to all of its near misses, `slip_accuracy`
        that of captions that prefer their picture to its copy with slips.
        """
        examples = self._data.examples(indices)
        rows, misses = len(indices), self._loss.near_misses
        texts = [self._texts(text, generator(self._seed, "reward_texts", step, first + row)) for row, text in enumerate(examples.prompts)]
        stream = generator(self._seed, "reward", step)
        images, slipped = self._disturbed(examples.images, stream, first=first, batch_size=batch_size)
        device = next(model.parameters()).device
        shown = images if slipped is None else torch.cat((images, slipped))
        image_embeddings, text_embeddings, scale = model((shown.to(device) + 1) / 2, [text for own in texts for text in own])
        shown_embeddings, text_embeddings = image_embeddings[:rows], text_embeddings.view(rows, 1 + misses, -1)
        all_texts = self._world.gather_objects(texts)
        to_texts = _contrastive(
            scale * shown_embeddings @ self._world.all_gather(text_embeddings).flatten(0, 1).T,
            [own[0] for own in texts],
            [text for own in all_texts for text in own],
        )
        to_images = _contrastive(
            scale * text_embeddings[:, 0] @ self._world.all_gather(shown_embeddings).T,
            [own[0] for own in texts],
            [own[0] for own in all_texts],
        )
        own_logits = scale * (shown_embeddings[:, None] * text_embeddings).sum(-1)
        accuracy = (own_logits[:, :1] > own_logits[:, 1:]).all(1).float().mean()
        metrics = {"loss": (to_texts + to_images) / 2, "accuracy": accuracy.detach()}
        if slipped is not None:
            margin = own_logits[:, 0] - scale * (image_embeddings[rows:] * text_embeddings[:, 0]).sum(1)
            metrics["loss"] = metrics["loss"] + self._loss.slip_weight * functional.softplus(-margin).mean()
            metrics["slip_accuracy"] = (margin > 0).float().mean().detach()
        return metrics

    def _texts(self, text: str, stream: torch.Generator) -> list[str]:
        """The caption of a picture, which may be wrong, and near misses of the right one."""
        wrong = [self._data.near_miss(text, generator=stream) for _ in range(self._loss.near_misses)]
        noisy = float(torch.rand((), generator=stream)) < self._loss.caption_noise
        return [self._data.near_miss(text, generator=stream) if noisy else text, *wrong]

    @torch.no_grad()
    def _disturbed(self, images: Tensor, stream: torch.Generator, *, first: int, batch_size: int) -> tuple[Tensor, Tensor | None]:
        """Pictures as the tokenizer decodes them, some unfinished, all noisy, and their copies with slips.

        Every process draws for the whole batch and takes its part.
        """
        mine = slice(first, first + len(images))
        device = next(self._tokenizer.parameters()).device
        # Whatever is drawn is drawn on the CPU, the same on every device.
        quantized = quantize_bits(self._tokenizer.encode(images.to(device)).cpu(), self._grids)
        chosen = torch.full((batch_size,), len(self._grids) - 1)
        count = int(self._loss.prefix_fraction * batch_size)
        chosen[:count] = torch.randint(self._loss.first_prefix - 1, len(self._grids), (count,), generator=stream)
        deviation = self._loss.pixel_noise * torch.rand(batch_size, 1, 1, 1, generator=stream)[mine]

        def pictures(latents: Sequence[Tensor]) -> Tensor:
            latent = torch.stack([latents[int(scale)][row] for row, scale in enumerate(chosen[mine])])
            decoded = self._tokenizer.decode(latent.to(device)).cpu()
            return decoded + deviation * torch.randn(batch_size, *decoded.shape[1:], generator=stream)[mine]

        clean = pictures([*quantized.prefixes, quantized.latent])
        if not self._loss.slip_weight:
            return clean, None
        running = [torch.zeros_like(quantized.latent)]
        for bits in with_slips([self._world.all_gather(own) for own in quantized.bits], generator=stream):
            running.append(add_scale(running[-1], bits[mine]))
        return clean, pictures(running[1:])


def _contrastive(logits: Tensor, own: Sequence[str], others: Sequence[str]) -> Tensor:
    """Cross entropy of each row's softmax over columns, spread evenly over the columns whose text is the row's."""
    same = torch.tensor([[text == other for other in others] for text in own], device=logits.device).float()
    return -(logits.log_softmax(1) * same / same.sum(1, keepdim=True)).sum(1).mean()
