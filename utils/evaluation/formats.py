"""The formats that a network is exported in: how the bytes of each are made, and how they are read back."""

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.runtime.checkpoint import weights_sha256
from utils.runtime.errors import UserError

Forward = Callable[[Tensor], Tensor]  # uint8 [B, H, W, 3] -> logits float32 [B, C], both on the CPU


class Deployable(nn.Module):
    """A network with its normalisation: raw pixels uint8 [B, H, W, 3] in, logits float32 [B, C] out."""

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]):
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean))  # per channel, on the scale 0 to 255
        self.register_buffer("std", torch.tensor(std))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(((images.float() - self.mean) / self.std).permute(0, 3, 1, 2))


def trace(deployable: Deployable, size: int) -> torch.export.ExportedProgram:
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)  # a batch of one would be taken for a constant
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(deployable, (example,), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine have no business in a published file
    return program


def _safetensors(network: nn.Module, _program: Any, checkpoint: dict[str, Any]) -> bytes:
    from safetensors.torch import save

    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}  # it refuses shared memory
    metadata = {"format": "pt", "model_name": checkpoint["model_name"], "sha256": checkpoint["sha256"]}
    data = save(weights, metadata)
    # A length of 8 bytes, a header in JSON, the tensors. The metadata come in another order each time.
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size]) | {"__metadata__": metadata}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # as `save` aligns the tensors
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def _onnx(_network: nn.Module, program: torch.export.ExportedProgram, _checkpoint: dict[str, Any]) -> bytes:
    names = {"input_names": ["images"], "output_names": ["logits"], "dynamic_shapes": ({0: "batch"},)}
    made = torch.onnx.export(program, dynamo=True, external_data=False, verbose=False, **names)
    return made.model_proto.SerializeToString()


def _pt2(_network: nn.Module, program: torch.export.ExportedProgram, _checkpoint: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def _load_safetensors(path: Path, deployable: Deployable, checkpoint: dict[str, Any]) -> Forward:
    from safetensors.torch import load_file

    weights = load_file(path)
    if weights_sha256(weights) != checkpoint["sha256"]:
        raise UserError(f"{path.name} does not hold the weights of the checkpoint: it is not written")
    loaded = copy.deepcopy(deployable)
    loaded.network.load_state_dict(weights)
    return loaded


def _load_onnx(path: Path, _deployable: Deployable, _checkpoint: dict[str, Any]) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # its own default ignores OMP_NUM_THREADS
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _load_pt2(path: Path, _deployable: Deployable, _checkpoint: dict[str, Any]) -> Forward:
    return torch.export.load(path).module()


# ending of the file -> (how its bytes are made, how it is read back, what is in it)
FORMATS = {
    ".safetensors": (_safetensors, _load_safetensors, "state_dict of the network alone, for normalised images"),
    ".onnx": (_onnx, _load_onnx, "ONNX graph with the normalisation, for raw pixels"),
    ".pt2": (_pt2, _load_pt2, "torch.export program with the normalisation, for raw pixels"),
}
