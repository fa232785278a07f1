"""The rooms of models/ and utils/: who may import whom, checked by parsing the imports."""

import ast
import re
import sys
from pathlib import Path

import pytest

from models import MODELS
from utils.data.sources import SOURCES
from utils.losses import METHODS

ROOT = Path(__file__).parent.parent
FILES = [*ROOT.glob("*.py"), *(ROOT / "models").rglob("*.py"), *(ROOT / "utils").rglob("*.py")]
RUNTIME = {"torch", "utils.runtime"}
# The rooms of utils/, each of which may use those before it.
ORDER = ("runtime", "data", "losses", "evaluation", "distillation", "training", "reporting")
# room -> what it may import of this project and from outside the standard library; "the above" of the README's map
ALLOWED = {
    "config": {"utils.runtime.arguments"},  # the standard library beside, so that --help is instant
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
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules.add(node.module)
    return {name for name in modules if name.split(".")[0] not in sys.stdlib_module_names}


def is_within(name: str, allowed: set[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_each_room_imports_only_what_it_may(path):
    room = module_name(path).replace(".", "/")
    for prefix, allowed in ALLOWED.items():
        if room == prefix or room.startswith(f"{prefix}/"):
            forbidden = {name for name in imports(path) if not is_within(name, allowed)}
            assert not forbidden, f"{path} may not import {forbidden}"


@pytest.mark.parametrize("path", [p for p in FILES if p.parent != ROOT], ids=module_name)
def test_models_and_utils_import_neither_each_other_nor_config(path):
    other = "utils" if module_name(path).startswith("models") else "models"
    assert not {name for name in imports(path) if is_within(name, {other, "config", "train", "test"})}


def test_the_rooms_import_one_way_from_runtime_up_to_reporting_and_the_conductors():
    assert {path.parent.name for path in (ROOT / "utils").glob("*/*.py")} == {*ORDER}
    conductors = [module_name(path) for path in (ROOT / "utils").glob("*.py") if path.name != "__init__.py"]
    rank = {name: number for number, name in enumerate((*ORDER, "run"))}
    rank |= {module.split(".")[1]: len(rank) for module in conductors if module != "utils.run"}
    for path in (ROOT / "utils").rglob("*.py"):
        own = module_name(path).split(".")[1:2]
        for name in imports(path):
            room = name.split(".")[1] if name.startswith("utils.") else None
            if own and room and room != own[0]:
                assert rank[room] < rank[own[0]], f"{path} may not import {name}"


def test_imports_run_in_no_circle():
    def needed(path: Path) -> set[str]:
        # Not a module's own package: Python imports that before the module anyway.
        inside = f"{module_name(path)}."
        return {name for name in imports(path) if is_within(name, {"utils"}) and not inside.startswith(f"{name}.")}

    graph = {module_name(path): needed(path) for path in FILES}
    done, chain = set(), []

    def visit(module: str) -> None:
        assert module not in chain, " -> ".join([*chain, module])
        if module not in done:
            chain.append(module)
            for name in graph.get(module, ()):
                visit(name)
            chain.pop()
            done.add(module)

    for module in graph:
        visit(module)


@pytest.mark.parametrize("path", [*(ROOT / "utils/training").glob("*.py")], ids=module_name)
def test_the_trainer_names_no_method_network_or_data_set_and_a_flag_only_in_an_error(path):
    """Comments may: they tell what was measured."""
    names = {*METHODS, *MODELS, *SOURCES} - {"folder"}  # which is a plain word, too
    names |= {"cifar", "vgg", "config", "args", "argv", "argparse"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not names & {word.lower() for word in _names(tree)}
    flags = [text for node in tree.body if not _raises(node) for text in re.findall(r"--\w+", ast.unparse(node))]
    assert not flags


def _names(tree: ast.Module) -> set[str]:
    """All identifiers, and all strings that are one word or a path of words: not what stands in sentences."""
    words = set()
    for node in ast.walk(tree):
        named = (getattr(node, field, None) for field in ("id", "attr", "arg", "name", "module", "value"))
        for text in named:
            if isinstance(text, str):
                words |= {text, *text.split("."), text.split(":")[0]}
    return words


def test_names_are_looked_for_in_identifiers_imports_and_strings_and_not_in_sentences():
    tree = ast.parse(
        'import a.dkd\ndef f(nkd):\n    """Not at."""\n    return g.mse, "kd:temperature=1", f"{x} at y"'
    )
    assert _names(tree) >= {"dkd", "nkd", "mse", "kd"}
    assert not _names(tree) & {"at", "y"}


def _raises(node: ast.stmt) -> bool:
    return any(isinstance(inner, ast.Raise) for inner in ast.walk(node))


# What Windows lacks, of the modules that most programs use.
POSIX_MODULES = {"fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "posix", "syslog"}
POSIX_NAMES = {
    *("fork", "forkpty", "wait", "waitid", "killpg", "getpgid", "setsid", "getuid", "geteuid", "getgid", "nice"),
    *("sysconf", "getloadavg", "sched_getaffinity", "statvfs", "chown", "fchown", "fchmod", "mkfifo", "pread"),
    *("pwrite", "posix_fallocate", "uname", "O_NOFOLLOW", "O_DIRECTORY", "O_NONBLOCK", "O_CLOEXEC", "O_SYNC"),
    *("SIGHUP", "SIGKILL", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGPIPE", "SIGSTOP", "SIGCONT"),
    *("SIGTSTP", "SIGXFSZ", "alarm", "pause", "setitimer", "sigwait", "pthread_kill", "pthread_sigmask"),
    *("st_blocks", "st_blksize", "st_rdev", "st_flags"),
}


def test_what_windows_lacks_is_named_in_the_runtime_room_alone():
    """There it is asked for with `getattr`, or behind a check of the platform."""
    for path in FILES:
        if path.parent == ROOT / "utils/runtime":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = set()
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names} & POSIX_MODULES
            elif isinstance(node, ast.ImportFrom):
                names = {node.module} & POSIX_MODULES | {alias.name for alias in node.names} & POSIX_NAMES
            elif isinstance(node, ast.Attribute):
                of_system = ast.unparse(node.value) in ("os", "signal") or node.attr.startswith("st_")
                names = {node.attr} & POSIX_NAMES if of_system else set()
            assert not names, f"{path} names {names}: utils/runtime decides what there is"


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
