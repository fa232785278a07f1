"""Who taught the runs of a table, and whether they are the table's own teachers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from utils.reporting.format import spread
from utils.runtime.identity import SEED, Identity

DIGITS = 6  # of a SHA-256, to tell teachers apart
NAMED = 3  # hashes in a cell; of more, the first


@dataclass(frozen=True)
class Teacher:
    """What a distilled run recorded of its teacher."""

    name: str
    sha256: str  # the first 16 hex digits of that of its weights; empty where it is unknown
    top1: float | None  # percent, measured before the student's training
    note: str  # what sets it apart from a finished run of this program
    origin: Identity | None  # of its own run, where that is known

    def same_kind(self, other: "Teacher") -> bool:
        """Whether two teachers differ in nothing but their seed, as far as that is known."""
        return self.origin is None or other.origin is None or self.origin.same_row(other.origin)


def teacher_of(config: Mapping[str, Any]) -> Teacher | None:
    """The teacher of the run that recorded `config`; None for a run without one."""
    identity, record = Identity.from_record(config), config.get("teacher", {})
    if identity["role"] != "kd" or "teacher" not in identity.values:
        return None
    sha256 = record.get("sha256") or identity.get("teacher_sha256") or ""
    top1 = record.get("val_top1", record.get("train_top1"))
    origin = Identity.from_record(config["teacher_run"]) if config.get("teacher_run") else None
    return Teacher(identity["teacher"], sha256[:16], top1, record.get("note", ""), origin)


def describe_teacher(
    student: Identity, teacher: Teacher, own: Mapping[str, Identity], complete: bool
) -> list[str]:
    """What sets the teacher of a run apart from the teachers of its table; nothing for one of them.

    `own` has the identities of the table's teachers by the first 16 digits of their hashes; it is `complete`
    unless there is none, or one that has the name of this teacher recorded no hash.
    """
    texts, origin = [], teacher.origin or own.get(teacher.sha256)
    if origin is not None and origin.get("data") != student.get("data"):
        texts.append("teacher trained on other images")
    if teacher.note:
        texts.append(f"teacher{'s' * ('teacher_mix' in student.values)} {teacher.note}")
    elif complete and teacher.sha256 and teacher.sha256 not in own and "teacher_mix" not in student.values:
        namesakes = [identity for identity in own.values() if identity["network"] == teacher.name]
        text = "taught by another teacher than the table's" if namesakes else "teacher not in this table"
        if origin is not None and namesakes and not any(origin.same_row(identity) for identity in namesakes):
            text = f"{text}: {', '.join(namesakes[0].explain(origin, *SEED))}"
        texts.append(text)
    return texts


def format_teachers(teachers: Iterable[Teacher]) -> str:
    """The teachers of a row in a cell: name, top-1 in percent, and the first digits of their hashes."""
    teachers = list({(teacher.name, teacher.sha256): teacher for teacher in teachers}.values())
    names = " and ".join(dict.fromkeys(teacher.name for teacher in teachers))
    top1 = spread([teacher.top1 for teacher in teachers])
    parts = names, f"{top1} %" if top1 else "", format_hashes(teacher.sha256 for teacher in teachers)
    return " ".join(filter(None, parts))


def format_hashes(hashes: Iterable[str]) -> str:
    """The first digits of several hashes in brackets; empty where none is known."""
    known = [text[:DIGITS] for text in dict.fromkeys(hashes) if text]
    more = ["…"] if len(known) > NAMED else []
    return f"({', '.join(known[:NAMED] + more)})" if known else ""
