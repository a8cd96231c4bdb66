"""Every network of the zoo as an ONNX file, and its output in ONNX Runtime and OpenVINO."""

import numpy as np
import pytest
import torch

import benchbench
from benchbench.runtimes import openvino
from benchbench.runtimes.onnx_file import MainOutput, write_onnx
from benchbench.runtimes.prepared import INPUT
from benchbench.zoo import build as zoo_build
from tests.small_zoo import small_spec

MOST_ERROR = 3e-4  # of the output's range

#: Sides from which a network takes a patch, where they are not 16.
SMALLEST = {
    **dict.fromkeys(("e1d3", "mednext_b", "mednext_s", "nnunet_v1", "segformer3d", "slim_unetr", "unet_small"), 32),
    **dict.fromkeys(("nnunet", "nnunet_resenc_m", "nnunet_small", "swin_unetr"), 64),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", benchbench.list_models())
def test_a_card_is_exported_and_runs_the_same_in_both_runtimes(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    spec = small_spec(name, in_channels=1, out_channels=2)
    sides = zoo_build.fitting_sides(spec, (SMALLEST.get(name, 16),) * 3)
    torch.manual_seed(0)
    network = zoo_build.build(spec, sides).eval()
    x = torch.randn(1, 1, *sides)
    with torch.inference_mode():
        expected = MainOutput(network)(x).numpy()
    path = tmp_path / "network.onnx"
    write_onnx(network, x, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ov = openvino.library()
    compiled = ov.Core().compile_model(ov.Core().read_model(str(path)), "CPU", openvino.settings("fp32", 1))
    for output in (session.run(None, {INPUT: x.numpy()})[0], np.array(compiled(x.numpy())[0])):
        assert output.shape == expected.shape
        assert np.abs(output - expected).max() <= MOST_ERROR * np.ptp(expected)
