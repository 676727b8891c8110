"""Training of the reward: a contrastive image-text model that knows noise, unfinished pictures and near misses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from triptych.errors import UserError
from triptych.seeding import generator
from tts_var.data.prompts import COLOURS, MAX_OBJECTS, RELATIONS, SHAPES, ObjectGroup, ScenePrompt, parse_prompt
from tts_var.models.autoencoder import BinaryTokenizer
from tts_var.models.clip import SmallClip
from tts_var.models.quantizers import quantize_bits
from tts_var.scales import ScaleTable
from tts_var.tokenizer_stage import Data


@dataclass
class RewardLossConfig:
    """What makes the reward learn, and what keeps it imperfect.

    Attributes:
        near_misses: wrong captions per picture that differ in one count, colour, shape or the relation.
        caption_noise: share of the pictures that come with a near miss as their caption.
        pixel_noise: largest standard deviation of the noise on pictures in [-1, 1].
        prefix_share: share of a batch that the tokenizer decodes from a random number of its first scales; the
            others it leaves as drawn.
        first_prefix: fewest scales of such a picture.
    """

    near_misses: int = 3
    caption_noise: float = 0.05
    pixel_noise: float = 0.2
    prefix_share: float = 0.5
    first_prefix: int = 3

    def __post_init__(self) -> None:
        for name in ("caption_noise", "prefix_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"loss.{name} is {getattr(self, name)}: it must lie between 0 and 1")
        for name, least in (("near_misses", 0), ("pixel_noise", 0), ("first_prefix", 1)):
            if getattr(self, name) < least:
                raise UserError(f"loss.{name} is {getattr(self, name)}: it must be {least} or more")


def near_miss(prompt: ScenePrompt, *, generator: torch.Generator) -> ScenePrompt:
    """A prompt that differs from `prompt` in one count, colour, shape, the relation, or which colour goes where."""

    def choose(options: Sequence[str], other_than: str | None) -> str:
        left = [option for option in options if option != other_than]
        return left[int(torch.randint(len(left), (), generator=generator))]

    groups = list(prompt.groups)
    index = int(torch.randint(len(groups), (), generator=generator))
    group = groups[index]
    others = sum(other.count for other in groups) - group.count
    counts = [count for count in range(1, MAX_OBJECTS - others + 1) if count != group.count]
    kinds = ["shape", "count"] if counts else ["shape"]
    kinds += ["colour"] * 2 if group.colour else []
    kinds += ["relation"] * 2 if prompt.relation else []
    kinds += ["swap"] * 2 if len(groups) == 2 and groups[0].colour != groups[1].colour else []
    kind = kinds[int(torch.randint(len(kinds), (), generator=generator))]
    if kind == "relation":
        return replace(prompt, relation=choose(RELATIONS, prompt.relation))
    if kind == "swap":
        first, second = groups
        return replace(prompt, groups=(replace(first, colour=second.colour), replace(second, colour=first.colour)))
    if kind == "shape":
        taken = [other.shape for other in groups]
        changed = replace(group, shape=choose([shape for shape in SHAPES if shape not in taken], None))
    elif kind == "colour":
        changed = replace(group, colour=choose(COLOURS, group.colour))
    else:
        count = counts[int(torch.randint(len(counts), (), generator=generator))]
        changed = ObjectGroup(count, group.shape, group.colour)
    groups[index] = changed
    return replace(prompt, groups=tuple(groups))


class RewardStage:
    """Contrastive learning over a batch of pictures, their captions, and near misses of those.

    Args:
        model: the CLIP model.
        tokenizer: the frozen tokenizer, which makes unfinished pictures.
        scales: its grids.
        data: captioned pictures.
        loss: settings of the loss.
        seed: seed of noise, near misses and prefixes.
    """

    def __init__(
        self, model: SmallClip, tokenizer: BinaryTokenizer, scales: ScaleTable, data: Data, loss: RewardLossConfig, *, seed: int
    ) -> None:
        self.model: nn.Module = model
        self.num_examples = data.num_examples
        self._tokenizer = tokenizer.eval()
        self._grids = scales.latent_grids
        self._data = data
        self._loss = loss
        self._seed = seed

    def losses(self, model: nn.Module, indices: Sequence[int], *, step: int, first: int, batch_size: int) -> Mapping[str, Tensor]:
        """Symmetric contrastive loss (arXiv 2103.00020); equal captions of a batch are positives of one another.

        The texts that a picture is held against are those of its process: two processes see half as many each.
        `accuracy` is the share of pictures that prefer their own caption to all of its near misses.
        """
        examples = self._data.examples(indices)
        stream = generator(self._seed, "reward", step, indices[0])
        captions, misses = [], []
        for text in examples.prompts:
            prompt = parse_prompt(text)
            wrong = [near_miss(prompt, generator=stream).text for _ in range(self._loss.near_misses)]
            noisy = float(torch.rand((), generator=stream)) < self._loss.caption_noise
            captions.append(near_miss(prompt, generator=stream).text if noisy else text)
            misses.append(wrong)
        images = self._disturbed(examples.images, stream)
        texts = captions + [text for wrong in misses for text in wrong]
        device = next(model.parameters()).device
        image_embeddings, text_embeddings, scale = model((images.to(device) + 1) / 2, texts)
        logits = scale * image_embeddings @ text_embeddings.T
        same = torch.tensor([[caption == text for text in texts] for caption in captions], device=device).float()
        rows = len(captions)
        to_texts = -(logits.log_softmax(1) * same / same.sum(1, keepdim=True)).sum(1).mean()
        square = same[:, :rows]
        to_images = -(logits[:, :rows].T.log_softmax(1) * square / square.sum(1, keepdim=True)).sum(1).mean()
        own = logits[:, :rows].diagonal()[:, None]
        wrong_logits = logits[:, rows:].view(rows, rows, -1)[torch.arange(rows), torch.arange(rows)]
        accuracy = (own > wrong_logits).all(1).float().mean()
        return {"loss": (to_texts + to_images) / 2, "accuracy": accuracy.detach()}

    @torch.no_grad()
    def _disturbed(self, images: Tensor, stream: torch.Generator) -> Tensor:
        count = int(self._loss.prefix_share * len(images))
        if count:
            quantized = quantize_bits(self._tokenizer.encode(images[:count]), self._grids)
            running = [*quantized.prefixes, quantized.latent]
            chosen = torch.randint(self._loss.first_prefix - 1, len(running), (count,), generator=stream)
            unfinished = torch.stack([running[int(scale)][row] for row, scale in enumerate(chosen)])
            images = torch.cat((self._tokenizer.decode(unfinished), images[count:]))
        deviation = self._loss.pixel_noise * torch.rand(len(images), 1, 1, 1, generator=stream)
        return images + deviation * torch.randn(images.shape, generator=stream)
