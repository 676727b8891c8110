"""The laws of the architecture, read from the syntax tree, the configs and a clean interpreter.

The lists of exceptions name what does not hold yet: an entry that is no longer needed fails, so that a list can only shrink.
"""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from architecture.source import CORE, FOLDERS, MODULES, PANELS, configs, cycle, edges, is_standard, optional, targets
from projects import PROJECTS, ROOT

# From the ground up; modules on one floor do not import one another. The package's own file exports from anywhere.
FLOORS = {
    "triptych": [
        {"errors", "seeding", "lazy"},
        {"files"},
        {"own_files"},
        {"distributed", "optim", "telemetry"},
        {"checkpoint", "evaluation", "report", "testing"},
        {"run", "strategy"},
        {"training"},
        {"commands"},
    ],
    "gspo_rl": [
        {"numerics", "data"},
        {"tasks", "models"},
        {"records", "rewards", "rollout", "training"},
        {"evaluation", "metrics", "noise", "toy"},
        {"diagnosis", "preflight", "progress"},
        {"trainer"},
        {"report", "results"},
        {"commands"},
    ],
    "captain_cinema": [
        {"numerics", "data", "images"},
        {"models"},
        {"conditioning", "video"},
        {"sampling"},
        {"training", "evaluation", "report"},
        {"movie", "toy"},
        {"commands"},
    ],
    "tts_var": [
        {"numerics", "data", "images"},
        {"models", "schedules"},
        {"scorers", "training", "testing"},
        {"search"},
        {"evaluation", "report"},
        {"toy"},
        {"commands"},
    ],
}

NUMERICS_IMPORT = {"torch", "numpy", "sklearn", "scipy", "jaxtyping", "triptych.errors"}
HIDDEN = {"pathlib", "os", "io", "random", "json", "tempfile", "shutil", "torch.distributed"}
MAX_LINES, MAX_PARAMETERS = 50, 7

# Functions of more lines: they may lose lines, and leave.
LONG: dict[str, int] = {}
# Functions of more parameters, likewise. The first three are formulas and their settings.
WIDE = {
    "gspo_rl.numerics.objectives.gspo": 8,
    "gspo_rl.numerics.objectives.gspo_token": 8,
    "tts_var.models.infinity.infinity_transformer": 8,
    "tts_var.models.infinity.InfinityBlock.forward": 8,
    "captain_cinema.toy.probe._most_likely": 8,
    "triptych.training.loop.fit": 8,
    "gspo_rl.toy.policy.tiny_policy": 9,
    "gspo_rl.models.policy.pretrained_policy": 9,
    "gspo_rl.trainer.GSPOTrainer.__init__": 9,
}
# Modules without a test file of their name: tested by those of their folder or of what calls them.
UNTESTED = {
    "captain_cinema.commands.evaluate",
    "captain_cinema.commands.generate",
    "captain_cinema.commands.train",
    "captain_cinema.evaluation",
    "triptych.errors",
    "triptych.strategy.deepspeed",
    "triptych.strategy.fsdp",
    "tts_var.commands.evaluate",
    "tts_var.commands.sample",
    "tts_var.commands.train",
    "tts_var.testing",
}

# What names a panel: its packages, and its commands in the form of their configs.
PANEL_WORDS = re.compile(
    "|".join(
        sorted(
            {re.escape(name) for project in PROJECTS.values() for name in project["project"].get("scripts", {}) if name != CORE}
            | {re.escape(name) for folder, project in PROJECTS.items() if folder.name != "core" for name in (project["project"]["name"],)}
            | {rf"\b{name}\b" for name in PANELS}
            | {
                rf"\b(train|sample|generate|evaluate)_{name.split('-')[0]}\b"
                for project in PROJECTS.values()
                for name in project["project"]["scripts"]
            }
        )
    )
)


def numerics(package: str) -> list[str]:
    return [name for name in MODULES if name.startswith(f"{package}.numerics.")]


def in_toy(name: str) -> bool:
    return ".toy." in f"{name}."


def test_the_laws_look_at_all_packages() -> None:
    assert set(FLOORS) == PANELS | {CORE}
    assert len(PROJECTS) == len(FOLDERS)


# 1. Siblings never import one another; the core imports no panel and names none.


@pytest.mark.parametrize("name", MODULES)
def test_siblings_never_import_one_another_and_the_core_imports_no_panel(name: str) -> None:
    foreign = {imported.split(".")[0] for imported, _ in MODULES[name].imports} & (PANELS - {MODULES[name].package})
    assert not foreign, f"{name} imports {foreign}"


