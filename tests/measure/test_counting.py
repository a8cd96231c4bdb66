"""Operators that PyTorch's counter lacks, and networks whose count fails: exact, named, or measured without it."""

import json
import threading

import pytest
import torch
from torch import Tensor, nn

import benchbench
from benchbench.cli import main as cli_main
from benchbench.core import records as rec
from benchbench.measure.flops.audit import audit
from benchbench.measure.flops.graph import MOST_RUN, measure_cost
from benchbench.runner import worker
from benchbench.runner.job import Job


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


N, C = 2**3, 4  # voxels and channels of the input
F = nn.functional
BY_HAND = {
    "bilinear": (lambda x: F.bilinear(x.flatten(2).mT, x.flatten(2).mT, torch.zeros(5, C, C, device=x.device)), N * 80),
    "mv": (lambda x: x.flatten(2)[0].T.mv(x[0, :, 0, 0, 0]), N * C),
    "dot": (lambda x: x.flatten().dot(x.flatten()), N * C),
    "addmv": (lambda x: torch.addmv(x.flatten(2)[0, 0], x.flatten(2)[0].T, x[0, :, 0, 0, 0]), N * C),
    "addbmm": (lambda x: torch.addbmm(x.new_zeros(N, N), x.flatten(2).mT, x.flatten(2)), N * N * C),
    "cdist": (lambda x: torch.cdist(x.flatten(2).mT, x.flatten(2).mT), N * N * C),
    "cdist, p=1": (lambda x: torch.cdist(x.flatten(2).mT, x.flatten(2).mT, p=1.0), N * N * C),
    "pdist": (lambda x: F.pdist(x.flatten(2)[0].T), N * (N - 1) // 2 * C),
    "conv_tbc": (lambda x: torch.conv_tbc(x[0].flatten(1).T[:, None], x.new_zeros(3, C, 5), x.new_zeros(5), 1), N * 60),
    "complex product": (lambda x: x.flatten(2).cfloat().mT @ x.flatten(2).cfloat(), 4 * N * N * C),
    "complex dot": (lambda x: torch.vdot(x.flatten().cfloat(), x.flatten().cfloat()), 4 * N * C),
    "einsum of vectors": (lambda x: torch.einsum("i,i->", x.flatten(), x.flatten()), N * C),
    "elementwise": (lambda x: torch.outer(x.flatten(), x.flatten()).cumsum(0), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_products_that_pytorchs_counter_lacks_are_counted_as_by_hand(name):
    function, macs = BY_HAND[name]
    cost = measure_cost(Call(function), (1, C, 2, 2, 2))
    assert (cost.macs, cost.uncounted) == (macs, {})
    assert sum(o.macs for o in cost.operators) == macs
    headline = audit(Call(function), (1, C, 2, 2, 2)).counter("torch")
    assert (headline.macs, headline.uncounted) == (macs, ())


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(C, 5, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.rnn(x.flatten(2).mT)[0]


def test_an_lstm_counts_alike_fused_or_not():
    cost = measure_cost(Recurrent(), (1, C, 2, 2, 2))
    assert cost.macs == sum(o.macs for o in cost.operators) == N * 2 * 4 * 5 * (C + 5)


@torch.library.custom_op("benchbench_tests::scan", mutates_args=())
def scan(x: Tensor, w: Tensor) -> Tensor:
    return torch.einsum("bcdhw,kc->bkdhw", x, w)


@scan.register_fake
def _(x, w):
    return x.new_empty(x.shape[0], w.shape[0], *x.shape[2:])


class Scan(nn.Module):
    def __init__(self, in_channels=4, out_channels=3):
        super().__init__()
        self.mix = nn.Conv3d(in_channels, in_channels, 1)
        self.w = nn.Parameter(torch.randn(out_channels, in_channels))

    def forward(self, x):
        return scan(self.mix(x), self.w)


def test_an_operator_of_ones_own_is_named_and_the_count_is_a_lower_bound():
    found = {m.metric: m for m in measure_cost(Scan(), (1, 4, 2, 2, 2)).measurements()}
    assert found["macs"].value == N * 16
    assert found["macs"].bound == found["flops"].bound == "at_least"
    assert "not counted: benchbench_tests::scan (1 call)" in found["macs"].method
    assert found["params"].bound is None


def test_a_transform_without_an_agreed_count_is_named():
    cost = measure_cost(Call(lambda x: torch.fft.fftn(x).real), (1, 4, 2, 2, 2))
    assert cost.uncounted == {"_fft_c2c": 1}


def test_an_audit_never_calls_a_lower_bound_exact():
    result = audit(Scan(), (1, 4, 2, 2, 2), published={"macs": N * 16.0})
    assert result.counter("torch").uncounted == ("benchbench_tests::scan",)
    assert "benchbench_tests::scan" in result.verdict
    assert "lower bound" in result.verdict
    assert "within 1 %" not in result.verdict
    assert "true count" not in result.published.macs_why
    assert {m.metric: m.bound for m in result.measurements()}["macs"] == "at_least"


def test_the_audits_tables_and_page_name_what_is_not_counted(capsys, tmp_path):
    models = ("--models", "tests.measure.test_counting:Scan", "--input", "1", "4", "2", "2", "2")
    assert cli_main.main(["audit", "-q", *models, "--by-operator", "--out", str(tmp_path / "a")]) == 0
    out = capsys.readouterr().out
    assert "benchbench_tests::scan" in out
    assert "register_flop_formula" in out
    assert "within 1 %" not in out
    assert "benchbench_tests::scan" in (tmp_path / "a" / "report.html").read_text()


class MakesCpuTensor(nn.Module):
    def __init__(self, in_channels=1, out_channels=2):
        super().__init__()
        self.a = nn.Conv3d(in_channels, out_channels, 3, padding=1)

    def forward(self, x):
        return self.a(x + torch.linspace(0, 1, x.shape[2]).view(1, 1, -1, 1, 1))


class Lazy(nn.Module):
    def __init__(self, in_channels=1, out_channels=2):
        super().__init__()
        self.a = nn.LazyConv3d(out_channels, 3, padding=1)

    def forward(self, x):
        return self.a(x)


class Locks(MakesCpuTensor):
    def __init__(self, in_channels=1, out_channels=2):
        super().__init__(in_channels, out_channels)
        self.lock = threading.Lock()

    def forward(self, x):
        with self.lock:
            return self.a(x)


class Selects(MakesCpuTensor):
    def forward(self, x):
        return self.a(x) + (x > 0).nonzero().float().mean()


class Quantised(nn.Module):
    def __init__(self, in_channels=1, out_channels=2):
        super().__init__()
        plain = nn.Sequential(nn.Linear(in_channels * 27, out_channels))
        self.l = torch.ao.quantization.quantize_dynamic(plain, {nn.Linear}, dtype=torch.qint8)

    def forward(self, x):
        patches = F.pad(x, (1,) * 6).unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1)
        return self.l(patches[:, 0].flatten(4)).movedim(-1, 1)


@pytest.mark.filterwarnings("ignore")
def test_packed_weights_are_not_among_the_parameters_and_that_is_said():
    params = measure_cost(Quantised(), (1, 1, 4, 4, 4)).measurements()[0]
    assert (params.value, params.bound) == (0, "at_least")
    assert "without the packed weights of 1 quantized layer" in params.method


ODD = (MakesCpuTensor, Lazy, Locks, Selects, Quantised)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", ODD)
def test_a_network_that_does_not_run_without_values_is_counted_all_the_same(make):
    module = make()
    before = {key: None if torch.nn.parameter.is_lazy(v) else v.clone() for key, v in module.named_parameters()}
    cost = measure_cost(module, (1, 1, 4, 4, 4))
    assert (cost.macs, cost.uncounted) == (4**3 * 2 * 27, {})
    assert cost.params == (0 if make is Quantised else 56)
    assert module.training
    assert all(v is None or torch.equal(v, dict(module.named_parameters())[key]) for key, v in before.items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", ODD)
def test_the_counting_process_gives_a_cost_for_it(make):
    spec = rec.ModelSpec(
        name="odd", arch=f"tests.measure.test_counting:{make.__name__}", kwargs={}, in_channels=1, out_channels=2
    )
    said = []
    worker.answer(
        {"task": "count", "jobs": [rec.to_json(Job(model=spec, workload=rec.Workload(spatial=(4, 4, 4))))]}, said.append
    )
    assert [event["event"] for event in said] == ["begin", "cost"]
    found = {m["metric"]: m["value"] for m in said[1]["measurements"]}
    assert found["macs"] == 4**3 * 2 * 27
    assert found["tensor_memory_bytes"] > 0


def test_what_is_too_large_to_be_run_for_its_count_is_measured_without_it(monkeypatch):
    monkeypatch.setattr("benchbench.measure.flops.graph.MOST_RUN", 10)
    found = benchbench.measure_module(Selects(), (1, 1, 4, 4, 4))
    macs = next(m for m in found.measurements if m.metric == "macs")
    assert macs.value is None
    assert "too large to run it" in macs.reason
    assert found.value("params") == 56
    assert found.value("latency_s") > 0
    assert "too large to run it" in str(found)
    assert MOST_RUN > 10


def test_a_row_without_a_count_is_measured_and_the_page_says_why(tmp_path, monkeypatch, capsys):
    models = ("--models", "tests.measure.test_counting:TooLarge", "--data", "none", "--no-noise")
    cut = ("--protocol", "quick,timed_s=0.05,cell_s=1", "--out", str(tmp_path / "r"), "--format", "json")
    assert cli_main.main(["run", "-q", *models, "--spatial", "8", "8", "8", *cut]) == 0
    record = json.loads((tmp_path / "r" / "records.jsonl").read_text())
    found = {m["metric"]: m for m in record["measurements"]}
    assert record["status"] == "ok"
    assert found["latency_s"]["value"] > 0
    assert found["macs"]["value"] is None
    assert "cannot be counted" in found["macs"]["reason"]
    assert "cannot be counted" in (tmp_path / "r" / "report.html").read_text()
    capsys.readouterr()


class TooLarge(nn.Module):
    """Refuses to run where it is counted: the process that counts is the one without a `ModelRun`."""

    def __init__(self, in_channels=1, out_channels=2):
        super().__init__()
        self.a = nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, x):
        import sys

        if "benchbench.runner.model_run" not in sys.modules:
            raise MemoryError
        return self.a(x)


def test_a_step_that_cannot_be_forecast_keeps_no_network_from_being_trained():
    spec = rec.ModelSpec(
        name="odd", arch="tests.measure.test_counting:Selects", kwargs={}, in_channels=1, out_channels=2
    )
    said = []
    worker.answer(
        {
            "task": "count",
            "jobs": [rec.to_json(Job(model=spec, workload=rec.Workload(phase="train", spatial=(4, 4, 4))))],
        },
        said.append,
    )
    found = {m["metric"]: m for m in said[1]["measurements"]}
    assert found["train_tensor_memory_bytes"]["value"] is None
    assert found["train_tensor_memory_bytes"]["reason"]
    assert found["macs"]["value"] == 4**3 * 2 * 27
