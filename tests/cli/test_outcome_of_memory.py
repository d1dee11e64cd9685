"""Too little memory is said in a line, wherever it shows."""

import pytest

from quantlab.cli.outcome import outcome_of


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 154618822656 bytes"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_a_line_with_a_remedy(error):
    outcome = outcome_of(error)
    assert outcome.exit_code == 1 and outcome.lines[0].startswith("error: not enough memory")
    assert "type smaller sizes" in outcome.lines[0]
    assert "not enough memory" not in outcome_of(RuntimeError("shapes do not fit")).lines[0]
