"""Secrets: every text that depends on an environment variable is found, by whatever way."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from omegaconf import OmegaConf

from triptych.commands.environment import mark_secrets
from triptych.run.secret import Secret, leaves


@dataclass
class Inner:
    text: str = "plain"
    rate: float = 0.1


@dataclass
class Settings:
    name: str = ""
    inner: Inner = field(default_factory=Inner)
    choice: Any = None
    copy: Any = None
    made: Any = None
    tables: dict[str, Inner] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    seed: int = 0


def test_every_text_from_the_environment_is_a_secret_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "sk-12345")
    monkeypatch.setenv("SEED", "7")
    config = OmegaConf.merge(
        OmegaConf.structured(Settings),
        {
            "name": "run",
            "inner": {"text": "${oc.env:KEY}", "rate": 0.5},
            "choice": {
                "_target_": "a.B",
                "key": "${inner.text}",
                7: "${oc.env:KEY}",
                "nested": [{"x": "${oc.env:ABSENT,fallback}"}, "plain"],
                "none": None,
            },
            "copy": "${choice}",
            "tables": {"one": {"text": "${oc.decode:${oc.env:KEY}}"}},
            "texts": ["${oc.env:KEY}", "${name}"],
            "seed": "${oc.decode:${oc.env:SEED}}",
            "made": "${oc.create:'{token: ${oc.env:KEY}, deep: [a, {n: 1}]}'}",
        },
    )
    settings = OmegaConf.to_object(config)
    mark_secrets(config, settings)
    tree = {
        "name": settings.name, "inner": vars(settings.inner), "choice": settings.choice, "copy": settings.copy,
        "tables": {key: vars(value) for key, value in settings.tables.items()}, "texts": settings.texts, "seed": settings.seed, "made": settings.made,
    }  # fmt: skip
    made = "${oc.create:'{token: ${oc.env:KEY}, deep: [a, {n: 1}]}'}"
    found = {key: value.shown for key, value in leaves(tree) if isinstance(value, Secret)}
    assert found == {
        "inner.text": "${oc.env:KEY}",
        "choice.key": "${inner.text}",
        "choice.7": "${oc.env:KEY}",
        "choice.nested.0.x": "${oc.env:ABSENT,fallback}",
        "copy.key": "${inner.text}",
        "copy.7": "${oc.env:KEY}",
        "copy.nested.0.x": "${oc.env:ABSENT,fallback}",
        "tables.one.text": "${oc.decode:${oc.env:KEY}}",
        "texts.0": "${oc.env:KEY}",
        "made.token": made,
        "made.deep.0": made,
    }
    assert settings.inner.text == "sk-12345"
    assert settings.choice["nested"][0]["x"] == "fallback"
    assert settings.seed == 7
    assert OmegaConf.create({"a": "${oc.env:KEY}"}).a == "sk-12345", "the resolver is Hydra's own again"
