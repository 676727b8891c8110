"""`prompting.json` in the folder of a saved policy: how prompts become tokens, and what the policy was trained on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from triptych.files import read_json

_FILE = "prompting.json"


def write_recorded(folder: Path, *, chat: bool, template: Mapping[str, Any], training: Mapping[str, Any] | None) -> None:
    """Writes the file.

    Args:
        folder: of the policy.
        chat: whether prompts pass through the chat template.
        template: arguments of the chat template, see `gspo_rl.models.policy.Policy`.
        training: the `task` node of the training and the `sampling` of its evaluations; None if it was not trained.
    """
    (folder / _FILE).write_text(json.dumps({"chat": chat, "template": dict(template), "training": training}))


def read_recorded(folder: Path) -> dict[str, Any]:
    """The arguments of `write_recorded`; those of a policy that was not saved by this package are false, empty and None.

    Raises:
        UserError: if the file is damaged.
    """
    path = folder / _FILE
    found = read_json(path, "save the policy again") if path.is_file() else {}
    found = found if isinstance(found, dict) else {}
    return {
        "chat": found.get("chat") is True,
        "template": found.get("template") if isinstance(found.get("template"), dict) else {},
        "training": found.get("training") if isinstance(found.get("training"), dict) else None,
    }
