"""How processes agree, with threads for processes and a dictionary for their coordinator."""

import signal
import threading
import time

import numpy as np
import pytest
from serving import wait_for

from psl_jax.runtime import interrupts, peers

COUNT = 3


class Coordinator:
    """Holds keys and values, as JAX's does."""

    def __init__(self):
        self.values, self.lock, self.barriers = {}, threading.Lock(), {}

    def key_value_set(self, key, value, allow_overwrite=False):
        with self.lock:
            assert allow_overwrite or key not in self.values
            self.values[key] = value

    def key_value_dir_get(self, folder):
        with self.lock:
            return [(k, v) for k, v in self.values.items() if k.startswith(folder)]

    def key_value_delete(self, key):
        with self.lock:
            for name in [k for k in self.values if k == key or k.startswith(key.rstrip("/") + "/")]:
                del self.values[name]

    def wait_at_barrier(self, name, milliseconds):
        with self.lock:
            barrier = self.barriers.setdefault(name, threading.Barrier(COUNT))
        barrier.wait(milliseconds / 1000)


@pytest.fixture
def processes(monkeypatch):
    monkeypatch.setattr(peers, "_BETWEEN", 0.01)
    ctrl_c = signal.getsignal(signal.SIGINT)
    coordinator = Coordinator()
    made = [peers.Peers(coordinator, number, COUNT) for number in range(COUNT)]
    yield made
    for one in made:
        one.close()
    interrupts.set_answer(None)
    signal.signal(signal.SIGINT, ctrl_c)


@pytest.mark.parametrize("seed", range(4))
def test_all_do_what_one_asks_for_at_the_same_step(processes, seed):
    rng = np.random.default_rng(seed)
    pauses = rng.uniform(0, 0.01, (COUNT, 400))
    asks = {int(rng.integers(COUNT)): int(rng.integers(5, 20))}  # process: at which step
    done = [[] for _ in range(COUNT)]

    def train(number):
        one = processes[number]
        one.pass_boundary(1, 0)
        for step in range(1, 400):
            time.sleep(pauses[number, step])
            if asks.get(number) == step:
                one.ask(peers.SAVE)
                one.ask(peers.STOP)
            for what in one.pass_boundary(1, step):
                done[number].append((what, step))
                if what == peers.STOP:
                    return

    threads = [threading.Thread(target=train, args=(number,)) for number in range(COUNT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert done[0] == done[1] == done[2], done
    assert [what for what, _ in done[0]].count(peers.STOP) == 1


def test_a_second_signal_changes_no_agreement(processes):
    """The first process has stopped already when another one is told to stop, too."""
    for one in processes:
        one.pass_boundary(1, 3)
    processes[0].ask(peers.STOP)
    wait_for(lambda: all(one._round >= 1 for one in processes))
    assert processes[0].pass_boundary(1, 4) == {peers.STOP}
    processes[1].ask(peers.STOP)
    time.sleep(0.3)  # for a second round, which must not be called
    assert [one.pass_boundary(1, 4) for one in processes[1:]] == [{peers.STOP}] * 2


def test_a_process_that_is_in_no_loop_ends_all(processes, monkeypatch):
    ended = []
    monkeypatch.setattr(peers.Peers, "_end", lambda self, why: ended.append((self._process, why)))
    processes[0].pass_boundary(1, 3)
    processes[2].ask(peers.STOP)
    wait_for(lambda: len(ended) == COUNT)
    assert sorted(number for number, _ in ended) == [0, 1, 2]
    assert all("by a signal" in why for _, why in ended)


def test_an_error_without_a_message_ends_a_process(processes, monkeypatch):
    ended = []
    monkeypatch.setattr(peers.Peers, "_end", lambda self, why: ended.append(why))

    def fail(folder):
        raise RuntimeError

    monkeypatch.setattr(processes[0]._client, "key_value_dir_get", fail)  # which all share
    wait_for(lambda: len(ended) == COUNT)
    assert all("gone (RuntimeError)" in why for why in ended)


def test_to_save_is_left_out_where_a_process_is_in_no_loop(processes):
    processes[0].pass_boundary(1, 3)
    processes[0].ask(peers.SAVE)
    wait_for(lambda: processes[0]._round >= 1)
    assert [one.pass_boundary(1, step) for step in range(4, 9) for one in processes] == [set()] * 15


def test_a_silent_process_is_named(processes, monkeypatch, capfd):
    monkeypatch.setattr(peers, "_BETWEEN_SIGNS", 0.01)
    monkeypatch.setattr(peers, "_SILENCE", 0.5)
    time.sleep(0.2)
    processes[1].close()
    told = []
    silent = "process 1 of 3 has not been heard of"
    wait_for(lambda: told.append(capfd.readouterr().err) or silent in "".join(told))
    assert "Run the same command again" in "".join(told)
