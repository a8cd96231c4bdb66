"""What may not be read or written is wrong use, told in one line, for each path argument of each command.

Root may read everything, so there a test starts the command without the two capabilities that make it so.
"""

import os
import shutil
import subprocess
import sys

import pytest

from benchbench.core import launch

AS_ROOT = os.name == "posix" and os.geteuid() == 0
LIMITED = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
COMMANDS = [
    "run --models slim_unetr --device rtx-4090 --out no/r",
    "run --models slim_unetr --data no/d",
    "run --models no/net.toml",
    "run --models no/w.safetensors",
    "run --models slim_unetr --config no/c.toml",
    "report no/r",
    "report good --out no/page.html",
    "compare no/a no/b",
    "data check no/d",
    "data list no",
    "data split no",
    "data prepare no",
    "train slim_unetr --data no/d",
    "train slim_unetr --out no/t",
    "compress slim_unetr --checkpoint no/w.safetensors --prune 0.5",
    "predict slim_unetr --checkpoint no/w.safetensors --input no/x.nii.gz --output no/y.nii.gz",
    "calibrate --out no/c.toml",
    "search --resume no/q",
    "search --budget 2GB --out no/q",
    "audit --models slim_unetr --input 1 4 32 32 32 --out no/a",
]


def _possible():
    if not AS_ROOT:
        return os.name == "posix"
    return shutil.which("setpriv") is not None and subprocess.run([*LIMITED, "true"], check=False).returncode == 0


@pytest.mark.skipif(not _possible(), reason="root may read everything, and setpriv cannot take that away here")
def test_no_permission_is_wrong_use_for_each_command(tmp_path):
    (tmp_path / "no").mkdir(mode=0)
    (tmp_path / "good").mkdir()
    # one process for all of them: to start Python costs more than the commands do
    script = (
        "import sys; sys.stderr = sys.stdout\n"
        "from benchbench.cli import main as cli\n"
        "for words in sys.argv[1:]:\n"
        "    print('code', cli.main(words.split()), flush=True)\n"
    )
    start = [*(LIMITED if AS_ROOT else []), sys.executable, "-c", script, *COMMANDS]
    env = launch.environment({"BENCHBENCH_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"})
    try:
        ended = subprocess.run(start, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
    finally:
        (tmp_path / "no").chmod(0o700)
    lines = ended.stdout.splitlines()
    told = {words: lines[2 * i : 2 * i + 2] for i, words in enumerate(COMMANDS)}
    assert {words: code for words, (_, code) in told.items()} == dict.fromkeys(COMMANDS, "code 2"), ended.stdout
    assert all("Permission denied" in line or "cannot be written to" in line for line, _ in told.values())
    assert len(lines) == 2 * len(COMMANDS)
    assert not ended.stderr
