"""Texts from environment variables, which are used and never shown."""

import hashlib
import hmac
import html
from collections.abc import Iterator, Mapping
from typing import Any

_SHORTEST = 6


class Secret(str):
    """A text that came from an environment variable, such as an API key.

    It is the text wherever it is used, and its interpolation wherever settings are written down.

    Args:
        value: the text.
        shown: what is shown in its place, such as `${oc.env:API_KEY}`.

    Example:
        >>> key = Secret("12345", "${oc.env:KEY}")
        >>> key == "12345", without_secrets({"key": key, "steps": [1, 2]})
        (True, {'key': '${oc.env:KEY}', 'steps': [1, 2]})
    """

    __slots__ = ("shown",)

    shown: str

    def __new__(cls, value: str, shown: str) -> "Secret":
        """The text with what is shown in its place."""
        self = super().__new__(cls, value)
        self.shown = shown
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Secret":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Secret, (str(self), self.shown)


def without_secrets(tree: Any) -> Any:
    """Settings as they may be shown: every secret in mappings, lists and tuples as its interpolation."""
    if isinstance(tree, Secret):
        return tree.shown
    if isinstance(tree, Mapping):
        return {key: without_secrets(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [without_secrets(value) for value in tree]
    return tree


def secret_digests(tree: Any, key: bytes) -> dict[str, str]:
    """Digests by which a changed secret is recognised, by dotted key of the setting.

    Args:
        tree: settings.
        key: makes the digests of two runs differ, so that they tell nothing about the text.
    """
    return {
        path: hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:16] for path, value in leaves(tree) if isinstance(value, Secret)
    }


def mask_secrets(page: str, tree: Any) -> str:
    """An HTML page in which the secrets of settings are replaced by their interpolations, also where they are part of a text.

    Args:
        page: HTML, with escaped texts.
        tree: settings. Values of fewer than 6 characters are not searched for: they occur by chance.
    """
    secrets = [value for _, value in leaves(tree) if isinstance(value, Secret) and len(value) >= _SHORTEST]
    for secret in sorted(secrets, key=len, reverse=True):  # one may be a part of another
        page = page.replace(html.escape(secret), html.escape(secret.shown))
    return page


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values of nested mappings and lists with their dotted keys.

    Example:
        >>> list(leaves({"a": {"b": [1, 2]}}))
        [('a.b.0', 1), ('a.b.1', 2)]
    """
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list | tuple) else None
    if items is None:
        yield prefix.removesuffix("."), tree
        return
    for key, value in items:
        yield from leaves(value, f"{prefix}{key}.")
