"""Tiny pipelines, as for tests/pipelines."""

import pytest


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory):
    """pipelines(kind): the directory of that pipeline."""
    pytest.importorskip("transformers", reason="text encoders need transformers")
    import tiny_pipelines

    return lambda kind: tiny_pipelines.save(kind, tmp_path_factory.mktemp("pipelines"))
