"""Which device computes, and in which precision."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from utils.runtime.errors import UserError


@dataclass(frozen=True)
class Compute:
    """A device and a precision: `bf16` (autocast, weights stay float32) or `fp32`."""

    device: torch.device
    precision: str

    @classmethod
    def choose(cls, device: str, precision: str) -> "Compute":
        """Resolve `auto`. Raises UserError for a device that this machine or this torch lacks."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        chosen = torch.device(device)
        if chosen.type == "cuda":
            if not torch.cuda.is_available():
                hint = "--device cpu, or install a torch with CUDA and check nvidia-smi"
                raise UserError(f"--device {device}: torch {torch.__version__} sees no CUDA device here", hint)
            if (chosen.index or 0) >= torch.cuda.device_count():
                count = torch.cuda.device_count()
                raise UserError(
                    f"--device {device}: this machine has {count} CUDA device(s)", "the first is cuda:0"
                )
            if chosen.index is not None:
                torch.cuda.set_device(chosen)  # streams and graphs are made on the current device
            torch.backends.cudnn.benchmark = True
            torch.backends.cudnn.deterministic = True
        if precision == "auto":
            precision = "bf16" if chosen.type == "cuda" and _has_bf16(chosen) else "fp32"
        # With TF32, "fp32" would not be what it says.
        torch.backends.cudnn.allow_tf32 = False
        return cls(chosen, precision)

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def place(self, model: nn.Module) -> nn.Module:
        """Move a network here, in the memory layout that convolutions are fastest with."""
        return model.to(self.device, memory_format=torch.channels_last)

    def __str__(self) -> str:
        if self.device.type == "cuda":
            name = f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        else:
            missing, threads = "" if torch.cuda.is_available() else ", no CUDA device", torch.get_num_threads()
            name = f"cpu ({threads} thread{'s' * (threads > 1)}{missing})"
        return f"{name}, {self.precision}, torch {torch.__version__}"


def _has_bf16(device: torch.device) -> bool:
    """Whether the GPU computes in bfloat16 itself; to emulate it is slower than float32."""
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)
