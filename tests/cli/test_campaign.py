"""Whatever stands in a file, or on the command line, ends a command with 0, 2 or 3, and never as a defect.

Each test changes one kind of file at random places and gives it to a command that starts no network. While they run, a
process may take 2 GB more than it has, so a size in a file that is believed shows as a defect, too.
"""

import contextlib
import json
import os
import resource
from pathlib import Path

import nibabel as nib
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchbench.cli import main as cli_main
from benchbench.core import records as rec
from tests.data_sets import decathlon, nnunet
from tests.report_examples import failed, finished, predicted

ROOT = Path(__file__).resolve().parents[2]
_MORE_BYTES = 2 * 10**9


def campaign(inputs):
    """The same inputs each time; BENCHBENCH_CAMPAIGN is a factor for as many others by chance."""
    factor = int(os.environ.get("BENCHBENCH_CAMPAIGN", "0"))
    return settings(
        max_examples=inputs * max(factor, 1),
        derandomize=not factor,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(autouse=True)
def within_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCHBENCH_CACHE", str(tmp_path / "cache"))
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + _MORE_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def ends_well(capfd, monkeypatch):
    """Runs a command; it may start no process."""

    def refuse(*_, **__):
        raise AssertionError("a process was to be started")

    monkeypatch.setattr("subprocess.Popen", refuse)

    def run(*arguments, codes=(0, 2, 3)):
        with contextlib.suppress(SystemExit):
            code = cli_main.main(list(arguments))
            told = capfd.readouterr().err
            assert code in codes, (code, told)
            assert "Traceback" not in told
            if code == 2:
                assert len([line for line in told.splitlines() if line.startswith("bench")]) <= 1
            return code
        raise AssertionError("the command did not return its code")

    return run


DEEP = "@deep@"
numbers = st.sampled_from([0, -1, 1, 2, 3, 255, 2**31, 2**62, 2**63, 10**400, 0.5, -0.5, 1e-300, 1e300, 1e9])
odd = st.sampled_from([float("nan"), float("inf"), float("-inf"), None, True, False, DEEP])
texts = st.sampled_from(
    ["", "x", "\ud800", "é", "../../etc/passwd", "/", "\0", "a\nb", "x" * 5000, "0", "1e5", "%s{}<b>"]
)
values = st.recursive(
    numbers | odd | texts | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)


def places(plain, way=()):
    """Every place in a document, the whole of it left out."""
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in items:
        yield (*way, key)
        yield from places(value, (*way, key))


@st.composite
def changed(draw, plain):
    """A document of which one to three places hold something else, or nothing."""
    copy = json.loads(json.dumps(plain))
    for _ in range(draw(st.integers(1, 3))):
        ways = list(places(copy))
        if not ways:
            break
        *way, last = draw(st.sampled_from(ways))
        inner = copy
        for step in way:
            inner = inner[step]
        if draw(st.integers(0, 7)) == 0:
            del inner[last]
        else:
            inner[last] = draw(alike(inner[last]) | values)
    return copy


def alike(value):
    """Others of the type of a value, which a reader of types lets through."""
    if isinstance(value, bool) or value is None:
        return st.sampled_from([True, False, None])
    if isinstance(value, int):
        return st.sampled_from([0, 1, 2, 3, 255, 2**31, 2**62, -1])
    if isinstance(value, float):
        return st.sampled_from([0.0, -1.0, 1e-300, 1e300, 0.5, 7])
    if isinstance(value, str):
        return st.sampled_from(["", "/", "\0", "a\nb", "x" * 5000, "1e5", "%s{}<b>", "\u202e", "ok", "../x"])
    return st.just([]) if isinstance(value, list) else st.just({})


def as_json(plain):
    return json.dumps(plain).replace(f'"{DEEP}"', "[" * 3000 + "]" * 3000).encode()


@st.composite
def files(draw, plain, write=as_json):
    """The bytes of a changed document; now and then cut off, or with a byte that is another."""
    content = write(draw(changed(plain)))
    how = draw(st.integers(0, 9))
    place = draw(st.integers(0, max(len(content) - 1, 0)))
    if how == 0:
        return content[:place]
    if how == 1:
        return content[:place] + draw(st.binary(min_size=1, max_size=2)) + content[place + 1 :]
    return content


def as_toml(plain):
    """Its lines, with values as JSON has them; most are TOML."""
    lines = [f"{json.dumps(key)} = {toml_value(value)}" for key, value in plain.items() if not is_table(value)]
    for key, value in plain.items():
        if is_table(value):
            lines += [f"[{json.dumps(key)}]", *(f"{json.dumps(k)} = {toml_value(v)}" for k, v in value.items())]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def is_table(value):
    return isinstance(value, dict)


def toml_value(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if value == DEEP:
        return "[" * 3000 + "]" * 3000
    return {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf", "null": "2020-01-01"}.get(
        text := json.dumps(value), text
    )


# -- records

LINES = [finished("slim_unetr"), finished("unetr"), failed("nnunet"), predicted("slim_unetr")]
RECORDS = [rec.record_to_json(record) for record in LINES]


def keep(folder, line):
    folder.mkdir(exist_ok=True)
    others = [json.dumps(one).encode() for one in RECORDS[1:]]
    (folder / "records.jsonl").write_bytes(b"\n".join([line.replace(b"\n", b" "), *others]) + b"\n")
    return str(folder)


@campaign(60)
@given(line=files(RECORDS[0]))
def test_a_page_of_any_records(tmp_path, ends_well, line):
    ends_well("report", keep(tmp_path / "a", line))


@campaign(60)
@given(line=files(RECORDS[0]), kind=st.sampled_from(["csv", "markdown", "latex"]))
def test_a_table_of_any_records(tmp_path, ends_well, line, kind):
    ends_well("report", keep(tmp_path / "a", line), "--format", kind)


@campaign(60)
@given(line=files(RECORDS[0]))
def test_a_comparison_of_any_records(tmp_path, ends_well, line):
    whole = keep(tmp_path / "b", as_json(RECORDS[0]))
    ends_well("compare", whole, keep(tmp_path / "a", line), "--anyway", codes=(0, 1, 2, 3))


ARTIFACTS = {
    "layers": {"modules": [{"module": "a.b", "kind": "conv", "params": 5, "macs": 7}] * 2},
    "cases": {"ids": ["a", "b"], "values": {"dice": [0.5, None]}},
    "training": {
        "budget": "20 min", "steps_done": 10, "curve": [[1, 2.0], [5, 1.0], [10, 0.5]], "validation": [[10, 0.8]]
    },
}  # fmt: skip


@campaign(30)
@given(data=st.data(), kind=st.sampled_from(sorted(ARTIFACTS)))
def test_a_page_of_any_artifacts(tmp_path, ends_well, data, kind):
    import hashlib

    content = data.draw(files(ARTIFACTS[kind]))
    folder = tmp_path / "a"
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    (folder / "artifacts" / "one.json").write_bytes(content)
    kept = {"kind": kind, "path": "artifacts/one.json", "sha256": hashlib.sha256(content).hexdigest(), "title": ""}
    assert ends_well("report", keep(folder, as_json({**RECORDS[0], "artifacts": [kept]}))) == 0


# -- weights and cards

SIDECARS = [json.loads(path.read_text()) for path in sorted((ROOT / "models" / "checkpoints").glob("*hippo*.json"))]
for one in SIDECARS:
    one["train"] = {key: value for key, value in one["train"].items() if key in ("cases", "fold", "seconds")}
    one["train"]["cases"] = one["train"]["cases"][:2]


@campaign(60)
@given(content=st.sampled_from(SIDECARS).flatmap(files))
def test_any_sidecar(tmp_path, ends_well, content):
    (tmp_path / "w.json").write_bytes(content)
    (tmp_path / "w.safetensors").write_bytes(b"")
    assert ends_well("run", "--models", "w.safetensors", "--device", "nowhere.toml") == 2
    assert ends_well("predict", "slim_unetr", "--checkpoint", "w.safetensors", "--input", "x", "--output", "y.nii") == 2


CARD = {
    "name": "m", "title": "M", "arch": "benchbench.models.slim_unetr:SlimUNETR", "in_channels": 4, "out_channels": 3,
    "spatial": [64, 64, 64], "licence": "MIT", "kwargs": {"channels": [24, 48, 60], "depth": 1},
    "published": {"macs": 1e9}, "paper": {"title": "t", "year": 2023},
}  # fmt: skip


@campaign(60)
@given(content=files(CARD, as_toml))
def test_any_card(tmp_path, ends_well, content):
    (tmp_path / "m.toml").write_bytes(content)
    assert ends_well("run", "--models", "m.toml", "--device", "nowhere.toml") == 2
    assert ends_well("train", "m.toml", "--data", "nowhere") == 2


# -- devices

PROFILE = {
    "name": "p", "title": "P", "kind": "gpu", "core": "sm_87", "bandwidth_bytes_per_s": 1e11, "reserve_bytes": 1000,
    "memory_bytes": 8_000_000_000, "launch_s": 1e-5, "peaks": {"fp32": 1e12, "fp16": 2e12},
    "sources": dict.fromkeys(
        ("bandwidth_bytes_per_s", "reserve_bytes", "memory_bytes", "launch_s", "fp32", "fp16"), "a data sheet"
    ),
}  # fmt: skip


@campaign(60)
@given(content=files(PROFILE, as_toml))
def test_any_profile(tmp_path, ends_well, content):
    (tmp_path / "p.toml").write_bytes(content)
    assert ends_well("run", "--models", "slim_unetr", "--device", "p.toml", "--data", "nowhere") == 2


HOSTS = {"box": {"address": "10.0.0.1", "user": "me", "port": 22, "python": "python3", "folder": "~/b"}}


@campaign(40)
@given(content=files(HOSTS, as_toml))
def test_any_list_of_hosts(tmp_path, ends_well, content):
    Path(os.environ["BENCHBENCH_CONFIG"]).write_bytes(content)
    ends_well("list", "devices")
    ends_well("devices", "remove", "bax")


CONFIG = {"models": "nowhere", "device": "cpu", "spatial": [64, 64, 64], "batch-size": 1, "threads": 1, "dtype": "fp32"}


@campaign(40)
@given(content=files(CONFIG, as_toml))
def test_any_config(tmp_path, ends_well, content):
    (tmp_path / "c.toml").write_bytes(content)
    assert ends_well("run", "--config", "c.toml", "--device", "nowhere.toml") == 2


# -- data


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    made = [decathlon(root / "decathlon", count=2), nnunet(root / "nnunet", count=2)]
    return {folder: json.loads((folder / "dataset.json").read_text()) for folder in made}


@campaign(60)
@given(data=st.data(), which=st.integers(0, 1))
def test_any_description_of_a_data_set(ends_well, sets, data, which):
    folder, plain = list(sets.items())[which]
    (folder / "dataset.json").write_bytes(data.draw(files(plain)))
    ends_well("data", "check", str(folder))


@campaign(60)
@given(place=st.integers(0, 347), other=st.binary(min_size=1, max_size=8), label=st.booleans())
def test_any_header_of_an_image(tmp_path, ends_well, place, other, label):
    folder = tmp_path / "d"
    if not folder.exists():
        decathlon(folder, count=2)
    path = folder / ("labelsTr" if label else "imagesTr") / "case_000.nii.gz"
    whole = path.read_bytes()
    raw = bytearray(nib.load(path).to_bytes())
    raw[place : place + len(other)] = other
    import gzip

    path.write_bytes(gzip.compress(bytes(raw), 1))
    try:
        ends_well("data", "check", str(folder))
    finally:
        path.write_bytes(whole)


# -- the command line

budgets = st.from_regex(r"[+-]?[0-9]{0,5}[.,]?[0-9]{0,3}(e[+-]?[0-9]{1,4})? ?[A-Za-zµ]{0,6}", fullmatch=True) | texts
no_flag = budgets.filter(lambda text: not text.startswith("-"))


@campaign(80)
@given(text=no_flag)
def test_any_budget(ends_well, text):
    assert ends_well("train", "slim_unetr", "--data", "nowhere", "--budget", text) == 2
    assert ends_well("search", "--data", "nowhere", "--budget", text) == 2
    assert ends_well("run", "--models", "slim_unetr", "--device", "nowhere.toml", "--protocol", text) == 2


paths = (st.text(max_size=12) | st.binary(max_size=12).map(os.fsdecode) | texts).filter(
    lambda text: not text.startswith("-") and not {"\ud800", "\0"} & set(text)  # no command line can hold these
)


@campaign(60)
@given(path=paths)
def test_any_path(ends_well, path):
    assert ends_well("compare", f"no/{path}", "b") == 2
    assert ends_well("report", f"no/{path}") == 2
    assert ends_well("data", "check", f"no/{path}") == 2
    assert ends_well("run", "--models", f"no{path}.safetensors", "--device", "nowhere.toml") == 2
    assert ends_well("predict", "unet", "--checkpoint", f"no{path}.json", "--input", "x", "--output", "y.nii") == 2
