"""Parts of a model folder that `make train-cinema` writes, with the stage that trains each."""

from triptych.checkpoint.model_folder import ModelParts

PARTS = ModelParts("make train-cinema", {"keyframes": "keyframes", "video": "video"})
