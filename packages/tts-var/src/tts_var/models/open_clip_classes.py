"""open_clip's architecture classes, also beside a build of torch that torchvision's compiled operators do not fit.

open_clip imports torchvision for its picture transforms. There is no torchvision for the CPU wheel of torch, and the common
one fails at import, because it describes two detection operators that its library then did not register. Nothing here uses
them; declared by name, they let the import pass.
"""

import torch

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

library: torch.library.Library | None = None

try:
    import torchvision  # noqa: F401
except RuntimeError as error:
    if "does not exist" not in str(error):
        raise
    library = torch.library.Library("torchvision", "DEF")
    for _operator in _OPERATORS:
        library.define(_operator)

from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg  # noqa: E402  # not before the operators are declared

__all__ = ["CLIP", "CLIPTextCfg", "CLIPVisionCfg"]
