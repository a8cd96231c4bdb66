"""TensorRT without a GPU: what an engine is built with, bound to and calibrated by, on a library that stands for it."""

import contextlib
import ctypes
import dataclasses
import enum
import itertools
import struct
import types

import numpy as np
import pytest
import torch

from benchbench.core import cache
from benchbench.core import records as rec
from benchbench.core.errors import UnsupportedError
from benchbench.runner import prepare
from benchbench.runner.job import Job
from benchbench.runtimes import tensorrt
from benchbench.runtimes.calibration import CalibrationPatches
from benchbench.runtimes.prepared import PreparedError, PreparedNetwork

GPU = "Orin, compute capability 8.7, TensorRT 10.3.0"
CALIBRATION = b"TRT-100300-EntropyCalibration2\nimage: 3c010a14\nnode_conv3d: a:0: 3d0b7086\n"


class DataType(enum.Enum):
    FLOAT, HALF, INT64 = range(3)


class LayerType(enum.Enum):
    CONVOLUTION, NORMALIZATION, REDUCE, CONSTANT, SHAPE, PLUGIN_V2, ELEMENTWISE = range(7)


class Layer:
    def __init__(self, name, kind, *dtypes):
        self.name, self.type, self.precision, self.output_types = name, kind, None, {}
        self.num_outputs = len(dtypes)
        self._dtypes = dtypes

    def get_output(self, index):
        return types.SimpleNamespace(dtype=self._dtypes[index])

    def set_output_type(self, index, dtype):
        self.output_types[index] = dtype


class Network:
    def __init__(self, *layers):
        self.layers, self.num_layers = layers, len(layers)

    def get_layer(self, index):
        return self.layers[index]

    def get_input(self, index):
        return types.SimpleNamespace(shape=(1, 2, 4, 4, 4))


class Base:
    """Of what a user's class derives from."""


class Library:
    """What of `tensorrt` is called, with what was asked of it."""

    __version__ = "10.3.0"
    DataType, LayerType = DataType, LayerType
    BuilderFlag = enum.Enum("BuilderFlag", "FP16 INT8 TF32 OBEY_PRECISION_CONSTRAINTS")
    MemoryPoolType = enum.Enum("MemoryPoolType", "WORKSPACE")
    OnnxParserFlag = enum.Enum("OnnxParserFlag", "NATIVE_INSTANCENORM")
    NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"EXPLICIT_BATCH": 0})
    IGpuAllocator = IInt8EntropyCalibrator2 = Base

    class ILogger:
        Severity = enum.Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")

    def __init__(self, *, parse=True, engine=b"engine"):
        self.parses, self.engine, self.asked = parse, engine, {}
        self.network = Network(Layer("node_instance_norm", LayerType.NORMALIZATION, DataType.FLOAT))

    # -- builder

    def Builder(self, logger):
        self.logger = logger
        return self

    def create_network(self, flags):
        self.asked["network"] = flags
        return self.network

    def OnnxParser(self, network, logger):
        return self

    def parse_from_file(self, path):
        return self.parses

    num_errors = 2

    def get_error(self, index):
        return types.SimpleNamespace(desc=lambda: f"no importer for\n operator {index}")

    def create_builder_config(self):
        return self

    def set_memory_pool_limit(self, pool, size):
        self.asked[pool.name] = size

    def clear_flag(self, flag):
        self.asked.setdefault("cleared", []).append(flag.name)

    def set_flag(self, flag):
        self.asked.setdefault("flags", []).append(flag.name)

    def create_timing_cache(self, content):
        self.asked["timing"] = content
        return types.SimpleNamespace(serialize=lambda: bytearray(content + b"+"))

    def set_timing_cache(self, timing, ignore_mismatch):
        self.timing = timing

    def get_timing_cache(self):
        return self.timing

    def build_serialized_network(self, network, config):
        if self.engine is None:
            self.logger.log(self.ILogger.Severity.WARNING, "slow")
            self.logger.log(self.ILogger.Severity.ERROR, "10: could not find\nany implementation")
        return self.engine

    # -- runtime: an engine that doubles its input

    def Runtime(self, logger):
        return self

    def deserialize_cuda_engine(self, content):
        self.asked["loaded"] = content
        return self if content == b"engine" else None

    def create_execution_context(self):
        self.addresses = {}
        return self

    def get_tensor_shape(self, name):
        return {"image": (1, 2, 4, 4, 4), "logits": (1, 2, 4, 4, 4)}[name]

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        into, out = (
            np.ctypeslib.as_array((ctypes.c_float * 128).from_address(self.addresses[name]))
            for name in ("image", "logits")
        )
        out[:] = 2 * into
        return True


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (4_000_000_000, 8_000_000_000))
    monkeypatch.setattr(tensorrt, "bound", lambda gpu=None: {"made_for": GPU})
    onnx = tmp_path / "export.onnx"
    onnx.write_bytes(b"a network")

    def convert(library, dtype="fp32", patches=None):
        monkeypatch.setattr(tensorrt, "library", lambda: library)
        return tensorrt.convert(onnx, tmp_path / "network.engine", dtype, patches=patches)

    return convert


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        ("fp32", []),
        ("fp16", ["FP16", "OBEY_PRECISION_CONSTRAINTS"]),
        ("int8", ["INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"]),
    ],
)
def test_an_engine_is_built_with_the_flags_of_its_precision(build, dtype, wanted, monkeypatch):
    monkeypatch.setattr(torch, "empty", lambda shape, device: None)
    library = Library()
    patches = CalibrationPatches(data="phantom", spatial=(4, 4, 4), patches=((0, 0),), cases=("a",))
    (engine,) = build(library, dtype, patches if dtype == "int8" else None)
    assert engine.read_bytes() == b"engine"
    assert library.asked["flags"] == ["NATIVE_INSTANCENORM", *wanted]  # of the parser, of the builder
    assert library.asked["cleared"] == [
        "TF32",
    ]
    assert library.asked["WORKSPACE"] == 2_000_000_000
    assert library.asked["network"] == 1  # explicit batch
    assert hasattr(library, "int8_calibrator") == (dtype == "int8")
    assert library.network.layers[0].precision == (None if dtype == "fp32" else DataType.FLOAT)


