"""One's own images: `train/<class>/...`, `test/<class>/...` and `val/<class>/...` where it is there, as arrays."""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from utils.data.image_set import ImageSet
from utils.data.sources import Parts, Request
from utils.data.sources.decode import DECODER_ERRORS, decode_image, is_flattened, quiet_decoders, reason_of
from utils.data.sources.image_cache import Decoded, ImageCache, rows_by_key
from utils.data.sources.scan import LAYOUT, Part, folders_in, listed, scan
from utils.runtime.errors import UserError, printable
from utils.runtime.files import write_text
from utils.runtime.regular_file import open_regular
from utils.runtime.system import physical_memory

IMBALANCE = 10  # times as many images in one class as in another, from which on it is said
LARGE_ARRAY = 1e9  # bytes
NAMED = 5  # unreadable files in an error; all of them are in a file
LIST_NAME = "unreadable-images.txt"
LIST_HEADER = "# images that could not be read, and why"


@dataclass
class Problems:
    """What decoding ran into: unreadable files with the reason, and files that became one colour."""

    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    flattened: list[Path] = field(default_factory=list)


def load(request: Request) -> Parts:
    """Load the parts, each image resized to `image_size` pixels a side; classes are those of `train/`.

    With `test_only`, classes are those of the network, or else of `test/`. With `limit`, images are chosen before
    they are decoded. Unreadable images are an error that names a file with all of them; with `skip_bad_images`
    they are left out.
    """
    listing, passed_over = scan(request.data_dir, request.test_only)
    if "train" in listing:
        _check_train(listing["train"])
    of = listing.get("train", listing["test"])
    names = request.class_names or of.class_names
    _check_classes(listing, names, "the network" if request.class_names else of.folder)
    number = {name: index for index, name in enumerate(names)}
    chosen = {name: _chosen(part, number, request.limit) for name, part in listing.items()}
    _check_size(sum(map(len, chosen.values())), request)

    problems, parts = Problems(), {}
    for name, part in listing.items():
        pixels, valid = _pixels(part, chosen[name], request.image_size, problems)
        labels = torch.tensor([number[part.files[index].class_name] for index in chosen[name]])
        files = None
        if name == "test":  # whose mistakes are named
            paths = (part.files[index].path for index in chosen[name])
            files = tuple(path.relative_to(request.data_dir).as_posix() for path in paths)
        whole = ImageSet(pixels, labels, names, files=files)
        parts[name] = whole if valid.all() else whole.select(torch.from_numpy(valid.nonzero()[0]))
    notes = [f"passed over in {request.data_dir}: {passed_over}"] if passed_over.counts else []
    if problems.unreadable:
        notes.append(_report_unreadable(problems.unreadable, sum(map(len, chosen.values())), request))
    if problems.flattened:
        paths = listed(map(str, problems.flattened), NAMED)
        notes.append(
            f"{len(problems.flattened)} decoded to nearly one colour, although the file has more: {paths}"
        )
    notes += _notes_on_classes(parts, listing)
    return Parts(**{"train": None} | parts, notes=tuple(notes))


def _check_train(train: Part) -> None:
    if len(train.class_names) < 2:
        (name,) = train.class_names
        what = f"{train.folder} has only one class: {name} ({len(train.files)} images)"
        inside = folders_in(train.folder / name)
        hint = (
            f"if {listed(inside)} in it are the classes, move them up into {train.folder.name}/"
            if inside
            else LAYOUT
        )
        raise UserError(what, hint)


def _check_classes(listing: dict[str, Part], names: tuple[str, ...], owner: object) -> None:
    for part in listing.values():
        unknown = sorted(set(part.class_names) - set(names))
        if unknown:
            raise UserError(f"{part.folder} has classes that {owner} lacks: {listed(unknown)}", LAYOUT)


def _chosen(part: Part, number: dict[str, int], limit: int | None) -> list[int]:
    """The indices of the files that `limit` leaves."""
    indices = torch.arange(len(part.files))
    if limit is None:
        return indices.tolist()
    # The one rule for this, applied to indices instead of images.
    labels = torch.tensor([number[file.class_name] for file in part.files])
    return ImageSet(indices, labels, tuple(number)).first(limit).images.tolist()


def _check_size(count: int, request: Request) -> None:
    """State what a large array takes, before anything is decoded; refuse what cannot fit."""
    size = request.image_size
    needed = count * size**2 * 3
    if needed < LARGE_ARRAY:
        return
    memory = physical_memory()
    what = (
        f"{count} images of {size}x{size} pixels take {needed / 1e9:.1f} GB of memory, and of disk for the cache"
    )
    if memory and needed > memory:
        hint = "a smaller --image-size takes less by its square; --limit takes fewer images"
        raise UserError(f"{what}; this machine has {memory / 1e9:.1f} GB of memory", hint)
    print(f"note: {what} (a smaller --image-size takes less by its square)", flush=True)


