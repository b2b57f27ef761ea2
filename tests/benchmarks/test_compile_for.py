"""Programs compiled for accelerators that are not here."""

import importlib.util
import json
import os
import sys

import compiled_text
import places
import programs
import pytest

LIBTPU = os.environ.get("PSL_JAX_LIBTPU", "")  # a folder with libtpu, where it is kept apart
HAS_LIBTPU = bool(LIBTPU) or importlib.util.find_spec("libtpu") is not None
HAS_CUDA = importlib.util.find_spec("jax_cuda13_plugin") is not None

TEXT = """
HloModule jit_step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (state: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %state = (s32[], f32[8,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%state), index=1
  %masked = f32[8,4]{1,0} fusion(%x), kind=kLoop, metadata={op_name="jit(step)/augmentation/mask"}, backend_config={"estimated_cycles":"10"}
  ROOT %next = (s32[], f32[8,4]{1,0}) tuple(%x, %masked)
}

%condition (state: (s32[], f32[8,4])) -> pred[] {
  %state = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %less = pred[] compare(%state, %state), direction=LT
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x.1 = f32[8,4]{1,0:T(8,128)} parameter(0)
  %norm = bf16[8,4]{1,0} fusion(%x.1), kind=kLoop, metadata={op_name="jit(step)/transpose(jvp(batch_norm))/mul"}, backend_config={"estimated_cycles":"7"}
  %start = (s32[], f32[8,4]{1,0}) tuple(%x.1, %x.1)
  %loop = (s32[], f32[8,4]{1,0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %all = f32[8,4]{1,0} all-reduce(%x.1), replica_groups={{0,1}}, to_apply=%add, backend_config={"estimated_cycles":"3"}
}
"""  # noqa: E501


def test_a_programs_text_is_added_up():
    work = compiled_text.read(TEXT)
    assert work.operations == 1 + 5 + 1
    assert work.cycles == 7 + 5 * 10 + 3
    assert work.phases == {"batch_norm": 7, "augmentation": 50, "collectives": 3}
    whole = 8 * 4 * 4
    assert work.bytes_moved == (whole + whole // 2) + 5 * 2 * whole + 2 * whole
    assert work.collectives == {"all-reduce": {"count": 1, "bytes": whole}}


def test_a_loop_whose_count_the_compiler_does_not_tell_is_as_long_as_its_condition_says():
    unknown = TEXT.replace(', backend_config={"known_trip_count":{"n":"5"}}', "")
    assert compiled_text.read(unknown).cycles == 7 + 10 + 3
    bound = "  %most = s32[]{:T(128)} constant(4)\n  ROOT %less"
    assert compiled_text.read(unknown.replace("  ROOT %less", bound)).cycles == 7 + 4 * 10 + 3


def test_a_product_written_as_a_convolution_counts_as_the_product_that_it_is():
    """Kernel [32, 16] first, a window as large as the map of 101 x 32 places, and its padding."""
    text = """
ENTRY %main (k: bf16[32,16,1,1], x: bf16[256,101,32,32]) -> bf16[256,101,32,16] {
  %k = bf16[32,16,1,1]{0,1,3,2} parameter(0)
  %x = bf16[256,101,32,32]{0,3,2,1:T(8,128)S(1)} parameter(1)
  ROOT %c = bf16[256,101,32,16]{0,3,2,1} convolution(%k, %x), window={size=101x32 pad=100_100x31_31 rhs_reversal=1x1}, dim_labels=fb01_o01i->f01b
}
"""  # noqa: E501
    values = 256 * 101 * 32 * 16
    (found,) = compiled_text.operations(text)
    assert found.flops == 2 * 32 * values
    (filled,) = compiled_text.operations(text, tile=128)
    assert filled.flops == 2 * 128 * values
    assert found.main_bytes == 2 * (32 * 16 + values)  # x lies in the chip's fast memory


def compile_for(target, tmp_path, **options):
    options |= {"target": target, "out": tmp_path / "out.json"}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, places.ROOT / "benchmarks" / "compile_for.py", *arguments]
    path = os.pathsep.join(filter(None, [str(places.ROOT), LIBTPU]))
    # Without the tests' flags: the TPU's compiler reads them too, and ends at one of the CPU's.
    done = programs.run(command, {"PYTHONPATH": path, "XLA_FLAGS": ""})
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "out.json").read_text())


@pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is not installed: pip install -e '.[aot-tpu]'")
def test_relabeling_compiles_for_a_tpu(tmp_path):
    (program,) = compile_for("v5e-8", tmp_path, programs="relabel", per_chip=32, seconds=2)
    assert program["estimated_cycles"] > 0 and program["collectives"] == {}
    assert program["arguments_bytes"] + program["temporary_bytes"] < program["chip_bytes"]
    # By products: an FFT would be more than half of it all.
    assert program["cycles_by_phase"]["frontend"] < 0.4 * program["estimated_cycles"]


@pytest.mark.skipif(not HAS_CUDA, reason="JAX's CUDA plug-in is missing: pip install -e '.[cuda]'")
def test_relabeling_compiles_for_a_gpu(tmp_path):
    (found,) = compile_for("h100", tmp_path, programs="relabel", per_chip=32, seconds=2)
    assert found["bytes_moved"] < 2 * found["minimum_bytes"]
