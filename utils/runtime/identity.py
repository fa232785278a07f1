"""A run's identity: the settings that decide its result. All comparisons of runs ask this one object."""

from dataclasses import dataclass, field
from typing import Any

from utils.runtime.schema import NUMBER, fits, is_name

SEED = ("seed", "teacher_sha256")  # what differs between the seeds of a row: each has its own teacher
# What a student alone does not have; mean and std are recorded of a teacher of another program.
TEACHING = ("role", "method", "teacher", "teacher_sha256", "teacher_mean", "teacher_std", "teacher_mix")
FINGERPRINTS = {"train": "data", "val": "val_data", "test": "test_data"}  # names of the parts of the data
SWEPT = ("temperature", "alpha")  # settings of a method that a sweep varies
SETTING = "method."  # before the name of each setting of a method
KINDS = {  # of the settings that name folders and files or are calculated with; others are only compared
    **dict.fromkeys(("role", "dataset", "network", "teacher", "method"), is_name),
    **dict.fromkeys(("epochs", "seed", "image_size"), int),
    **dict.fromkeys(("limit", "val_size"), (int, type(None))),
    **dict.fromkeys(("temp", "alpha", *(SETTING + name for name in SWEPT)), NUMBER),
    "teacher_sha256": str,
}
SCALAR = (str, int, float, bool, type(None))


def is_setting(value: Any) -> bool:
    """Whether this may be a setting: a plain value, or several."""
    return fits(value, SCALAR) or fits(value, [SCALAR])


@dataclass(frozen=True)
class Identity:
    """Two runs are the same if their identities are equal; a setting that one does not know has its default."""

    values: dict[str, Any]
    defaults: dict[str, Any] = field(default_factory=dict)  # of settings that not every run records
    label: str = ""  # of the method, for titles
    images: int | None = None  # training images, for messages
    partial: bool = False  # some settings are not known yet, and are not compared

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Identity":
        """Read what config.json or a checkpoint records of a run, in today's form or an earlier one.

        Raises ValueError for what no run can have recorded.
        """
        identity, defaults, data = (record.get(name, {}) for name in ("identity", "defaults", "data"))
        if not all(isinstance(part, dict) for part in (identity, defaults, data)):
            raise ValueError("the settings of its run are not named values")
        for name, value in (*identity.items(), *defaults.items()):
            if not isinstance(name, str) or not fits(value, KINDS.get(name, is_setting)):
                raise ValueError(f"the setting {name!r:.80} of its run cannot be {value!r:.80}")
        if not fits(record.get("label", ""), str) or not fits(data.get("train", 0), int):
            raise ValueError("the label or the number of images of its run cannot be")
        values, defaults = dict(identity), dict(defaults)
        if values.get("role") == "kd" and "method" not in values:  # before there was more than one method
            values["method"], defaults[f"{SETTING}alpha"] = "kd", 0.9
            for old, name in (("temp", "temperature"), ("alpha", "alpha")):
                if old in values:
                    values[SETTING + name] = values.pop(old)
        label = record.get("label") or str(values.get("method", "")).upper()
        return cls(values, defaults, label, data.get("train"))

    def to_record(self) -> dict[str, Any]:
        return {"identity": self.values, "defaults": self.defaults, "label": self.label}

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)

    def settings(self) -> dict[str, Any]:
        """The settings of the method."""
        return {k.removeprefix(SETTING): v for k, v in self.values.items() if k.startswith(SETTING)}

    def differing(self, other: "Identity", *without: str) -> list[str]:
        """The names of the settings in which two runs differ, but for those in `without`.

        A name that ends in a dot stands for all names that begin with it.
        """
        names = dict.fromkeys((*self.values, *other.values))
        if self.partial:
            names = dict.fromkeys(self.values)
        prefixes = tuple(name for name in without if name.endswith("."))
        return [
            name
            for name in names
            if name not in without
            and not (prefixes and name.startswith(prefixes))
            and self._value(name, other) != other._value(name, self)
        ]

    def _value(self, name: str, other: "Identity") -> Any:
        if name in self.values:
            return self.values[name]
        # One side may be of before the setting existed; what its default was, the other side knows.
        return self.defaults.get(name, other.defaults.get(name))

    def same_row(self, other: "Identity") -> bool:
        """Whether two runs differ in nothing but their seed."""
        return not self.differing(other, *SEED)

    def same_but_for_teaching(self, other: "Identity") -> bool:
        """Whether two runs differ in nothing but teacher, method and seed: a student with KD and alone."""
        return not self.differing(other, *TEACHING, *SEED, SETTING)

    def same_sweep(self, other: "Identity") -> bool:
        """Whether two runs differ in nothing but what a sweep varies."""
        return not self.differing(other, *SEED, *(SETTING + name for name in SWEPT))

    def explain(self, other: "Identity", *without: str) -> list[str]:
        """In words, how `other`, a run that is there already, differs from this one."""
        texts, names = [], self.differing(other, *without)
        for name in names:
            mine, theirs = self._value(name, other), other._value(name, self)
            if name == "data":
                counts = self.images is not None and other.images not in (None, self.images)
                texts.append(
                    "trained on other images"
                    + (f": {other.images:,} instead of {self.images:,}" if counts else "")
                )
            elif name in ("val_data", "test_data"):
                texts.append(f"{'validated' if name == 'val_data' else 'tested'} on other images")
            elif name == "teacher_sha256":
                texts += ["the teacher has been trained again since"] if "teacher" not in names else []
            else:
                texts.append(
                    f"{name.removeprefix(SETTING).replace('_', ' ')} {_text(theirs)} instead of {_text(mine)}"
                )
        return texts

    def method_title(self) -> str:
        """How a student was distilled: `KD at T = 5`, with the settings that are not the method's defaults."""
        settings = self.settings()
        temperature = settings.pop("temperature", None)
        at = f" at T = {temperature:g}" if isinstance(temperature, int | float) else ""
        changed = (f"{k} = {_text(v)}" for k, v in settings.items() if v != self.defaults.get(SETTING + k, v))
        return ", ".join((f"{self.label}{at}", *changed))

    def title(self) -> str:
        """The run as a table names it."""
        role, network = self.values["role"], self.values["network"]
        if role == "kd":
            return f"student {network}, {self.method_title()}"
        return f"{role} {network}" + (", alone" if role == "student" else "")


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
