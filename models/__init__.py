"""Networks, and the registry that `--teacher` and `--student` choose from."""

from importlib import import_module

# name -> the module of this package with a function of that name. Modules are imported when a network
# is built, so that the names alone (`--help`, checks of flags) cost no import of torch.
MODELS = {
    "vgg11_bn": "vgg",
    "vgg13_bn": "vgg",
    "vgg16_bn": "vgg",
    "vgg19_bn": "vgg",
    "cnn": "cnn",
    "cnn_tiny": "cnn",
}


def build_model(name: str, num_classes: int):
    """Return a new network: float32 images [B, 3, H, W] with H, W >= 32 in, logits [B, num_classes] out.

    Raises KeyError for a name that is not in `MODELS`.
    """
    return getattr(import_module(f"models.{MODELS[name]}"), name)(num_classes)
