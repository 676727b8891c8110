"""The small world as training data: prompts and images by index, a pure function of index and seed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from triptych.errors import UserError
from triptych.seeding import generator
from tts_var.data import Examples
from tts_var.toy.prompts import near_miss, parse_prompt
from tts_var.toy.rendering import IMAGE_SIZE, SceneObject, render_scenes, training_pair


class SmallWorld:
    """`num_examples` captioned images, rendered on access.

    Args:
        num_examples: size of the training set.
        seed: seed of prompts, scenes and images.
        variety: variation of locations, sizes and greys: 1 for any; 0 for one layout per prompt, one size and one grey.

    Raises:
        UserError: if `num_examples` is below 1, or `variety` is outside [0, 1].
    """

    image_size = IMAGE_SIZE

    def __init__(self, num_examples: int, *, seed: int = 0, variety: float = 1.0) -> None:
        if num_examples < 1:
            raise UserError(f"data.num_examples is {num_examples}: it must be 1 or more")
        if not 0 <= variety <= 1:
            raise UserError(f"data.variety is {variety}: it must be between 0 and 1")
        self.num_examples = num_examples
        self._seed = seed
        self._variety = variety

    def examples(self, indices: Sequence[int]) -> Examples:
        """The examples of the given indices; each depends on its own index only."""
        pairs = [training_pair(index, seed=self._seed, variety=self._variety) for index in indices]
        images = [self._image(index, scene) for index, (_, scene) in zip(indices, pairs, strict=True)]
        return Examples(prompts=[prompt.text for prompt, _ in pairs], images=torch.cat(images) * 2 - 1)

    def near_miss(self, prompt: str, *, generator: torch.Generator) -> str:
        """A prompt with another count, colour, shape or relation; see `CaptionedImages`."""
        return near_miss(parse_prompt(prompt), generator=generator).text

    def _image(self, index: int, scene: Sequence[SceneObject]) -> Tensor:
        return render_scenes([scene], generator=generator(self._seed, "picture", index), variety=self._variety)
