"""`bench` in this process: its exit code, and what it said on stdout and stderr."""

from benchbench.cli import main as cli_main


def bench(capsys, *words):
    code = cli_main.main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def command(name):
    """The same of one command."""
    return lambda capsys, *words: bench(capsys, name, *words)
