"""In which data type a processor computes."""

import pytest

from psl_jax.runtime import parallel


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx512f avx512_bf16", True), ("amx_bf16 amx_tile", True), ("avx2 avx512f", False)],
)
def test_bfloat16_is_computed_where_the_processor_has_instructions_for_it(flags, expected):
    assert parallel.multiplies_bfloat16(f"model name: X\nflags\t\t: {flags}\n") == expected


def test_another_processor_computes_in_float32_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(parallel, "multiplies_bfloat16", lambda cpuinfo: False)
    dtype_on = parallel.dtype_on.__wrapped__
    assert dtype_on("cpu", "bfloat16") == "float32"
    assert "no instructions for bfloat16" in capsys.readouterr().err
    assert dtype_on("tpu", "bfloat16") == "bfloat16"
    assert capsys.readouterr().err == ""
