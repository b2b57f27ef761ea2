"""launch/tpu_vm.sh against a fake gcloud whose hosts are folders; see fake_cloud.py."""

import json
import os
import subprocess
import sys
import time

import places

SCRIPT = places.ROOT / "launch" / "tpu_vm.sh"
TIMEOUT = 240  # seconds; a loaded machine is no failure

# Stands for a host's Python: notes how it was called, and ends as the test's plan says; the plan
# is a list of statuses, one for each start of this host over all its lives. "sleep": until SIGTERM.
PYTHON = """#!{python} -IS
import json, os, pathlib, signal, sys, time
cloud = pathlib.Path(os.environ["FAKE_CLOUD"])
host = os.environ["HOST"]
if sys.argv[1:3] == ["-m", "pip"]:
    sys.exit(0)
notes = cloud / f"starts.{{host}}.jsonl"
with open(notes, "a") as file:
    file.write(json.dumps({{"argv": sys.argv[1:], "mine": os.environ.get("MINE")}}) + "\\n")
plan = json.loads((cloud / "plan.json").read_text()).get("statuses", {{}}).get(host, ["sleep"])
status = plan[min(len(notes.read_text().splitlines()), len(plan)) - 1]
print("started", flush=True)
if status == "sleep":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    time.sleep(300)
sys.exit(status)
"""


class Cloud:
    def __init__(self, folder):
        self.folder = folder
        (folder / "bin").mkdir()
        gcloud = folder / "bin" / "gcloud"
        fake = (places.HELPERS / "fake_cloud.py").read_text()
        gcloud.write_text(f"#!{sys.executable} -IS\n{fake}")  # starts faster
        python3 = folder / "bin" / "python3"  # pip install uv; uv venv
        host_python = folder / "host_python"
        host_python.write_text(PYTHON.format(python=sys.executable))
        python3.write_text(
            '#!/bin/bash\n[ "$3" != venv ] || { mkdir -p .venv/bin; '
            f'cp {host_python} .venv/bin/python; echo installed >> "$HOME/pip"; '
            "printf '#!/bin/bash\\necho $* > $HOME/installed\\n' > .venv/bin/pip; "
            "chmod +x .venv/bin/*; }\n"
        )
        for path in (gcloud, python3, host_python):
            path.chmod(0o755)
        self.plan()

    def plan(self, **plan):
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def begin(self, *arguments, **environment):
        defaults = {"NAME": "psl", "ZONE": "here", "ACCELERATOR": "v6e-8", "VERSION": "v2"}
        quick = {"POLL": "0.2", "BACKOFF": "0", "RETRIES": "20"}
        return subprocess.Popen(
            [SCRIPT, *arguments],
            env=os.environ
            | {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
            | {"FAKE_CLOUD": str(self.folder)}
            | (defaults | quick | environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments, **environment):
        with self.begin(*arguments, **environment) as process:
            try:
                out, err = process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def ok(self, *arguments, **environment):
        done = self(*arguments, **environment)
        assert done.returncode == 0, done.stderr
        return done

    def calls(self, *verb):
        path = self.folder / "calls.jsonl"
        calls = (
            [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        )
        return [call for call in calls if call[3 : 3 + len(verb)] == list(verb)]

    def starts(self, host="host0"):
        path = self.folder / f"starts.{host}.jsonl"
        return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []

    def wait_for_starts(self, count, host="host0"):
        deadline = time.monotonic() + TIMEOUT
        while len(self.starts(host)) < count:
            assert time.monotonic() < deadline
            time.sleep(0.05)