def test_the_core_names_no_panel() -> None:
    files = [*FOLDERS[CORE].rglob("*.py"), *FOLDERS[CORE].rglob("*.html"), *(ROOT / "configs" / "shared").rglob("*.yaml")]
    named = {f"{path.relative_to(ROOT)}: {found.group()}" for path in files if (found := PANEL_WORDS.search(path.read_text()))}
    assert not named


# 2. Numerics are formulas: no file, process group or hidden random state, and something calls them.


@pytest.mark.parametrize("panel", sorted(PANELS))
def test_numerics_stand_on_the_ground(panel: str) -> None:
    assert numerics(panel), f"{panel} has no numerics"
    for name in numerics(panel):
        for imported, _ in MODULES[name].imports:
            root = imported.split(".")[0]
            own = imported.startswith(f"{panel}.numerics")
            assert is_standard(root) or own or {root, imported} & NUMERICS_IMPORT, f"{name} imports {imported}"
            assert not any(imported == hidden or imported.startswith(f"{hidden}.") for hidden in HIDDEN), f"{name} imports {imported}"


@pytest.mark.parametrize("panel", sorted(PANELS))
def test_every_public_function_of_numerics_is_reached(panel: str) -> None:
    public, users = set(), {}
    for name in numerics(panel):
        for node in MODULES[name].tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                used = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
                users[f"{name}.{node.name}"] = used
                if not node.name.startswith("_"):
                    public.add(f"{name}.{node.name}")
    outside = [module for name, module in MODULES.items() if name not in numerics(panel) and not (module.is_package and not module.room)]
    reached = set().union(*(module.imported_names for module in outside)) & set(users)
    reached |= {target for config in configs().values() for target in targets(config)} & set(users)
    while True:
        named = set().union(*(users[name] for name in reached))
        more = {name for name in users if name.rsplit(".", 1)[1] in named} - reached
        if not more:
            break
        reached |= more
    assert sorted(public - reached) == []


# 3. Every panel would be complete without its toy.


@pytest.mark.parametrize("name", [name for name in MODULES if not in_toy(name)])
def test_nothing_outside_the_toy_imports_or_names_it(name: str) -> None:
    assert not [imported for imported, _ in MODULES[name].imports if in_toy(imported)]
    assert not [text for text in MODULES[name].strings if re.search(r"\btoy\b", text)]


@pytest.mark.parametrize("panel", sorted(PANELS))
def test_every_panel_has_its_toy_in_one_room(panel: str) -> None:
    assert f"{panel}.toy" in MODULES


# 4. Imports go down.


@pytest.mark.parametrize("package", sorted(FLOORS))
def test_imports_go_down_between_folders(package: str) -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS[package]) for room in rooms}
    rooms = {module.room for module in MODULES.values() if module.package == package and module.room}
    assert rooms == set(floor), "the floors in this test and the folders of the package differ"
    upwards = {
        f"{upper} imports {lower}"
        for upper, lower in edges()
        if MODULES[upper].package == package
        and MODULES[upper].room not in ("", MODULES[lower].room)
        and floor[MODULES[upper].room] <= floor.get(MODULES[lower].room, len(floor))
    }
    assert not upwards


def test_no_circle_of_imports() -> None:
    assert not cycle(edges())
    rooms = {(f"{MODULES[a].package}.{MODULES[a].room}", f"{MODULES[b].package}.{MODULES[b].room}") for a, b in edges() if MODULES[a].room}
    assert not cycle({(upper, lower) for upper, lower in rooms if upper != lower})


# 5. Hydra and printing live in commands; an import does no work.


