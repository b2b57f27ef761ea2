"""Commands that are killed again and again, against the same commands undisturbed.

    python tests/faults/kills.py --kills 100 --out results           # an hour or two on two cores
    python tests/faults/kills.py --kills 6 --campaigns prepare,one   # a trial

Five campaigns share the kills: `prepare` (a folder of short clips into a data set), `one` (a suite
of a teacher and a student on it: train, average, evaluate, relabel, train, average, evaluate),
`two` (the same suite in two processes; half of the kills), `gs` and `s3` (in one process, whose run
folder lies in a bucket of a server on loopback; a quarter). A kill is aimed at a stage: once the
run is in it, the process, or one of the two, gets SIGKILL or SIGTERM at a random moment. The other
one of two is left to find that out. Then the same command is given again. A run that ends is
compared with the undisturbed one bit for bit - records, index, losses, soft labels, averaged
weights, scores, metrics - and the next one is begun, until the kills are used up. The network is
shallow, the data are tiny.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import random
import sys
import tempfile
import time
from collections.abc import Sequence

from campaigns import (
    CONFIG,
    ROOT,
    InBucket,
    InS3Bucket,
    Kill,
    Preparing,
    Suite,
    TwoProcesses,
    write_source,
)

SHARES = {"prepare": 2, "one": 3, "two": 10, "gs": 3, "s3": 2}
CAMPAIGNS = {one.name: one for one in (Preparing, Suite, TwoProcesses, InBucket, InS3Bucket)}


def main() -> None:
    flags = _flags()
    rng, started = random.Random(flags.seed), time.monotonic()
    kills: list[Kill] = []
    ends: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        root = pathlib.Path(folder)
        write_source(root / "source")
        (root / "config.py").write_text(CONFIG)
        for name, share in shares(flags.campaigns.split(","), flags.kills).items():
            campaign = CAMPAIGNS[name](root)
            campaign.reference()
            while share > 0 or campaign.is_begun:
                found = campaign.disturb(rng) if share > 0 else None
                if found is None:
                    campaign.finish()
                    ends[name] += 1
                    continue
                share -= 1
                kills.append(found)
                print(f"{len(kills)}: {dataclasses.asdict(found)}", flush=True)
                told(kills, ends, time.monotonic() - started, flags.out)
    print(json.dumps(told(kills, ends, time.monotonic() - started, flags.out), indent=2))


def shares(names: Sequence[str], kills: int) -> dict[str, int]:
    """How many of the kills each campaign gets, in proportion to SHARES."""
    total, before, found = sum(SHARES[name] for name in names), 0, {}
    for name in names:
        after = before + SHARES[name]
        found[name] = kills * after // total - kills * before // total
        before = after
    return found


def told(
    kills: Sequence[Kill], ends: collections.Counter, seconds: float, out: pathlib.Path | None
) -> dict:
    """What came of the kills so far, which `out`/faults.json tells, too."""
    by = collections.Counter(f"{kill.campaign} {kill.stage} {kill.signal}" for kill in kills)
    waits = [kill.seconds_until_others_left for kill in kills if kill.campaign == "two"]
    summary = {
        "kills": len(kills),
        "runs compared, all equal": dict(ends),
        "by campaign, stage and signal": dict(sorted(by.items())),
        "longest wait for the other process, s": round(max(waits, default=0.0), 1),
        "minutes": round(seconds / 60, 1),
    }
    if out:
        out.mkdir(parents=True, exist_ok=True)
        everything = summary | {"all": [dataclasses.asdict(kill) for kill in kills]}
        (out / "faults.json").write_text(json.dumps(everything, indent=2) + "\n")
    return summary


def _flags() -> argparse.Namespace:
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--campaigns", default=",".join(CAMPAIGNS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=pathlib.Path, help="where to work; default: /tmp or TMPDIR"
    )
    parser.add_argument("--out", type=pathlib.Path, help="folder for faults.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