def test_kernels_are_timed_once_for_a_gpu_and_a_version(build):
    first, second = Library(), Library()
    build(first)
    build(second)
    assert (first.asked["timing"], second.asked["timing"]) == (b"", b"+")
    assert tensorrt.cache_file("timing", GPU) != tensorrt.cache_file("timing", GPU.replace("10.3", "10.4"))


def test_a_network_that_cannot_be_read_or_built_is_refused_in_one_line(build):
    with pytest.raises(UnsupportedError, match=r"cannot read its ONNX file: no importer for operator 0 \(and 1 more\)"):
        build(Library(parse=False))
    with pytest.raises(UnsupportedError, match="cannot build an engine for it: 10: could not find any implementation"):
        build(Library(engine=None))


def test_norms_and_sums_stay_in_fp32_and_nothing_else_does():
    norm = Layer("node_instance_norm_3", LayerType.NORMALIZATION, DataType.FLOAT)
    plugin = Layer("node_InstanceNormalization_12", LayerType.PLUGIN_V2, DataType.HALF)
    total = Layer("node_ReduceMean", LayerType.REDUCE, DataType.FLOAT)
    affine = Layer("node_group_norm", LayerType.ELEMENTWISE, DataType.FLOAT)
    others = [
        Layer("node_conv3d", LayerType.CONVOLUTION, DataType.FLOAT),
        Layer("node_instance_norm_3.scale", LayerType.CONSTANT, DataType.FLOAT),
        Layer("node_layer_norm.shape", LayerType.SHAPE, DataType.INT64),
        Layer("sum of sizes", LayerType.REDUCE, DataType.INT64),
    ]
    network = Network(norm, others[0], plugin, *others[1:], total, affine)
    assert set(tensorrt.keep_in_fp32(network, Library())) == {norm.name, plugin.name, total.name, affine.name}
    for layer in (norm, plugin, total, affine):
        assert (layer.precision, layer.output_types) == (DataType.FLOAT, {0: DataType.FLOAT})
    assert all(layer.precision is None and not layer.output_types for layer in others)


@pytest.mark.parametrize(
    ("version", "dtype", "told"),
    [
        ("8.6.2", "fp32", "TensorRT 8.6.2 is installed, and 10 or newer"),
        ("11.0.0", "fp16", "take --dtype fp32"),
        ("11.0.0", "int8", "or TensorRT 10"),
    ],
)
def test_a_version_that_has_not_what_is_needed_is_refused(version, dtype, told):
    with pytest.raises(UnsupportedError, match=told):
        tensorrt.check_version(version, dtype)


@pytest.mark.parametrize(("version", "dtype"), [("10.3.0", "int8"), ("10.15.1", "fp16"), ("11.4.1", "fp32")])
def test_a_version_that_has_it_is_taken(version, dtype):
    tensorrt.check_version(version, dtype)


def test_scratch_memory_is_half_of_what_is_free_up_to_a_limit():
    assert tensorrt.workspace_bytes(3_000_000_000) == 1_500_000_000
    assert tensorrt.workspace_bytes(80_000_000_000) == 8_000_000_000


# -- calibration


def test_a_calibration_has_its_version_and_a_scale_for_each_tensor():
    version, scales = tensorrt.calibration_scales(CALIBRATION)
    assert version == tensorrt.version_number("10.3.0") == 100300
    assert scales["image"] == struct.unpack("!f", bytes.fromhex("3c010a14"))[0]
    assert list(scales) == ["image", "node_conv3d: a:0"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"TRT-100300-MinMaxCalibration\nimage: 3c010a14\n", CALIBRATION[:-3], CALIBRATION[:31]],
)
def test_what_is_no_whole_calibration_is_neither_read_nor_kept(content, tmp_path):
    with pytest.raises((ValueError, IndexError)):
        tensorrt.calibration_scales(content)
    path = tmp_path / "a.cache"
    tensorrt.keep_calibration(path, content)
    assert not path.exists()
    path.write_bytes(content)
    assert tensorrt.kept_calibration(path, "10.3.0") is None


