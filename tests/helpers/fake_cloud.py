#!/usr/bin/env python3
"""Stands for gcloud in the launchers' tests: records its calls, keeps a TPU VM's state in a folder.

The hosts of the VM are folders; `ssh --command` runs the command in each by bash, with it as its
home. FAKE_CLOUD names the folder, in which

  calls.jsonl   the arguments of each call
  plan.json     {"failing": share of calls that fail for a passing reason, before or after they
                did what was asked; "preempt_after": [n, ...], calls of `ssh` on each node after
                which it is taken away; "hosts": how many}
"""

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys

CLOUD = pathlib.Path(os.environ["FAKE_CLOUD"])


def read(name, default):
    path = CLOUD / name
    return json.loads(path.read_text()) if path.exists() else default


def write(name, value):
    (CLOUD / name).write_text(json.dumps(value))


def option(arguments, name, default=None):
    for argument in arguments:
        if argument.startswith(f"--{name}="):
            return argument.partition("=")[2]
    return default


def fail(text):
    print(f"ERROR: (gcloud) {text}", file=sys.stderr)
    sys.exit(1)


def kill_all(host):
    """As when the machine is taken away: what runs there is killed."""
    pid = host / "psl_jax_run" / "pid"
    if pid.exists():
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)


def hosts():
    return sorted((CLOUD / "hosts").glob("*"))


def take_away():
    for host in hosts():
        kill_all(host)
        shutil.rmtree(host)
    write("state.json", read("state.json", {}) | {"queued": "SUSPENDED", "node": "PREEMPTED"})


def queued_resources(verb, arguments, plan):
    state = read("state.json", {})
    if verb == "describe":
        if not state:
            fail("NOT_FOUND: Resource was not found")
        # Each look at it finds it one state further.
        order = ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
        print(state["queued"])
        if state["queued"] in order[:2]:
            state["queued"] = order[order.index(state["queued"]) + 1]
            if state["queued"] == "ACTIVE":
                state["node"] = "READY"
                for number in range(plan.get("hosts", 2)):
                    (CLOUD / "hosts" / f"host{number}").mkdir(parents=True)
            write("state.json", state)
    elif verb == "create":
        if state:
            fail("ALREADY_EXISTS: the queued resource is there")
        count = read("created.json", 0)
        write("created.json", count + 1)
        write("state.json", {"queued": "WAITING_FOR_RESOURCES", "node": "CREATING", "ssh": 0})
    elif verb == "delete":
        if not state:
            fail("NOT_FOUND: Resource was not found")
        assert "--force" in arguments
        for host in hosts():
            kill_all(host)
            shutil.rmtree(host)
        (CLOUD / "state.json").unlink()


def tpu_vm(verb, arguments, plan):
    state = read("state.json", {})
    if not state:
        fail("NOT_FOUND: Resource was not found")
    if verb == "describe":
        print(state["node"])
        return 0
    if state["node"] != "READY":
        fail(f"the TPU is {state['node']}")
    which = option(arguments, "worker", "0")
    chosen = hosts() if which == "all" else [hosts()[int(which)]]
    if verb == "scp":
        source, target = [a for a in arguments if not a.startswith("--")]
        for host in chosen:
            shutil.copy(source, host / target.partition(":")[2])
        return 0
    assert verb == "ssh"
    state["ssh"] += 1
    write("state.json", state)
    after = plan.get("preempt_after", [])
    created = read("created.json", 1) - 1
    if created < len(after) and state["ssh"] > after[created]:
        take_away()
        fail("the connection was closed")
    command = option(arguments, "command")
    statuses = [
        subprocess.run(
            ["bash", "-c", command],
            cwd=host,
            env=os.environ | {"HOME": str(host), "HOST": host.name},
            stdin=subprocess.DEVNULL,
        ).returncode
        for host in chosen
    ]
    return max(statuses)


def main():
    arguments = sys.argv[1:]
    plan = read("plan.json", {})
    with open(CLOUD / "calls.jsonl", "a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    number = len((CLOUD / "calls.jsonl").read_text().splitlines())
    chance = random.Random(f"{plan.get('seed', 0)} {number}")
    fails = chance.random() < plan.get("failing", 0)
    if fails and chance.random() < 0.5:
        fail("UNAVAILABLE: try again")
    assert arguments[:3] == ["--quiet", "compute", "tpus"], arguments
    assert option(arguments, "zone") == "here", arguments
    group, verb, *rest = arguments[3:]
    status = {"queued-resources": queued_resources, "tpu-vm": tpu_vm}[group](verb, rest, plan)
    if fails:  # it was done, and the answer was lost
        fail("INTERNAL: the connection was lost")
    sys.exit(status or 0)


main()
