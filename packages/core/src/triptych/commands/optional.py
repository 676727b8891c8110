"""Optional libraries: which extra of which package installs them.

A package declares each in the entry-point group `triptych.optional`: name of the import -> the one module that needs it, with
the extra in brackets, such as `wandb = "package.module:Name [wandb]"`.
"""

import re
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import NamedTuple

GROUP = "triptych.optional"

_EXTRA = re.compile(r"\[([\w-]+)\]$")


class OptionalLibrary(NamedTuple):
    """A library that an extra installs.

    Attributes:
        name: of its import.
        module: that needs it.
        extra: such as `triptych-core[wandb]`.
    """

    name: str
    module: str
    extra: str

    @property
    def command(self) -> str:
        """The command that installs it."""
        return f"pip install '{self.extra}'"

    @property
    def is_installed(self) -> bool:
        """Whether it can be imported."""
        try:
            return find_spec(self.name) is not None
        except ModuleNotFoundError:  # its parent package
            return False


def optional_libraries() -> list[OptionalLibrary]:
    """The optional libraries that the installed packages declare, by name."""
    found = []
    for entry in entry_points(group=GROUP):
        extra = _EXTRA.search(entry.value)  # `EntryPoint.extras` splits names at hyphens
        if extra is not None and entry.dist is not None:
            found.append(OptionalLibrary(entry.name, entry.module, f"{entry.dist.name}[{extra[1]}]"))
    return sorted(found)
