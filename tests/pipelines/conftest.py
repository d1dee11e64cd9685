"""Tiny pipelines, each saved once."""

import pytest


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory):
    """pipelines(kind): the directory of that pipeline."""
    pytest.importorskip("transformers", reason="text encoders need transformers (pip install quantlab[pipelines])")
    import tiny_pipelines

    folder, made = tmp_path_factory.mktemp("pipelines"), {}

    def get(kind):
        if kind not in made:
            made[kind] = tiny_pipelines.save(kind, folder)
        return made[kind]

    return get
