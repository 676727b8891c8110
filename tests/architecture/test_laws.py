"""The four laws of the architecture, read from the syntax tree and from a clean interpreter."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {path.name: path for path in sorted(ROOT.glob("packages/*/src/*")) if path.is_dir() and (path / "__init__.py").exists()}
PANELS = {"gspo_rl", "captain_cinema", "tts_var"}
ENTRY_MODULES = {"train", "sample", "generate", "evaluate"}

# Law 2: modules that hold a paper's mathematics, and the curves and statistics below them.
NUMERICS = {
    "gspo_rl.objectives",
    "gspo_rl.advantages",
    "gspo_rl.logprobs",
    "triptych.optim",
    "triptych.evaluation.statistics",
    *(f"captain_cinema.{name}" for name in ("flow", "masks", "memory", "retrieval", "curriculum")),
    *(f"tts_var.{name}" for name in ("scales", "sampling", "batch_schedule", "potentials", "resampling", "clustering")),
}
ALLOWED_IN_NUMERICS = {"torch", "numpy", "sklearn", "jaxtyping", "triptych.errors"}

# Law 4: what only one module may import, at its top.
OPTIONAL = {
    "wandb": {"triptych.tracking.wandb"},
    "reasoning_gym": {"gspo_rl.tasks.reasoning_gym"},
    "vllm": {"gspo_rl.rollout.vllm"},
    "deepspeed": {"triptych.strategy.deepspeed"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join([package, *(part for part in parts if part != "__init__")]), path


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every imported module, and whether the import stands at the top of the file."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module, id(node) in top


MODULES = dict(modules())


def test_the_laws_look_at_all_four_packages() -> None:
    assert set(SOURCES) == PANELS | {"triptych"}


@pytest.mark.parametrize("name", MODULES)
def test_siblings_never_import_one_another_and_the_core_imports_no_sibling(name: str) -> None:
    own = name.split(".")[0]
    foreign = {module.split(".")[0] for module, _ in imports(MODULES[name])} & (PANELS - {own})
    assert not foreign, f"{name} imports {foreign}"


@pytest.mark.parametrize("name", sorted(NUMERICS & set(MODULES)))
def test_numerics_stand_on_the_ground(name: str) -> None:
    for module, _ in imports(MODULES[name]):
        root = module.split(".")[0]
        allowed = root in sys.stdlib_module_names or root in ALLOWED_IN_NUMERICS or module in ALLOWED_IN_NUMERICS | NUMERICS
        assert allowed, f"{name} imports {module}"
        assert not module.startswith("torch.distributed"), f"{name} knows of a process group"
        assert root not in {"pathlib", "os", "io", "random", "json"}, f"{name} touches files or hidden random state"


@pytest.mark.parametrize("name", MODULES)
def test_hydra_stops_at_the_door(name: str) -> None:
    hydra = {module for module, _ in imports(MODULES[name]) if module.split(".")[0] in {"hydra", "omegaconf"}}
    is_door = name == "triptych.cli" or (name.rsplit(".", 1)[-1] in ENTRY_MODULES and name.split(".")[0] in PANELS)
    assert not hydra or is_door, f"{name} imports {hydra}"


@pytest.mark.parametrize("name", MODULES)
def test_an_optional_library_is_imported_at_the_top_of_the_one_module_that_needs_it(name: str) -> None:
    for module, at_top in imports(MODULES[name]):
        home = OPTIONAL.get(module.split(".")[0])
        assert home is None or (name in home and at_top), f"{name} imports {module}"
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Try):
            caught = {ast.unparse(handler.type) for handler in node.handlers if handler.type is not None}
            imports_inside = any(isinstance(inner, ast.Import | ast.ImportFrom) for part in node.body for inner in ast.walk(part))
            assert not (imports_inside and caught & {"ImportError", "ModuleNotFoundError"}), f"{name} guards an import"


@pytest.mark.parametrize("name", MODULES)
def test_nothing_above_names_an_optional_module(name: str) -> None:
    homes = set().union(*OPTIONAL.values())
    assert not {module for module, _ in imports(MODULES[name])} & homes


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print('\\n'.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("from gspo_rl.objectives import gspo", {"hydra", "omegaconf", "transformers", "jinja2", "wandb", "triptych.run"}),
        ("import gspo_rl, captain_cinema, tts_var", {"hydra", "omegaconf", "transformers"}),
        ("import gspo_rl.trainer", {"hydra", "omegaconf", "wandb", "reasoning_gym"}),
        ("from tts_var.search import Search", {"hydra", "omegaconf", "transformers", "open_clip", "jinja2"}),
    ],
)
def test_a_clean_interpreter_loads_no_more_than_it_needs(statement: str, absent: set[str]) -> None:
    assert not loaded_after(statement) & absent


def test_importing_every_module_changes_no_global_state() -> None:
    code = (
        "import logging, os, threading, torch\n"
        "before = (dict(os.environ), torch.get_rng_state().tolist(), len(logging.getLogger().handlers))\n"
        f"for name in {[name for name in MODULES if name not in {'gspo_rl.tasks.reasoning_gym', 'triptych.tracking.wandb'}]!r}:\n"
        "    __import__(name)\n"
        "after = (dict(os.environ), torch.get_rng_state().tolist(), len(logging.getLogger().handlers))\n"
        "changed = {key for key in before[0].keys() | after[0].keys() if before[0].get(key) != after[0].get(key)}\n"
        "assert not {key for key in changed if key.startswith(('TRIPTYCH', 'OMP', 'HYDRA', 'RANK', 'WORLD'))}, changed\n"
        "assert before[1:] == after[1:]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
