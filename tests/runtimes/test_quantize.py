"""int8 whose accuracy is controlled: layers stay in fp32 until no more is lost than was asked for."""

import numpy as np
import pytest
import torch
from torch import nn

from benchbench.core.errors import UnsupportedError
from benchbench.runtimes.onnx_file import write_onnx

pytest.importorskip("nncf")
pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The ONNX file, an input, and the output for it."""
    torch.manual_seed(0)
    layers = [nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 3, 1)]
    module = nn.Sequential(*layers).eval()
    path, x = tmp_path_factory.mktemp("onnx") / "net.onnx", torch.randn(1, 1, 16, 16, 16)
    write_onnx(module, x, path)
    with torch.inference_mode():
        return path, x.numpy(), module(x).numpy()


PATCHES = [np.random.default_rng(i).standard_normal((1, 1, 16, 16, 16), np.float32) for i in range(32)]


def test_layers_are_left_in_fp32_until_little_enough_is_lost(network, tmp_path):
    from benchbench.runtimes.quantize import quantize

    path, x, expected = network
    lost = []

    def validate(forward):
        lost.append(float(np.abs(forward(x) - expected).max() / np.ptp(expected)))
        return 1 - lost[-1]

    quantizers = {}
    for limit in (0.5, 1e-4):
        lost.clear()
        file = quantize(path, tmp_path, "openvino", PATCHES, validate=validate, most_loss=limit)
        assert max(lost) > 1e-3  # the quantized network was judged
        assert lost[-1] < limit
        quantizers[limit] = file.read_text().count('type="FakeQuantize"')
    assert quantizers[0.5] > quantizers[1e-4]


def test_accuracy_control_is_of_openvino_alone(network, tmp_path):
    from benchbench.runtimes.quantize import quantize

    with pytest.raises(UnsupportedError, match="take --runtime openvino"):
        quantize(network[0], tmp_path, "onnxruntime", PATCHES, validate=lambda _: 1.0, most_loss=0.1)
