"""Every way to have benchbench (clone, editable, wheel) gives the same package, and start-up stays light."""

import dataclasses
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import benchbench
from benchbench.core.records import METRIC_UNITS, Artifact, Device, Measurement, ModelSpec, Record, Workload

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CARDS = sorted(path.stem for path in (ROOT / "models" / "cards").glob("*.toml"))
FIRST = ["python3 -m venv .venv && .venv/bin/pip install -c constraints.txt .", ".venv/bin/bench run"]
SECOND = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt tox && .venv/bin/tox"


def run(*command: object, cwd: Path) -> str:
    """Standard output of a command that has to succeed, without this clone on its path."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PIP_CONSTRAINT")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this tree, links as links, that builds may write into."""
    folder = tmp_path_factory.mktemp("clone") / "benchbench"
    passed_over = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "local", "reports")
    shutil.copytree(ROOT, folder, symlinks=True, ignore=passed_over)
    machine = folder / "results" / "reference" / "some-machine"
    machine.mkdir(parents=True)
    for name in ("machine.json", "cpu.jsonl", "picture.png"):
        (machine / name).write_text("")
    return folder


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run(*pip, "--wheel-dir", out, clone, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A virtual environment that sees the packages of this one, but not what is on this one's path otherwise."""
    folder = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=tmp_path)
    python = folder / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    outer = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(site) / "outer.pth").write_text("\n".join(sorted(outer)) + "\n")
    return python


def install(venv: Path, *what: object) -> None:
    pip = [sys.executable, "-m", "pip", "--python", venv, "install", "--quiet", "--no-deps", "--ignore-installed"]
    run(*pip, "--no-build-isolation", *what, cwd=venv.parent)


def files_below(folder: Path) -> set[str]:
    return {
        str(Path(parent, name).relative_to(folder.parent))
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if "__pycache__" not in parent
    }


@pytest.mark.install
def test_the_wheel_holds_every_file_of_the_package_and_of_the_reference_only_records(clone: Path, wheel: Path) -> None:
    entries = zipfile.ZipFile(wheel).infolist()
    held = {entry.filename for entry in entries if ".dist-info/" not in entry.filename}
    outside = {name for name in files_below(clone / "benchbench") if name.startswith("benchbench/reference/")}
    records = {name for name in outside if name.endswith(".jsonl")}
    assert held == (files_below(clone / "benchbench") - outside) | records
    assert "benchbench/reference/some-machine/cpu.jsonl" in held
    assert "benchbench/models/slim_unetr.py" in held
    assert not any(stat.S_ISLNK(entry.external_attr >> 16) for entry in entries)


@pytest.mark.install
def test_the_wheel_installs_one_top_level_name_and_the_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"benchbench"}
    assert {Path(name).name for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}


@pytest.mark.install
def test_an_installed_wheel_has_the_command_the_zoo_and_its_cards(wheel: Path, venv: Path, tmp_path: Path) -> None:
    install(venv, wheel)
    assert "usage: bench" in run(venv.parent / "bench", "--help", cwd=tmp_path)
    listed = run(venv.parent / "bench", "list", "models", cwd=tmp_path)
    assert all(name in listed for name in CARDS)
    where = run(venv, "-c", "import benchbench.models.slim_unetr as m; print(m.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(venv.parents[1])


@pytest.mark.install
def test_an_editable_install_uses_the_files_of_the_clone(clone: Path, venv: Path, tmp_path: Path) -> None:
    install(venv, "--editable", clone)
    assert "usage: bench" in run(venv.parent / "bench", "--help", cwd=tmp_path)
    where = run(venv, "-c", "import benchbench.models.slim_unetr as m; print(m.__file__)", cwd=tmp_path)
    assert Path(where.strip()).resolve() == (clone / "models" / "slim_unetr.py").resolve()
    names = run(venv, "-c", "import benchbench, json; print(json.dumps(benchbench.list_models()))", cwd=tmp_path)
    assert json.loads(names) == CARDS


@pytest.mark.install
def test_a_clone_runs_without_being_installed(clone: Path, venv: Path) -> None:
    assert "usage: bench" in run(venv, "-m", "benchbench", "--help", cwd=clone)


@pytest.mark.parametrize(
    "code",
    [
        "import benchbench",
        "import benchbench.report",
        "from benchbench.core import records, results, units; from benchbench.zoo import cards; cards.list_models()",
        "from benchbench.cli.main import main; main(['--help'])",
        "from benchbench.cli.main import main; main(['list', 'models'])",
    ],
)
def test_start_up_and_the_report_load_no_torch(code: str) -> None:
    program = f"""
import sys
try:
    {code.replace("; ", chr(10) + "    ")}
except SystemExit as end:
    assert not end.code, end.code
loaded = sorted({{"torch", "monai"}} & set(sys.modules))
assert not loaded, loaded
"""
    run(sys.executable, "-c", program, cwd=ROOT)


def test_ci_and_the_readme_give_the_same_commands() -> None:
    readme = (ROOT / "README.md").read_text().splitlines()
    at = readme.index(FIRST[0])
    assert readme[at : at + 2] == FIRST
    assert SECOND in readme
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == SECOND


def test_every_metric_is_defined_in_the_docs_with_its_unit() -> None:
    rows = [
        line.split("|") for line in (ROOT / "docs" / "metrics.md").read_text().splitlines() if line.startswith("| `")
    ]
    units = {name.strip(" `"): row[2].strip() for row in rows for name in row[1].split(",")}
    assert units.items() >= METRIC_UNITS.items()


def test_every_key_of_a_record_is_in_the_description_of_the_schema() -> None:
    text = (ROOT / "results" / "README.md").read_text()
    named = (Record, ModelSpec, Workload, Device, Measurement, Artifact)
    assert [f.name for item in named for f in dataclasses.fields(item) if f"`{f.name}`" not in text] == []


@pytest.mark.parametrize(
    "page", ["README.md", "results/README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_in_the_docs_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_the_version_is_the_same_wherever_it_stands() -> None:
    version = PROJECT["version"]
    assert benchbench.__version__ == version
    assert re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == version  # type: ignore[index]
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version  # type: ignore[index]


def test_constraints_pin_every_dependency_exactly_and_name_no_host() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins)
    pinned = {re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower() for pin in pins}
    wanted = [*PROJECT["dependencies"], *(d for extra in PROJECT["optional-dependencies"].values() for d in extra)]
    here = {
        re.sub(r"[-_.]+", "-", re.split(r"[<>=!~; \[]", line)[0]).lower()
        for line in wanted
        if "python_version" not in line
    }
    assert here <= pinned
