"""`dkd:beta=2`: from the text of a method to its class and settings, and from these to the names of a run."""

import difflib
import inspect
import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from utils.losses import METHODS
from utils.losses.combined import Combined
from utils.losses.method import Method

SHORT = {"temperature": "t", "alpha": "a"}  # in the names of folders


@dataclass(frozen=True)
class MethodSpec:
    """A method with all of its settings; `build` makes it.

    Of methods that add up, the settings of the first have their plain names; before those of the others stands the
    name of the method, as in `rkd.weight`.
    """

    name: str
    settings: dict[str, Any]  # all of them
    defaults: dict[str, Any]  # of the constructor
    parts: tuple["MethodSpec", ...] = ()

    def build(self, label_smoothing: float = 0.0) -> Method:
        method = (
            Combined([part.build(label_smoothing) for part in self.parts])
            if self.parts
            else method_class(self.name)(**self.settings)
        )
        method.label_smoothing = label_smoothing
        return method

    @property
    def needs_teacher(self) -> bool:
        return self.build().needs != "labels"

    @property
    def label(self) -> str:
        """The name in titles of rows."""
        return " + ".join(part.label for part in self.parts) if self.parts else METHODS[self.name]

    @property
    def spec(self) -> str:
        """The shortest text that means the same."""
        if self.parts:
            return "+".join(part.spec for part in self.parts)
        words = [*self.name.split(":")[1:], *(f"{key}={_text(value)}" for key, value in self._changed())]
        return self.name.split(":")[0] + (f":{','.join(words)}" if words else "")

    @property
    def folder(self) -> str:
        """The method's part of a folder's name."""
        return self.name.replace(":", "-")

    def slug(self, *always: str) -> str:
        """The settings in a folder's name, such as `t5`: what differs from the default, and `always`."""
        named = (self.parts[0] if self.parts else self).name
        settings = self._changed(*method_class(named).always_named, *always)
        return "-".join(_slug(SHORT.get(key, key), value) for key, value in settings)

    def _changed(self, *always: str) -> list[tuple[str, Any]]:
        return [(k, v) for k, v in self.settings.items() if k in always or v != self.defaults[k]]


def resolve_method(spec: str, **overrides: float) -> MethodSpec:
    """Read `NAME[:key=value,...]`, or several of these joined by `+`.

    `overrides` set what a method has and the text does not name. Raises ValueError, in one line that names the
    fix, for an unknown method or setting and a value out of range.
    """
    # A plus before a letter: the one in 1e+3 is a part of the number.
    parts = tuple(_resolve_one(text, overrides) for text in re.split(r"\+(?=[A-Za-z])", spec))
    if len(parts) == 1:
        return parts[0]
    names = [part.name for part in parts]
    if len({*names}) < len(names):
        raise ValueError(f"{'+'.join(names)} names a method twice")
    settings, defaults = {}, {}
    for part in parts:
        if not method_class(part.name).adds_up:
            raise ValueError(f"{part.name} is a cross-entropy alone, and has nothing to add to other methods")
        prefix = "" if part is parts[0] else f"{part.name}."
        settings |= {prefix + key: value for key, value in part.settings.items()}
        defaults |= {prefix + key: value for key, value in part.defaults.items()}
    return MethodSpec("+".join(names), settings, defaults, parts)


def _resolve_one(spec: str, overrides: dict[str, float]) -> MethodSpec:
    name, _, rest = spec.partition(":")
    words = [word for word in rest.split(",") if word]
    for word in words:
        if f"{name}:{word}" in METHODS:  # a form of the method, with settings of its own
            name, words = f"{name}:{word}", [other for other in words if other != word]
            break
    kind = method_class(name)
    defaults = settings_of(kind)
    settings = defaults | {key: value for key, value in overrides.items() if key in defaults}
    for word in words:
        key, equals, text = word.partition("=")
        if key not in defaults:
            forms = [other.partition(":")[2] for other in METHODS if other.startswith(f"{name}:")]
            known = ", ".join([*defaults, *forms]) or "none"
            text = f"{name} has no setting {key!r}{_nearest(key, [*defaults, *forms])} (settings: {known})"
            raise ValueError(text)
        settings[key] = _value(f"{name}:{key}", text if equals else "", defaults[key])
    resolved = MethodSpec(name, settings, defaults)
    try:
        resolved.build()
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return resolved


def method_class(name: str) -> type[Method]:
    """The class of a method. Raises ValueError for a name that is not in `METHODS`."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}{_nearest(name, METHODS)} (methods: {', '.join(METHODS)})")
    return getattr(import_module(f"utils.losses.{name.partition(':')[0]}"), METHODS[name])


def settings_of(kind: type[Method]) -> dict[str, Any]:
    """The settings of a method and their defaults: the keyword arguments of its constructor."""
    return {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}


def list_methods() -> str:
    """A table of all methods: name, what of the networks it matches, settings with their defaults, and source."""
    lines = []
    for name in METHODS:
        kind = method_class(name)
        settings = ", ".join(f"{key}={_text(value)}" for key, value in settings_of(kind).items())
        summary = inspect.getdoc(kind).split("\n\n")[0].replace("\n", " ")
        lines.append(f"{name:<15} {kind.needs:<14} {settings}\n{'':<30} {summary}")
    return "\n".join([f"{'method':<15} {'matches':<14} settings, and where it is from", *lines])


def _value(name: str, text: str, default: Any) -> Any:
    """`text` as the type of the setting's default."""
    if isinstance(default, bool):
        if text.lower() in ("true", "false", ""):  # `kd:standardize` alone means true
            return text.lower() != "false"
        raise ValueError(f"{name}={text} is neither true nor false")
    try:
        return type(default)(text)
    except ValueError:
        kind = {int: "a whole number", float: "a number"}.get(type(default), "a value")
        raise ValueError(f"{name}={text} is not {kind}") from None


def _text(value: Any) -> str:
    """A setting as it is written in a spec; of a number, the shortest text that reads back as it is."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _slug(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return key if value else f"no{key}"
    return f"{key}{_text(value)}" if isinstance(value, int | float) else f"{key}_{value}"


def _nearest(text: str, names: Collection[str]) -> str:
    match = difflib.get_close_matches(text, list(names), n=1)
    return f", did you mean {match[0]}?" if match else ""
