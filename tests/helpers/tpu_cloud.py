"""launch/tpu_vm.sh against a fake gcloud whose hosts are folders; see fake_cloud.py."""

import json
import os
import sys

import places
import programs
from serving import wait_for

SCRIPT = places.ROOT / "launch" / "tpu_vm.sh"

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
        fake = (places.HELPERS / "fake_cloud.py").read_text()
        self.write_gcloud(fake, f"{sys.executable} -IS")  # starts faster
        host_python = folder / "host_python"
        programs.write(host_python, PYTHON.format(python=sys.executable))
        programs.write(
            folder / "bin" / "python3",  # pip install uv; uv venv
            '#!/bin/bash\n[ "$3" != venv ] || { mkdir -p .venv/bin; '
            f'cp {host_python} .venv/bin/python; echo installed >> "$HOME/pip"; '
            "printf '#!/bin/bash\\necho $* > $HOME/installed\\n' > .venv/bin/pip; "
            "chmod +x .venv/bin/*; }\n",
        )
        self.plan()

    def write_gcloud(self, text, shell="/bin/bash"):
        programs.write(self.folder / "bin" / "gcloud", f"#!{shell}\n{text}")

    def plan(self, **plan):
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def environment(self, **changes):
        defaults = {"NAME": "psl", "ZONE": "here", "ACCELERATOR": "v6e-8", "VERSION": "v2"}
        defaults |= {"POLL": "0.2", "BACKOFF": "0", "RETRIES": "20"}
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return {"PATH": path, "FAKE_CLOUD": str(self.folder)} | defaults | changes

    def begin(self, *arguments, **environment):
        return programs.start([SCRIPT, *arguments], self.environment(**environment))

    def __call__(self, *arguments, **environment):
        return programs.run([SCRIPT, *arguments], self.environment(**environment))

    def ok(self, *arguments, **environment):
        done = self(*arguments, **environment)
        assert done.returncode == 0, done.stderr
        return done

    def create_and_run(self, **environment):
        """A run that has started on both hosts."""
        for arguments in (["create"], ["install"], ["run", "--config=x"]):
            self.ok(*arguments, **environment)
        self.wait_for_starts(1, "host1")

    def lines(self, name):
        path = self.folder / f"{name}.jsonl"
        return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []

    def calls(self, *verb):
        return [call for call in self.lines("calls") if call[3 : 3 + len(verb)] == list(verb)]

    def starts(self, host="host0"):
        return self.lines(f"starts.{host}")

    def wait_for_starts(self, count, host="host0"):
        wait_for(lambda: len(self.starts(host)) >= count, programs.TIMEOUT)