def test_a_calibration_is_used_again_by_the_version_that_made_it(tmp_path):
    path = tmp_path / "a.cache"
    assert tensorrt.kept_calibration(path, "10.3.0") is None
    tensorrt.keep_calibration(path, CALIBRATION)
    assert tensorrt.kept_calibration(path, "10.3.0") == CALIBRATION
    assert tensorrt.kept_calibration(path, "10.4.0") is None


def test_a_calibration_belongs_to_a_network_and_its_patches(tmp_path):
    def patches(*numbers):
        return CalibrationPatches(data="phantom", spatial=(4, 4, 4), patches=numbers, cases=("a",))

    networks = [tmp_path / name for name in ("a.onnx", "b.onnx")]
    for path in networks:
        path.write_text(path.name)
    found = [
        tensorrt.calibration_file(onnx, those)
        for onnx, those in itertools.product(networks, [patches((0, 0)), patches((0, 0), (0, 1))])
    ]
    assert len(set(found)) == 4
    assert {path.parent for path in found} == {cache.cache_base() / "tensorrt"}
    networks[1].write_text("a.onnx")
    assert tensorrt.calibration_file(networks[1], patches((0, 0))) == found[0]


def test_patches_come_in_batches_of_the_engines_size():
    patches = [np.full((1, 2, 4, 4, 4), i, np.float32) for i in range(5)]
    found = list(tensorrt.batches(iter(patches), 2))
    assert [batch[:, 0, 0, 0, 0].tolist() for batch in found] == [[0, 1], [2, 3], [4, 4]]
    assert len(list(tensorrt.batches(iter(patches), 1))) == 5


def test_the_calibrator_gives_the_address_of_each_patch_until_there_is_none(monkeypatch, tmp_path):
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda shape, device: empty(shape))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    patches = [np.full((1, 2, 4, 4, 4), i, np.float32) for i in (3, 5)]
    calibrator = tensorrt._calibrator(Library(), patches, (1, 2, 4, 4, 4), tmp_path / "a.cache")
    seen = []
    while (addresses := calibrator.get_batch(["image"])) is not None:
        seen.append(ctypes.c_float.from_address(addresses[0]).value)
    assert seen == [3, 5]
    assert calibrator.get_batch_size() == 1
    assert calibrator.read_calibration_cache() is None
    calibrator.write_calibration_cache(memoryview(CALIBRATION))
    assert calibrator.read_calibration_cache() == CALIBRATION


# -- running


@pytest.fixture
def engine(tmp_path, monkeypatch):
    path = tmp_path / "network.engine"
    path.write_bytes(b"engine")
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda shape, device: empty(shape))
    monkeypatch.setattr(torch.cuda, "set_device", lambda gpu: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda gpu: types.SimpleNamespace(cuda_stream=7))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(tensorrt, "library", Library)
    monkeypatch.setattr(tensorrt, "bound", lambda gpu=None: {"made_for": GPU})
    return PreparedNetwork(path=path, runtime="tensorrt", dtype="fp16", input_shape=(1, 2, 4, 4, 4), made_for=GPU)


def test_an_engine_takes_and_gives_arrays_and_leaves_what_it_gave_alone(engine):
    forward = tensorrt.open_file(engine, None, 0)
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 4, 4), np.float32)
    assert np.array_equal(forward(x), 2 * x)
    assert np.array_equal(forward(x + 1), 2 * (x + 1))


@pytest.mark.parametrize(
    "other", [GPU.replace("10.3.0", "10.4.0"), GPU.replace("8.7", "8.6"), tensorrt.made_for("H200", (9, 0), "10.3.0")]
)
def test_an_engine_of_another_gpu_or_version_is_refused(engine, monkeypatch, other):
    monkeypatch.setattr(tensorrt, "bound", lambda gpu=None: {"made_for": other})
    with pytest.raises(PreparedError, match=f"network.engine was made for {GPU}, and this is {other}: export"):
        tensorrt.open_file(engine, None, 0)


def test_an_engine_that_tensorrt_cannot_read_is_refused(engine):
    engine.path.write_bytes(b"torn")
    with pytest.raises(PreparedError, match="cannot be loaded by TensorRT: it gives no reason; export it again"):
        tensorrt.open_file(engine, None, 0)


def test_what_an_engine_is_made_for_names_gpu_capability_and_version():
    assert tensorrt.made_for("Orin", (8, 7), "10.3.0") == GPU


def test_an_engine_of_each_gpu_is_kept_apart(monkeypatch):
    spec = rec.ModelSpec(name="Tiny", arch="tests.tiny_nets:Tiny", kwargs={}, in_channels=4, out_channels=3)
    job = Job(model=spec, workload=rec.Workload(spatial=(8, 8, 8), runtime="tensorrt"), backend="cuda")
    monkeypatch.setattr(tensorrt, "bound", lambda gpu=None: {"made_for": f"GPU {gpu}"})
    keys = {prepare._key(dataclasses.replace(job, gpu=gpu)) for gpu in (0, 1, 0)}
    assert len(keys) == 2
