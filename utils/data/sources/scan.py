"""What lies in a folder of images: the files of each part and class, and what is passed over or misplaced."""

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from utils.data.sources.decode import EXTRAS, is_image
from utils.runtime.errors import UserError, printable

LAYOUT = "expected train/<class>/<image> and test/<class>/<image> under --data-dir"
VAL_NAMES = ("val", "valid", "validation")
JUNK = {"__macosx", "thumbs.db", "desktop.ini"}  # as are all names that begin with a dot
HIDDEN = "hidden or of the system"
DANGLING = "dangling link"
LISTED = 8  # kinds or names in one line


class ImageFile(NamedTuple):
    path: Path
    class_name: str
    state: str  # changes when the file is replaced or written: path within the part, size, times, inode


@dataclass(frozen=True)
class Part:
    """The image files of `train/`, `test/` or `val/`, class by class, sorted by their paths."""

    folder: Path
    files: list[ImageFile]

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(sorted({file.class_name for file in self.files}))

    def select(self, indices: list[int]) -> "Part":
        return replace(self, files=[self.files[index] for index in indices])


@dataclass
class PassedOver:
    """What is no image, counted by ending or kind; links to nothing also by name."""

    counts: Counter[str] = field(default_factory=Counter)
    dangling: list[Path] = field(default_factory=list)

    def add(self, entry: os.DirEntry, ending: str) -> None:
        if entry.is_symlink() and not os.path.exists(entry.path):
            self.dangling.append(Path(entry.path))
            self.counts[DANGLING] += 1
        elif not entry.is_file():
            self.counts["not a file"] += 1
        else:
            self.counts[ending or "without an ending"] += 1

    def update(self, other: "PassedOver") -> None:
        self.counts.update(other.counts)
        self.dangling += other.dangling

    def __str__(self) -> str:
        """For instance `12 .txt, 3 .heic (pip install pillow-heif to read them), 1 dangling link (cat/1.jpg)`."""
        texts = []
        for kind, count in self.counts.most_common():
            text = f"{count} {printable(kind)}"
            if kind in EXTRAS:
                text += f" (pip install {EXTRAS[kind][0]} to read them)"
            if kind == DANGLING:
                text += f"{'s' * (count > 1)} ({listed(map(str, self.dangling))})"
            texts.append(text)
        return listed(texts)


def listed(texts, most: int = LISTED) -> str:
    """The first few of `texts` with commas, and how many more there are."""
    texts = [printable(text) for text in texts]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def scan(data_dir: Path, test_only: bool = False) -> tuple[dict[str, Part], PassedOver]:
    """List the parts "train", "test" and, where it is there, "val", and what was passed over in them.

    With `test_only`, the other parts are not looked at. Hidden files, junk of operating systems and files without
    the ending of an image are passed over. Raises UserError for a layout without training or test images, that
    says what is there instead.
    """
    passed_over = PassedOver()
    needed = ("test",) if test_only else ("train", "test")
    for name in needed:
        if not (data_dir / name).is_dir():
            raise _no_part(data_dir, name)
    val = [name for name in VAL_NAMES if (data_dir / name).is_dir() and not test_only]
    if len(val) > 1:
        both = " and ".join(f"{name}/" for name in val)
        raise UserError(f"{data_dir} has {both}", "one of them is the validation part: move the other elsewhere")
    folders = {name: name for name in needed} | ({"val": val[0]} if val else {})
    return {name: _scan_part(data_dir / folder, passed_over) for name, folder in folders.items()}, passed_over


