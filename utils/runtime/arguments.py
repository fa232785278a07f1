"""What flags take: argparse types, and a parser whose errors name the flag and the fix. Standard library only."""

import argparse
import difflib
import math
import re
from collections.abc import Callable, Collection
from typing import Any

from utils.runtime.errors import printable


class Parser(argparse.ArgumentParser):
    """Says in one line which flag is wrong and what it takes."""

    def error(self, message: str) -> None:
        message = re.sub(r"^argument (\S+/)?(\S+): ", r"\2 ", message)
        message = re.sub(r"expected (at least )?one argument", "needs a value", message)
        message = re.sub(r"ignored explicit argument .*", "takes no value", message)
        choice = re.fullmatch(r"(\S+) invalid choice: (.*) \(choose from (.*)\)", message)
        message = (
            f"{choice[1]} {choice[2]} is unknown; known: {choice[3].replace(chr(39), '')}" if choice else message
        )
        self.exit(2, f"error: {printable(message)}\nhint: {self.prog} --help\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        for line in message.splitlines(
            keepends=True
        ):  # a text of several lines is escaped (utils.runtime.console)
            super()._print_message(line, file)


def bounded(
    kind: type, low: float, high: float | None = None, above: bool = False, below: bool = False
) -> Callable:
    """An argparse type: an int or finite float from `low` to `high`, or `above` the one and `below` the other."""
    span = f"{'above' if above else 'of at least'} {low:g}"
    if high is not None:
        span = f"{f'above {low:g} and up' if above else f'from {low:g}'} to {'below ' * below}{high:g}"
    top = high if high is not None else 2**63 if kind is int else math.inf  # 2**63: what a tensor holds

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if (low < value if above else low <= value) and (value < top or (value == high and not below)):
            return value
        raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' * (kind is int)}number {span}")

    return convert


def per_channel(convert: Callable[[str], float]) -> Callable[[str], tuple[float, ...]]:
    """An argparse type: three numbers R,G,B, each of which `convert` takes."""

    def convert_all(text: str) -> tuple[float, ...]:
        if text.count(",") != 2:
            raise argparse.ArgumentTypeError(f"{text!r} is not three numbers with commas between: R,G,B")
        return tuple(map(convert, text.split(",")))

    return convert_all


def boolean(text: str) -> bool:
    """An argparse type."""
    if text.lower() not in ("true", "1", "yes", "false", "0", "no"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return text.lower() in ("true", "1", "yes")


def known(names: Collection[str], settings: bool = False) -> Callable[[str], str]:
    """An argparse type: one of `names`, or with `settings` any `NAME:key=value,...`, joined by `+`."""

    def convert(text: str) -> str:
        words = re.split(r"\+(?=[A-Za-z])", text) if settings else [text]
        for name in (word.partition(":")[0] if settings else word for word in words):
            if name not in names:
                which = nearest(name, names) or f"; known: {', '.join(names)}"
                raise argparse.ArgumentTypeError(f"{name!r} is unknown{which}")
        return text

    return convert


def pair(names: Collection[str]) -> Callable[[str], tuple[str, str]]:
    """An argparse type: two of `names`, joined by a hyphen."""
    one = known(names)

    def convert(text: str) -> tuple[str, str]:
        first, hyphen, second = text.partition("-")
        if not hyphen:
            raise argparse.ArgumentTypeError(f"{text!r} is not two networks joined by a hyphen")
        return one(first), one(second)

    return convert


def matching(pattern: str, what: str) -> Callable[[str], str]:
    """An argparse type: a text that matches."""

    def convert(text: str) -> str:
        if re.fullmatch(pattern, text, re.DOTALL):
            return text
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")

    return convert


def nearest(text: str, names: Collection[str], prefix: str = "") -> str:
    match = difflib.get_close_matches(text.lower(), names, n=1, cutoff=0.75)
    return f", did you mean {prefix}{match[0]}?" if match else ""


def add_boolean(group: Any, flag: str, help: str, default: bool | None = False) -> None:
    """Add a flag that takes True, False or nothing, and its `--no-` form."""
    action = group.add_argument(
        flag, nargs="?", const=True, type=boolean, metavar="BOOL", default=default, help=help
    )
    group.add_argument(f"--no-{flag[2:]}", dest=action.dest, action="store_false", help=argparse.SUPPRESS)
