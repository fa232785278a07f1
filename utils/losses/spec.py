"""`dkd:beta=2`: from the text of a method to its class and settings, and from these to the names of a run."""

import difflib
import inspect
from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from utils.losses import METHODS
from utils.losses.method import Method

SHORT = {"temperature": "t", "alpha": "a"}  # in the names of folders


@dataclass(frozen=True)
class MethodSpec:
    """A method with all of its settings; `build` makes it."""

    name: str
    kind: type[Method]
    settings: dict[str, Any]  # all of them
    defaults: dict[str, Any]  # of the constructor

    def build(self, label_smoothing: float = 0.0) -> Method:
        method = self.kind(**self.settings)
        method.label_smoothing = label_smoothing
        return method

    @property
    def spec(self) -> str:
        """The shortest text that means the same."""
        changed = [f"{key}={_text(value)}" for key, value in self._changed()]
        return self.name + (f":{','.join(changed)}" if changed else "")

    def slug(self, *always: str) -> str:
        """The settings in a folder's name, such as `t5`: what differs from the default, and `always`."""
        settings = self._changed(*self.kind.always_named, *always)
        return "-".join(_slug(SHORT.get(key, key), value) for key, value in settings)

    def _changed(self, *always: str) -> list[tuple[str, Any]]:
        return [(k, v) for k, v in self.settings.items() if k in always or v != self.defaults[k]]


def resolve_method(spec: str, **overrides: float) -> MethodSpec:
    """Read `NAME[:key=value,...]`; `overrides` set what the method has and the text does not name.

    Raises ValueError, in one line that names the fix, for an unknown method or setting and a value out of range.
    """
    name, _, rest = spec.partition(":")
    kind = method_class(name)
    defaults = settings_of(kind)
    settings = defaults | {key: value for key, value in overrides.items() if key in defaults}
    for word in filter(None, rest.split(",")):
        key, equals, text = word.partition("=")
        if key not in defaults:
            known = ", ".join(defaults) or "none"
            raise ValueError(f"{name} has no setting {key!r}{_nearest(key, defaults)} (settings: {known})")
        settings[key] = _value(f"{name}:{key}", text if equals else "", defaults[key])
    resolved = MethodSpec(name, kind, settings, defaults)
    try:
        resolved.build()
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return resolved


def method_class(name: str) -> type[Method]:
    """The class of a method. Raises ValueError for a name that is not in `METHODS`."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}{_nearest(name, METHODS)} (methods: {', '.join(METHODS)})")
    return getattr(import_module(f"utils.losses.{name}"), METHODS[name])


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
        lines.append(f"{name:<10} {kind.needs:<10} {settings}\n{'':<21} {summary}")
    return "\n".join([f"{'method':<10} {'matches':<10} settings, and where it is from", *lines])


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
