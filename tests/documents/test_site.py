"""The pages as a site: every link and anchor holds, and pictures are there."""

import subprocess
import sys

import pytest
from documents import ROOT

pytest.importorskip("material", reason="pip install -e '.[docs]'")


def test_it_builds_without_a_warning(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, accuquant, quantizers = (
        (tmp_path / page / "index.html").read_text() for page in ("", "methods/accuquant", "quantizers")
    )
    assert 'src="results/' in first and 'href="methods/qat/"' in first
    assert 'src="../../results/accuquant_digits_w4a6.png"' in accuquant
    assert 'href="../results/timm_families/"' in quantizers
    assert (tmp_path / "results" / "accuquant_digits_w4a6.png").stat().st_size > 1000
