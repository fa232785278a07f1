"""What sets the rows of a table apart: settings, images that not all have, teachers of elsewhere."""

from collections.abc import Sequence

from utils.reporting.rows import Row
from utils.reporting.teachers import DIGITS, describe_teacher
from utils.runtime.identity import FINGERPRINTS, SEED
from utils.runtime.run_dir import PARTS

WORDS = {"train": "training", "val": "validation", "test": "test"}


def find_notes(row: Row, first: Row, rows: Sequence[Row]) -> list[str]:
    """What sets a row apart from the `first` one of its folder and from all rows of the table."""
    notes = []
    if row is not first:
        notes += first.identity.explain(row.identity, *SEED, *FINGERPRINTS.values())
        notes += _other_teachers(row, first)
    return notes + _image_notes(row, rows) + _teacher_notes(row, rows)


def _other_teachers(row: Row, first: Row) -> list[str]:
    """How the teachers of two rows of one recipe differ."""
    if not row.teachers or not first.teachers:
        return []
    mine, theirs = (next(iter(each.teachers.values())) for each in (first, row))
    if mine.same_kind(theirs):
        return []
    return [f"teacher: {text}" for text in mine.origin.explain(theirs.origin, *SEED)]


def _image_notes(row: Row, rows: Sequence[Row]) -> list[str]:
    """The count of each part of the images that is not the same in all rows; of equal counts, their hash too."""
    texts, hashes = [], []
    for part, images in row.images.items():
        others = {other.images[part] for other in rows} - {images}
        if others:
            same_count = any(other.count == images.count for other in others)
            texts.append(f"{images.count:,} {WORDS[part]}")
            hashes += [images.fingerprint[:DIGITS]] if same_count and images.fingerprint else []
    return [" ".join((", ".join(texts), "images", *hashes))] if texts else []


def _teacher_notes(row: Row, rows: Sequence[Row]) -> list[str]:
    """How the teachers of a row differ from those of the table, with the seeds where that is not so of all."""
    teachers = [other for other in rows if other.identity["role"] == "teacher"]
    own = {weights: other.identity for other in teachers for weights in other.hashes.values() if weights}
    seeds: dict[str, list[int]] = {}
    for seed, teacher in row.teachers.items():
        namesakes = [other for other in teachers if other.identity["network"] == teacher.name]
        complete = bool(teachers) and all(all(other.hashes.values()) for other in namesakes)
        for text in describe_teacher(row.identity, teacher, own, complete):
            seeds.setdefault(text, []).append(seed)
    return [
        text if len(of) == len(row.tests) else f"seed {' and '.join(map(str, sorted(of)))}: {text}"
        for text, of in seeds.items()
    ]


def shared_counts(rows: Sequence[Row]) -> dict[str, int]:
    """The count of each part of the images that is the same for all rows; parts that differ are left out."""
    images = {part: {row.images[part] for row in rows} for part in PARTS}
    return {part: next(iter(same)).count for part, same in images.items() if len(same) == 1}
