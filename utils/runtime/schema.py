"""What kinds of values a file must hold, as plain data."""

import re
from typing import Any

NUMBER = (int, float)
LARGEST = 2**64  # of numbers in files: more than any count, seed or size
NAME = re.compile(r"\w[\w.:+-]*")  # of networks, datasets and methods: no path can be made of one


def fits(value: Any, schema: Any) -> bool:
    """Whether a value is of a kind: a type or a tuple of types, a predicate, `[schema]` or a dict for these keys.

    True and False are no numbers. Numbers must be finite and below `LARGEST`, texts such that they can be written.
    """
    if isinstance(schema, dict):
        return isinstance(value, dict) and all(fits(value.get(name, ...), kind) for name, kind in schema.items())
    if isinstance(schema, list):
        return isinstance(value, list) and all(fits(each, schema[0]) for each in value)
    if not isinstance(schema, (type, tuple)):
        return schema(value)
    if isinstance(value, bool):
        return schema is bool or (isinstance(schema, tuple) and bool in schema)
    if isinstance(value, str):
        return isinstance(value, schema) and is_text(value)
    return isinstance(value, schema) and (not isinstance(value, NUMBER) or abs(value) < LARGEST)


def is_text(value: str) -> bool:
    """Whether a text can be written as UTF-8; bytes of paths that are none are let through."""
    try:
        value.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def is_name(value: Any) -> bool:
    """Whether this may be a part of a folder's name."""
    return isinstance(value, str) and NAME.fullmatch(value) is not None and len(value) <= 100


def bounded(value: float) -> float:
    """`value`; raises ValueError for one that is not finite or beyond what is calculated with."""
    if not abs(value) < LARGEST:
        raise ValueError(f"{value:g} is no number that it may hold")
    return value
