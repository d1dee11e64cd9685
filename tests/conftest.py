"""Shared fixtures: the command, on models so small that a whole run takes seconds."""

import subprocess
import sys
from contextlib import nullcontext

import pytest
from undrawn import undrawn


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One cache for the session: the tiny full-precision model is trained once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def drawn():
    """With it, `quantlab` draws the figures of its runs, to be looked at."""


@pytest.fixture
def quantlab(cache, capsys, monkeypatch, request):
    """quantlab(word, ...) -> (exit code, stdout, stderr), in this process, with blank figures."""
    from quantlab.cli.main import main

    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def command(*words):
        own_cache = any(word.startswith(("cache_dir=", "resume=", "-h", "--")) for word in words)
        with nullcontext() if "drawn" in request.fixturenames else undrawn():
            code = main([*words] if own_cache else [*words, f"cache_dir={cache}"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def process(cache, tmp_path):
    """process(word, ...) -> Popen of the command in a process of its own, for signals."""
    started = []

    def start(*words, launcher=(sys.executable, "-m", "quantlab.cli")):
        started.append(
            subprocess.Popen(
                [*launcher, *words, f"cache_dir={cache}"],
                cwd=tmp_path,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        return started[-1]

    yield start
    for one in started:
        if one.poll() is None:
            one.kill()
            one.wait()
