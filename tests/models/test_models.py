import pytest
import torch

from models import MODELS, build_model


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [("vgg19_bn", 10, 20_035_018), ("cnn", 10, 288_746), ("vgg19_bn", 100, 20_081_188), ("cnn", 100, 300_356)],
)
def test_networks_have_the_published_number_of_parameters(name, classes, parameters):
    assert sum(p.numel() for p in build_model(name, classes).parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        *(("resnet20", 0.28), ("resnet56", 0.86), ("resnet110", 1.74), ("resnet8x4", 1.23), ("resnet32x4", 7.43)),
        *(("wrn_16_2", 0.70), ("wrn_40_2", 2.26), ("vgg8", 3.97), ("vgg13", 9.46), ("mobilenetv2", 0.81)),
        *(("shufflenetv1", 0.95), ("shufflenetv2", 1.36)),
        *(("resnet18", 11.22), ("resnet34", 21.33), ("resnet50", 23.71)),
    ],
)
def test_networks_have_the_size_that_published_tables_give_them_for_100_classes(name, millions):
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build_model(name, 100).parameters())
    assert round(parameters / 1e6, 2) == millions


def test_cnn_tiny_is_under_100_000_parameters():
    assert sum(p.numel() for p in build_model("cnn_tiny", 10).parameters()) < 100_000


@pytest.mark.parametrize("name", MODELS)
def test_every_network_takes_images_of_32_and_of_64_pixels(name):
    model = build_model(name, 7).eval()
    for size in (32, 64):
        assert model(torch.zeros(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"vgg8", "vgg11", "vgg13", "vgg16", "vgg19"}))
def test_no_convolution_has_a_bias_that_batch_norm_would_undo(name):
    assert not [
        n
        for n, m in build_model(name, 10).named_modules()
        if isinstance(m, torch.nn.Conv2d) and m.bias is not None
    ]


@pytest.mark.parametrize("name", MODELS)
def test_images_whose_channels_come_last_are_not_laid_out_anew_on_the_way(name):
    model = build_model(name, 7).to(memory_format=torch.channels_last).eval()
    strange = []

    def check(module, _taken, given):
        if given.ndim == 4 and not given.is_contiguous(memory_format=torch.channels_last):
            strange.append(module)

    for module in model.modules():
        module.register_forward_hook(check)
    model(torch.zeros(2, 3, 32, 32).to(memory_format=torch.channels_last))
    assert not strange


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_gets_a_gradient(name):
    model = build_model(name, 10)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_vgg_depths_count_their_layers_with_weights():
    for depth in (11, 13, 16, 19):
        model = build_model(f"vgg{depth}_bn", 10)
        convolutions = sum(isinstance(m, torch.nn.Conv2d) for m in model.modules())
        assert convolutions == depth - 3  # the original has three linear layers behind them
