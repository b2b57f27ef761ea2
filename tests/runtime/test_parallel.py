import itertools
import re
import threading
import time

import forked_python
import jax.numpy as jnp
import numpy as np
import places
import programs
import pytest
from serving import wait_for

from psl_jax.runtime import parallel
from psl_jax.runtime.errors import UserError

# In float64, over twelve orders, the largest difference seen is 5e-12 of the largest value.
EXACT = 1e-9
SMALL = 1e-2  # biases before a norm have no gradient but rounding: below 1e-11 nothing counts


# --- eight devices against one ----------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What virtual_devices.py computes on one and on eight devices."""
    folder = tmp_path_factory.mktemp("devices")
    script = places.HELPERS / "virtual_devices.py"
    done = programs.run([forked_python.path(), script, folder])
    assert done.returncode == 0, done.stderr
    loaded = []
    for count in (1, 8):
        with np.load(folder / f"{count}.npz") as arrays:
            loaded.append(dict(arrays))
        assert loaded[-1]["devices"] == count
    return loaded


@pytest.mark.parametrize("recipe", ["teacher", "in_step", "mn"])
@pytest.mark.parametrize("kind", ["losses", "['weights']", "['moments']"])
def test_losses_weights_and_gradients_in_float64(results, recipe, kind):
    """In all orders of the examples that were tried; a wrong mean is wrong by percents."""
    one, eight = results
    names = [name for name in one if re.match(rf"{recipe} \d+ .*{re.escape(kind)}", name)]
    assert len({name.split(" ")[1] for name in names}) == (2 if recipe == "teacher" else 1)
    for name in names:
        assert one[name].dtype == eight[name].dtype == np.float64
        atol = EXACT * max(np.abs(one[name]).max(), SMALL)
        np.testing.assert_allclose(eight[name], one[name], rtol=0, atol=atol, err_msg=name)


def test_soft_labels_are_those_of_one_device_in_float16(results):
    """Equal, or neighbours where rounding in float32 falls on either side of a step of float16."""
    for shard in ("shard 0", "shard 1"):
        one, eight = (result[shard] for result in results)
        assert one.dtype == eight.dtype == np.float16
        np.testing.assert_array_max_ulp(eight, one, maxulp=1)
        assert np.ptp(one[:, 0].astype(float)) > 0.05


# --- batches on devices -----------------------------------------------------------------------


def test_a_batch_is_put_on_the_devices_and_taken_back():
    batch = {"audio": np.arange(12, dtype=np.int16).reshape(4, 3), "weight": np.ones(4)}
    put = parallel.put_batch(batch, parallel.data_mesh())
    assert put["audio"].dtype == jnp.int16
    np.testing.assert_array_equal(parallel.local_rows(put["audio"]), batch["audio"])


# --- prefetch ---------------------------------------------------------------------------------


def prefetch_threads():
    return [t for t in threading.enumerate() if t.name.startswith("prefetch")]


def test_prefetch_works_ahead_but_not_further_than_its_depth():
    made = []
    items = parallel.prefetch(itertools.count(), lambda x: made.append(x) or x, depth=3)
    assert next(items) == 0
    wait_for(lambda: len(made) >= 4)
    time.sleep(0.3)
    assert 4 <= len(made) <= 5  # one was taken, three wait, one more is in hand
    items.close()
    assert not prefetch_threads()


@pytest.mark.parametrize("where", ["reading", "function"])
def test_errors_of_the_thread_are_raised_where_the_items_are_used(where):
    def numbers():
        yield from (0, 1)
        if where == "reading":
            raise UserError("shard 7 is damaged")
        yield 2

    def double(x):
        if x == 2:
            raise UserError("shard 7 is damaged")
        return 2 * x

    items = parallel.prefetch(numbers(), double)
    assert [next(items), next(items)] == [0, 2]
    with pytest.raises(UserError, match="shard 7"):
        next(items)
    assert not prefetch_threads()


@pytest.mark.parametrize("process", [0, 1])
def test_what_one_does_is_waited_for(process, monkeypatch):
    order = []
    monkeypatch.setattr(parallel.jax, "process_index", lambda: process)
    monkeypatch.setattr(parallel, "wait_for_all", lambda what: order.append(what))

    def do():
        order.append("done")
        return "results"

    found = parallel.run_in_first_process("waited", do)
    assert (found, order) == (("results", ["done", "waited"]), (None, ["waited"]))[process]


# --- batches computed while others are read ---------------------------------------------------


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_what_is_computed_comes_in_order_and_little_is_taken_ahead(alone, count):
    taken = []

    def items():
        for number in range(count):
            taken.append(number)
            yield number, jnp.float32(number)

    for position, (item, result) in enumerate(
        parallel.compute_in_order(items(), lambda item, value: item + 2 * value, alone)
    ):
        assert item == position and float(result) == 3 * position
        assert len(taken) <= position + 3
    assert taken == list(range(count))


@pytest.mark.parametrize("alone", [True, False])
def test_an_error_of_a_program_ends_it(alone):
    def program(item, value):
        if item == 3:
            raise ValueError("three")
        return value

    taken = iter(range(1000))
    with pytest.raises(ValueError, match="three"):
        list(parallel.compute_in_order(((n, None) for n in taken), program, alone))
    assert next(taken) < 8


def test_one_cpu_device_computes_several_at_a_time():
    together = threading.Barrier(2)

    def program(item, value):
        together.wait(timeout=60)  # each waits for another one
        return value

    items = ((number, None) for number in range(4))
    assert len(list(parallel.compute_in_order(items, program, alone=True))) == 4


# --- the processor's data type -----------------------------------------------------------------


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
