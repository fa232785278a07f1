"""How a distilled student compares with the teacher that taught it, and with the student alone."""

from pathlib import Path
from typing import Any

from utils.evaluation.analysis import compare_with_baseline, compare_with_teacher
from utils.evaluation.networks import Network, Networks, require_own
from utils.runtime.errors import UserError
from utils.runtime.identity import Identity
from utils.runtime.run_dir import RunDir


def compare(network: Network, run: RunDir, networks: Networks) -> dict[str, Any]:
    """How a distilled student compares with its teacher and its baseline, as far as these are there."""
    own, seed, dataset_dir = network.identity, run.path.name, run.path.parent.parent
    if own.get("role") != "kd":
        return {}
    compared: dict[str, Any] = {}
    beside = dataset_dir / f"teacher-{own.get('teacher')}" / seed / "last.pt"
    single = "teacher" in own.values and "teacher_mix" not in own.values
    paths = (beside, Path(network.checkpoint["config"].get("teacher_path", beside)))
    for path in paths if single else ():
        other = _other(path, network, networks)
        if other is not None and other.sha256[:16] == own.get("teacher_sha256"):
            metrics = compare_with_teacher(network.logits, other.logits, network.labels)
            compared["teacher"] = {"run": path.parent.parent.name} | metrics
            break
    if single and not compared:
        where = " or ".join(map(str, dict.fromkeys(paths)))
        print(f"not compared with the teacher: no checkpoint with its weights is at {where}")
    path = dataset_dir / f"student-{own['network']}" / seed / "last.pt"
    other = _other(path, network, networks)
    if other is not None and _is_baseline(other, own, RunDir(path.parent)):
        classes = network.checkpoint["num_classes"]
        metrics = compare_with_baseline(network.logits, other.logits, network.labels, classes)
        compared["baseline"] = {"run": path.parent.parent.name} | metrics
    else:
        print(f"not compared with the student alone: none with the same recipe is at {path}")
    return compared


def _other(path: Path, network: Network, networks: Networks) -> Network | None:
    """The finished network at `path`, if there is one with the same test images as `network`."""
    if not path.exists():
        return None
    try:
        other = networks.network(path)
    except (UserError, OSError):  # also a plain state_dict: it teaches, but is of no known images
        return None
    same_images = other.test is network.test or other.test.fingerprint() == network.test.fingerprint()
    return other if other.is_finished and same_images else None


def _is_baseline(other: Network, own: Identity, run: RunDir) -> bool:
    """Whether `other` is the student alone of `run`, with the recipe of the distilled one with identity `own`."""
    try:
        require_own(other, run)
    except (UserError, OSError):
        return False
    return other.identity.same_but_for_teaching(own)