@pytest.mark.parametrize("name", [name for name, module in MODULES.items() if module.room != "commands"])
def test_hydra_and_printing_live_in_commands(name: str) -> None:
    assert not {imported for imported, _ in MODULES[name].imports if imported.split(".")[0] in ("hydra", "omegaconf")}
    called = {node.func.id for node in ast.walk(MODULES[name].tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert "print" not in called


def test_importing_every_module_changes_no_global_state() -> None:
    names = sorted(set(MODULES) - set(optional().values()))
    code = (
        "import logging, os, random, socket, sys, torch\n"
        "def refuse(*arguments): raise OSError('an import reached for the network')\n"
        "socket.socket.connect = refuse\n"
        "state = lambda: (dict(os.environ), torch.get_rng_state().tolist(), random.getstate(), len(logging.getLogger().handlers),\n"
        "                 logging.getLogger().level, torch.get_default_dtype(), torch.get_num_threads())\n"
        f"third = {sorted({imported for name in names for imported, _ in MODULES[name].imports if imported not in MODULES and imported != '__future__'})!r}\n"
        "for name in third: __import__(name)\n"
        "before = state()\n"
        "before[0]['TORCHINDUCTOR_CACHE_DIR'] = None  # torch's own, when it loads its compiler\n"
        f"for name in {names!r}: __import__(name)\n"
        "after = state()\n"
        "after[0]['TORCHINDUCTOR_CACHE_DIR'] = None\n"
        "assert before == after, [(one, other) for one, other in zip(before, after) if one != other]\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("from gspo_rl.numerics.objectives import gspo", {"hydra", "omegaconf", "transformers", "jinja2", "wandb", "triptych.run.session"}),
        ("import gspo_rl, captain_cinema, tts_var", {"hydra", "omegaconf", "transformers", "torch"}),
        ("import gspo_rl.trainer", {"hydra", "omegaconf", "wandb", "reasoning_gym"}),
        ("from tts_var.search import Search", {"hydra", "omegaconf", "transformers", "open_clip", "torchvision", "jinja2"}),
        ("import tts_var.toy.scorers, tts_var.commands.sample", {"open_clip", "torchvision", "transformers"}),
        ("import captain_cinema.sampling", {"hydra", "omegaconf", "av", "PIL", "jinja2"}),
    ],
    ids=["formula", "packages", "trainer", "search", "scorers", "sampler"],
)
def test_a_clean_interpreter_loads_no_more_than_it_needs(statement: str, absent: set[str]) -> None:
    code = f"{statement}\nimport sys; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not set(loaded.split()) & absent


# 6. An optional library is imported by one module.


@pytest.mark.parametrize("name", MODULES)
def test_an_optional_library_is_imported_at_the_top_of_its_one_module(name: str) -> None:
    homes = optional()
    for imported, at_top in MODULES[name].imports:
        home = homes.get(imported.split(".")[0])
        assert home is None or (name == home and at_top), f"{name} imports {imported}"
        assert imported not in homes.values(), f"{name} imports {imported}, which configs name"


@pytest.mark.parametrize("name", MODULES)
def test_no_import_is_tried(name: str) -> None:
    tries = [node for node in ast.walk(MODULES[name].tree) if isinstance(node, ast.Try | ast.TryStar)]
    assert not [inner for node in tries for inner in ast.walk(node) if isinstance(inner, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("home", sorted(optional().values()))
def test_a_config_or_a_process_has_what_an_optional_library_brings(home: str) -> None:
    assert home in MODULES
    is_program = any(home in module.strings for module in MODULES.values())  # a process of its own
    assert is_program or any(target.startswith(f"{home}.") for config in configs().values() for target in targets(config))


@pytest.mark.parametrize("folder", sorted(PROJECTS), ids=lambda folder: folder.name)
def test_packages_declare_what_they_import(folder: Path) -> None:
    project = PROJECTS[folder]["project"]
    needed = [*project["dependencies"], *(entry for extra in project.get("optional-dependencies", {}).values() for entry in extra)]
    known = {re.split(r"[\[<>=!~ ]", entry)[0].lower().replace("_", "-") for entry in needed}
    distributions = packages_distributions()
    for module in MODULES.values():
        if folder not in module.path.parents:
            continue
        for imported, _ in module.imports:
            root = imported.split(".")[0]
            if not is_standard(root) and root != module.package and root in distributions:
                assert known & {name.lower().replace("_", "-") for name in distributions[root]}, f"{module.name} imports {root}"


# 8. Functions stay short.


def test_functions_stay_short_and_take_few_parameters() -> None:
    functions = {function.name: function for module in MODULES.values() for function in module.functions}
    assert {name: function.lines for name, function in functions.items() if function.lines > MAX_LINES} == LONG
    assert {name: function.parameters for name, function in functions.items() if function.parameters > MAX_PARAMETERS} == WIDE


# 9. A module has a test file of its name.


def test_every_module_has_a_test_file_of_its_name() -> None:
    without = set()
    for name, module in MODULES.items():
        if module.is_package:
            continue  # contracts and exports: tested with what implements them
        *folders, stem = name.split(".")
        expected = ROOT.joinpath("tests", *folders, f"test_{stem}.py")
        if not expected.is_file():
            without.add(name)
    assert without == UNTESTED


# 10. A panel declares everything that the repository needs from it.


@pytest.mark.parametrize("file", ["Makefile", "pyproject.toml", "conftest.py", "docs/conf.py", ".ci/run", "tests/projects.py"])
def test_files_of_the_whole_repository_name_no_panel(file: str) -> None:
    assert not PANEL_WORDS.findall((ROOT / file).read_text())


@pytest.mark.parametrize("folder", sorted(PROJECTS), ids=lambda folder: folder.name)
def test_a_package_is_named_like_its_folder(folder: Path) -> None:
    name = PROJECTS[folder]["project"]["name"]
    (package,) = [path.name for path in (folder / "src").iterdir() if (path / "__init__.py").exists()]
    assert (folder.name, package) in {(name, name.replace("-", "_")), ("core", CORE)}