def _pixels(part: Part, chosen: list[int], size: int, problems: Problems) -> tuple[Tensor, np.ndarray]:
    """The chosen images of a part, uint8 [N, size, size, 3], and which of them are valid, bool [N].

    What the cache lacks is decoded and added to it, also where other files are unreadable or the user stops.
    """
    cache = ImageCache(part, size)
    cached, rows = cache.read()
    wanted = rows[chosen]
    valid = wanted >= 0
    if valid.all():
        in_order = len(cached.images) == len(chosen) and (wanted == np.arange(len(chosen))).all()
        decoded = cached if in_order else cached.select(wanted)
    else:
        decoded, missing = Decoded.zeros(len(chosen), size), (~valid).nonzero()[0]
        for tensor, source in zip(decoded, cached, strict=True):
            tensor[torch.from_numpy(valid)] = source[torch.from_numpy(wanted[valid])]
        paths = {index: part.files[chosen[index]].path for index in missing}
        try:
            _decode(part, paths, cache, cached, decoded, valid, problems)
        finally:
            if valid[missing].any():
                decoded.states[:] = cache.states[chosen] * torch.from_numpy(valid)[:, None]
                others = np.setdiff1d((rows >= 0).nonzero()[0], chosen)  # cached, and not part of this run
                more = cached.select(rows[others])
                cache.write(Decoded(*map(torch.cat, zip(decoded, more, strict=True))) if len(others) else decoded)
    problems.flattened += [part.files[chosen[index]].path for index in decoded.flat.nonzero()[:, 0].tolist()]
    return decoded.images, valid


def _decode(
    part: Part,
    paths: dict[int, Path],
    cache: ImageCache,
    cached: Decoded,
    decoded: Decoded,
    valid: np.ndarray,
    problems: Problems,
) -> None:
    """Decode files in parallel, each into its row of `decoded`, and note in `valid` which rows are.

    Those of which `cached` has the content are copied from there.
    """
    images, contents, flat = (tensor.numpy() for tensor in (decoded.images, decoded.contents, decoded.flat))
    row_of, size = rows_by_key(cached.contents), images.shape[1]

    def decode(index: int) -> tuple[int, str]:
        try:
            key = cache.content_key(paths[index])
            row = row_of.get(key)
            if row is None:
                images[index] = decode_image(paths[index], size)
                flat[index] = is_flattened(paths[index], images[index])
            else:
                images[index], flat[index] = cached.images[row], cached.flat[row]
        except DECODER_ERRORS as error:
            return index, reason_of(error, paths[index])
        contents[index] = np.frombuffer(key, np.uint8)
        valid[index] = True
        return index, ""

    pool = ThreadPoolExecutor(os.cpu_count())  # Pillow decodes without holding Python's lock
    try:
        with quiet_decoders():
            results = pool.map(decode, paths)
            label, quiet = f"decoding {part.folder}", not sys.stderr.isatty()
            for index, reason in tqdm(results, label, len(paths), unit=" images", disable=quiet):
                if reason:
                    problems.unreadable.append((paths[index], reason))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C need not wait for all of them


def _report_unreadable(unreadable: list[tuple[Path, str]], count: int, request: Request) -> str:
    """The note on files that are left out; raises UserError where they may not be."""
    names = listed((f"{path} ({reason})" for path, reason in unreadable), NAMED)
    what = f"{len(unreadable)} unreadable of {count} images: {names}"
    where = f"; all are listed in {_write_list(unreadable, request.data_dir)}"
    if not request.skip_bad_images:
        raise UserError(f"{what}{where}", "replace them, or go on without them: --skip-bad-images True")
    return f"left out {what}{where}"


def _write_list(unreadable: list[tuple[Path, str]], data_dir: Path) -> Path:
    """Write all unreadable files, one a line, beside the data or else into a new file of the temporary folder."""
    lines = (f"{printable(path)}\t{printable(reason)}\n" for path, reason in unreadable)
    text = f"{LIST_HEADER}\n{''.join(lines)}"
    path = data_dir / LIST_NAME
    with suppress(OSError):
        if not os.path.lexists(path) or _is_own_list(path):
            write_text(path, text)
            return path
    with tempfile.NamedTemporaryFile("w", prefix="unreadable-images-", suffix=".txt", delete=False) as file:
        path = Path(file.name)
    path.write_bytes(text.encode(errors="surrogateescape"))
    return path


def _is_own_list(path: Path) -> bool:
    if not path.is_file():  # a pipe would be waited for
        return False
    with open_regular(path) as file:
        return file.read(len(LIST_HEADER)) == LIST_HEADER.encode()


def _notes_on_classes(parts: dict[str, ImageSet], listing: dict[str, Part]) -> list[str]:
    """What is said of classes that a part lacks and of strong imbalance; raises where `train/` lost a class."""
    notes = []
    for name, part in parts.items():
        counts = part.labels.bincount(minlength=part.num_classes).tolist()
        absent = [class_name for class_name, count in zip(part.class_names, counts, strict=True) if not count]
        folder = listing[name].folder.name
        if absent and (name == "train" or len(absent) == len(counts)):
            raise UserError(f"no readable image in {listing[name].folder} for: {listed(absent)}", "add some")
        if absent:
            notes.append(f"{folder}/ has no images of: {listed(absent)}")
        few, many = (counts.index(pick(counts)) for pick in (min, max))
        if name == "train" and counts[many] > IMBALANCE * counts[few]:
            extremes = " and ".join(f"{printable(part.class_names[i])} {counts[i]}" for i in (many, few))
            ratio = counts[many] / counts[few]
            notes.append(f"{folder}/ is imbalanced: of its classes, {extremes} images ({ratio:.0f} to 1)")
    return notes
