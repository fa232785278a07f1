"""Methods of distillation, and the registry that `--method` chooses from."""

from utils.losses.outputs import Outputs

# name -> the class of the method, in the module of this package that has the name (up to its colon). Modules are
# imported when a method is used: the names alone (`--help`, checks of flags) cost no import of torch.
METHODS = {
    "kd": "KD",
    "kd:standardize": "StandardisedKD",
    "dkd": "DKD",
    "nkd": "NKD",
    "dist": "DIST",
    "ttm": "TTM",
    "wttm": "WTTM",
    "rld": "RLD",
    "abkd": "ABKD",
    "wkd": "WKD",
    "ctkd": "CTKD",
    "mse": "MSE",
    "mlkd": "MLKD",
    "fitnet": "FitNet",
    "at": "AT",
    "sp": "SP",
    "rkd": "RKD",
    "pkt": "PKT",
    "cc": "CC",
    "nst": "NST",
    "fsp": "FSP",
    "vid": "VID",
    "ofd": "OFD",
    "ab": "AB",
    "ft": "FT",
    "reviewkd": "ReviewKD",
    "crd": "CRD",
    "srrl": "SRRL",
    "embed": "Embed",
    "tfkd": "TfKD",
    "label_smoothing": "LabelSmoothing",
}

__all__ = ["METHODS", "Outputs", "build_method", "resolve_method"]


def resolve_method(spec: str, **overrides: float):
    """The class of a method and all of its settings, a `utils.losses.spec.MethodSpec`; imports torch when called.

    `spec` is a text such as `dkd`, `dkd:beta=2,temperature=1` or `kd+fitnet:weight=5`, which adds methods up;
    `overrides` replace settings that a method has and the text does not name. Raises ValueError, in one line that
    names the fix, for an unknown name, an unknown setting or a value out of range.
    """
    from utils.losses import spec as specs

    return specs.resolve_method(spec, **overrides)


def build_method(spec: str, label_smoothing: float = 0.0, **overrides: float):
    """A method from its spec, see `resolve_method`; `label_smoothing` is that of its cross-entropy."""
    return resolve_method(spec, **overrides).build(label_smoothing)