def _scan_part(folder: Path, passed_over: PassedOver) -> Part:
    files, empty, direct = [], {}, 0
    for entry in _entries(folder):
        own = PassedOver()
        if _is_junk(entry.name):
            own.counts[HIDDEN] += 1
        elif entry.is_dir():
            members = [
                ImageFile(Path(each.path), entry.name, _state(each, folder))
                for each in _walk(entry.path, own, (_identity(folder),))
            ]
            files += members
            if not members:
                empty[entry.name] = str(own) or "empty"
        elif is_image(_ending(entry.name)) and entry.is_file():
            direct += 1
        else:
            own.add(entry, _ending(entry.name))
        passed_over.update(own)
    if not files:
        there = [f"{direct} lie directly in it"] if direct else []
        there += [f"{name}/: {what}" for name, what in empty.items()]
        raise UserError(f"no images in folders of {folder} " + (f"({listed(there)})" if there else ""), LAYOUT)
    if empty and folder.name == "train":
        what = listed(f"{name} ({what})" for name, what in empty.items())
        hint = f"add images, or move what is no class out of {folder.name}/"
        raise UserError(f"no images in {folder} for: {what}", hint)
    if direct:
        passed_over.counts[f"directly in {folder.name}/, in no class"] += direct
    return Part(folder, files)


def find_images(paths: Iterable[Path]) -> tuple[list[Path], PassedOver]:
    """All images in the folders among `paths` and those in them, and the files among `paths`, whatever they are.

    Each once, and with what was passed over.
    """
    passed_over, files = PassedOver(), {}
    for path in paths:
        inside = (Path(entry.path) for entry in _walk(str(path), passed_over, ())) if path.is_dir() else (path,)
        files |= dict.fromkeys(inside)
    return list(files), passed_over


def _entries(folder: str | Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _walk(folder: str, passed_over: PassedOver, above: tuple) -> Iterator[os.DirEntry]:
    """All images in `folder` and the folders in it; `above` are the identities of those it lies in."""
    above += (_identity(folder),)
    for entry in _entries(folder):
        ending = _ending(entry.name)
        if _is_junk(entry.name):
            passed_over.counts[HIDDEN] += 1
        elif entry.is_dir():
            if entry.is_symlink() and _identity(entry.path) in above:
                passed_over.counts["link to a folder around it"] += 1
            else:
                yield from _walk(entry.path, passed_over, above)
        elif is_image(ending) and entry.is_file():
            yield entry
        else:
            passed_over.add(entry, ending)


def _identity(folder: str | Path) -> tuple[int, int]:
    state = os.stat(folder)
    return state.st_dev, state.st_ino


def _state(entry: os.DirEntry, folder: Path) -> str:
    # Of files swapped with their times preserved, inode and ctime tell, neither of which a user can set.
    state = entry.stat()
    values = (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)
    return "\0".join((os.path.relpath(entry.path, folder), *map(str, values)))


def _is_junk(name: str) -> bool:
    return name[0] == "." or name.lower() in JUNK


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def folders_in(folder: Path) -> list[str]:
    """The names of the folders in `folder` but junk, sorted."""
    return [entry.name for entry in _entries(folder) if entry.is_dir() and not _is_junk(entry.name)]


def _no_part(data_dir: Path, missing: str) -> UserError:
    """Why there is no part `missing`, with a hint that names what is there."""
    what = f"no folder {data_dir / missing}"
    if not data_dir.is_dir():
        return UserError(f"{what}: {data_dir} is {'a file' if data_dir.exists() else 'not there'}", LAYOUT)
    inside = folders_in(data_dir)
    around = data_dir.absolute().parent
    train = (data_dir / "train").is_dir()
    deeper = [name for name in inside if (data_dir / name / missing).is_dir()]
    if not train and deeper:
        command = " or ".join(f"--data-dir {shlex.quote(str(data_dir / name))}" for name in deeper)
        return UserError(what, f"{listed(deeper)} has {missing}/ in it: {command}")
    if not train and data_dir.name in ("train", "test", *VAL_NAMES) and (around / missing).is_dir():
        return UserError(what, f"that is one part of the data: --data-dir {shlex.quote(str(data_dir.parent))}")
    val = [name for name in VAL_NAMES if name in inside]
    if missing == "test" and val:
        there = f"there are train/ and {val[0]}/" if train else f"there is {val[0]}/"
        hint = f"{there}: accuracy is reported on test/, {val[0]}/ only draws the curves. "
        hint += f"Rename {val[0]}/ to test/, and a share of train/ is held out for validation instead"
        return UserError(what, hint)
    there = f"there are the folders {listed(inside)}" if inside else "there are no folders in it"
    return UserError(what, f"{LAYOUT}; {there}")
