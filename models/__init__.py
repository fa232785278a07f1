"""Networks, and the registry that `--teacher` and `--student` choose from."""

from importlib import import_module

# family, a module of this package -> its networks, each a function of that name there. Modules are imported when a
# network is built, so that the names alone (`--help`, checks of flags) cost no import of torch.
FAMILIES = {
    "cnn": "cnn cnn_tiny",
    "vgg": "vgg11_bn vgg13_bn vgg16_bn vgg19_bn vgg8 vgg11 vgg13 vgg16 vgg19",
    "resnet": "resnet8 resnet14 resnet20 resnet32 resnet44 resnet56 resnet110 resnet8x4 resnet32x4",
    "resnet_imagenet": "resnet18 resnet34 resnet50",
    "wide_resnet": "wrn_16_1 wrn_16_2 wrn_40_1 wrn_40_2",
    "mobilenetv2": "mobilenetv2",
    "shufflenetv1": "shufflenetv1",
    "shufflenetv2": "shufflenetv2",
}
MODELS = {name: family for family, names in FAMILIES.items() for name in names.split()}


def build_model(name: str, num_classes: int):
    """Return a new network: float32 images [B, 3, H, W] with H, W >= 32 in, logits [B, num_classes] out.

    Raises KeyError for a name that is not in `MODELS`.
    """
    return getattr(import_module(f"models.{MODELS[name]}"), name)(num_classes)
