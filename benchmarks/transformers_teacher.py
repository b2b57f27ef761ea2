"""A transformers: teacher beside transformers' own pipeline: segments a second, in turns.

    python benchmarks/transformers_teacher.py FOLDER [--batches 4] [--batch_size 8] [--seconds 10]
        [--rounds 5]

Both get the same int16 segments of noise at 16 kHz, in batches of the same size, in one process.
FOLDER is an audio classifier, such as an AST with random weights. Printed are medians over the
rounds. CPU seconds are those of all threads: other work on the machine hardly changes them.
"""

import argparse
import math
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np
import transformers
from runners import Runner, Schedule, alternate, ratio, repeated

from psl_jax.teachers import open_teacher


def make_ours(folder: str, batch_size: int):
    teacher = open_teacher.load_teacher(open_teacher.parse_name(f"transformers:{folder}"))
    scorer = teacher.make_scorer()
    scorer.fitting(batch_size, 10.0)

    def score(audio: np.ndarray) -> np.ndarray:
        rows = np.split(audio, range(batch_size, len(audio), batch_size))
        batches = [
            {
                "audio": part,
                "num_samples": np.full(len(part), part.shape[1], np.int32),
                "weight": np.ones(len(part), np.float32),
            }
            for part in rows
        ]
        return np.concatenate([scores for _, scores in scorer(batches)])

    return score, teacher.classes


def make_pipeline(folder: str, batch_size: int, classes: tuple[str, ...]):
    pipe = transformers.pipeline("audio-classification", folder, device="cpu")
    places = {name: number for number, name in enumerate(classes)}

    def score(audio: np.ndarray) -> np.ndarray:
        waveforms = list(audio / np.float32(32_768))
        results = pipe(waveforms, top_k=None, function_to_apply="sigmoid", batch_size=batch_size)
        scores = np.empty((len(audio), len(classes)), np.float32)
        for row, result in zip(scores, results, strict=True):
            for entry in result:
                row[places[entry["label"]]] = entry["score"]
        return scores

    return score


def main() -> None:
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(description=about, epilog=more)
    parser.add_argument("folder")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    shape = options.batches * options.batch_size, round(16_000 * options.seconds)
    audio = (np.random.default_rng(0).standard_normal(shape) * 2000).astype(np.int16)
    ours, classes = make_ours(options.folder, options.batch_size)
    theirs = make_pipeline(options.folder, options.batch_size, classes)
    warm = audio[: options.batch_size]
    print("largest difference", float(np.abs(ours(warm) - theirs(warm)).max()))
    scorers = {"psl_jax": ours, "pipeline": theirs}
    runners = [
        Runner(name, repeated(lambda score=score: score(audio)), repeats=1)
        for name, score in scorers.items()
    ]
    alternate(runners, Schedule(options.rounds, case_seconds=math.inf))
    for runner in runners:
        cpu_seconds = statistics.median(runner.cpu_seconds) / len(audio)
        rate = runner.rate * len(audio)
        print(f"{runner.name}: {rate:.3f} segments/s, {cpu_seconds:.3f} CPU seconds a segment")
    print(f"ratio of the rates: {ratio(*runners):.3f}")


if __name__ == "__main__":
    main()
