"""The command in its own process, as started by a shell: fast, without importing torch, with accurate help."""

import shlex
import subprocess
import sys

import pytest

import quantlab
from quantlab.config.catalog import groups, headline, options

HEAVY = ("torch", "diffusers", "timm")


def start(*words, cwd):
    """(exit code, stdout, stderr); fails where one of the heavy packages was imported."""
    code = (
        "import sys; from quantlab.cli.main import main; code = main(sys.argv[1:]); "
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.stderr.endswith("[]\n"), done.stderr
    return done.returncode, done.stdout, done.stderr.removesuffix("[]\n")


def test_help_lists_every_option_with_its_line(tmp_path):
    code, out, err = start("--help", cwd=tmp_path)
    assert (code, err) == (0, "")
    for group in groups():
        whole = start("--help", group, cwd=tmp_path)[1]
        for name, path in options(group).items():
            assert any(line.split() == [name, *headline(path).split()] for line in whole.splitlines()), name
            if "/" not in name:
                assert any(line.split() == [name, *headline(path).split()] for line in out.splitlines()), name
    assert len(out.splitlines()) < 150 and "all listed by quantlab --help experiment; one is" in out
    assert "_diffusion_ptq" not in out
    assert out.count("\n  quantlab ") == 4
    for part in ("seed=0", "output_dir", "resume=null", "exit codes: 0 done", "README.md"):
        assert part in out


def test_version(tmp_path):
    assert start("--version", cwd=tmp_path) == (0, f"quantlab {quantlab.__version__}\n", "")


@pytest.mark.parametrize("words", [["--nope"], ["method=acuquant", "seed=-1"]])
def test_a_bad_request_is_answered_without_torch(tmp_path, words):
    code, out, err = start(*words, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert [line.split(": ")[:2] for line in err.splitlines()] == [["quantlab", "error"]] * len(words)


def test_the_whole_config_can_be_asked_for(tmp_path):
    code, out, _ = start("--cfg", "job", "method=ptq", cwd=tmp_path)
    assert code == 0 and "reconstruction: block" in out and list(tmp_path.iterdir()) == []


def test_python_m(tmp_path):
    command = [sys.executable, "-m", "quantlab.cli", "seed=x"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "quantlab: error: seed: got 'x', allowed: an integer from 0 to 4294967295; type seed=0\n"


@pytest.mark.parametrize(
    "words, buffered",
    [(["--help"], True), (["--help", "experiment"], True), (["--help"], False), (["--cfg", "job"], True)],
)
def test_a_reader_that_goes_away_is_no_error(tmp_path, words, buffered):
    python = shlex.quote(sys.executable)
    line = f"{python} {'' if buffered else '-u'} -m quantlab.cli {' '.join(words)}"
    command = f"{line} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
