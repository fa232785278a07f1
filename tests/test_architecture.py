"""The rooms of the design: who may import whom, checked by parsing the imports."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [*ROOT.glob("*.py"), *(ROOT / "models").rglob("*.py"), *(ROOT / "utils").rglob("*.py")]
RUNTIME = {"torch", "utils.runtime"}
# room -> what it may import of this project and from outside the standard library; "the above" of the README's map
ALLOWED = {
    "config": set(),
    "models": {"torch", "torchvision", "models"},
    "utils/runtime": {"safetensors", *RUNTIME},
    "utils/data": {"torchvision", "numpy", "PIL", "tqdm", "utils.data", *RUNTIME},
    "utils/losses": {"torch", "utils.losses"},
    "utils/evaluation": {
        *("utils.data", "utils.losses", "utils.evaluation", "safetensors", "onnxruntime"),
        *RUNTIME,
    },
    "utils/distillation": {
        *("numpy", "tqdm", "utils.data", "utils.losses", "utils.evaluation", "utils.distillation"),
        *RUNTIME,
    },
    "utils/training": {
        *("tqdm", "utils.data", "utils.losses", "utils.evaluation", "utils.distillation", "utils.training"),
        *RUNTIME,
    },
    "utils/reporting": {"matplotlib", "numpy", "jinja2", "utils.reporting", "utils.runtime"},
}


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Every module that the file imports, at its head or within a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
    return {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}


def is_within(name: str, allowed: set[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_each_room_imports_only_what_it_may(path):
    room = module_name(path).replace(".", "/")
    for prefix, allowed in ALLOWED.items():
        if room == prefix or room.startswith(f"{prefix}/"):
            unknown_args = {name for name in imports(path) if not is_within(name, allowed)}
            assert not unknown_args, f"{path} may not import {unknown_args}"


@pytest.mark.parametrize("path", [p for p in FILES if p.parent != ROOT], ids=module_name)
def test_models_and_utils_import_neither_each_other_nor_config(path):
    other = "utils" if module_name(path).startswith("models") else "models"
    assert not {name for name in imports(path) if is_within(name, {other, "config", "train", "test"})}


def test_imports_run_in_no_circle():
    graph = {module_name(path): {name for name in imports(path) if is_within(name, {"utils"})} for path in FILES}
    done, path = set(), []

    def visit(module: str) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            path.append(module)
            for name in graph.get(module, ()):
                visit(name)
            path.pop()
            done.add(module)

    for module in graph:
        visit(module)


def test_the_trainer_knows_neither_data_sets_nor_networks_nor_the_command_line():
    text = (ROOT / "utils/training/loop.py").read_text(encoding="utf-8").lower()
    assert not [word for word in ("cifar", "vgg", "argparse", "matplotlib", "shapes") if word in text]


def test_nothing_is_read_that_could_run_code():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert "pickle" not in ast.unparse(node), path
            if not isinstance(node, ast.Call):
                continue
            call = ast.unparse(node)
            name = ast.unparse(node.func)
            assert name not in {"eval", "exec"}, call
            assert "allow_pickle" not in call, call
            if name == "torch.load":
                assert "weights_only=True" in call, f"{path}: {call}"


def test_entry_points_stay_under_100_lines():
    for name in ("train.py", "test.py"):
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) < 100
