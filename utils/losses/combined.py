"""Methods that add up, such as `kd+rkd`."""

from torch import Tensor, nn

from utils.losses.method import Method
from utils.losses.outputs import Outputs


class Combined(Method):
    """The sum of the terms of several methods; the cross-entropy counts once, with the weight of the first."""

    def __init__(self, methods: list[Method]):
        super().__init__()
        self.methods = nn.ModuleList(methods)
        needs = {each.needs for each in methods}
        beyond_logits = sorted(needs - {"labels", "logits"})
        self.needs = "+".join(beyond_logits) or "logits"
        self.compares_samples = any(each.compares_samples for each in methods)
        self.strong_view = any(each.strong_view for each in methods)

    def adapt(self, student: Outputs, teacher: Outputs) -> None:
        for method in self.methods:
            method.adapt(student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, labels: Tensor, progress: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for number, method in enumerate(self.methods):
            for name, term in method(student, teacher, labels, progress).items():
                if name == "CE" and number:
                    continue
                terms[name if name not in terms else f"{name} of {type(method).__name__}"] = term
        return terms

    def formula(self) -> str:
        return " + ".join(method.formula() for method in self.methods)
