"""A transformers: teacher beside transformers' own pipeline: segments a second, in turns.

    python benchmarks/transformers_teacher.py FOLDER [--batches 4] [--batch_size 8] [--seconds 10]
        [--rounds 5]

Both get the same int16 segments of noise at 16 kHz, in batches of the same size, in one process.
FOLDER is an audio classifier, such as an AST with random weights. The last lines have medians over
the rounds. CPU seconds are those of all threads: other work on the machine hardly changes them.
"""

import argparse
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np
import transformers

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
    runners = {"psl_jax": ours, "pipeline": theirs}
    warm = audio[: options.batch_size]
    print("largest difference", float(np.abs(ours(warm) - theirs(warm)).max()))
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in runners}
    for number in range(options.rounds):
        for name in list(runners)[:: 1 if number % 2 == 0 else -1]:
            start, cpu = time.perf_counter(), time.process_time()
            runners[name](audio)
            elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
            rounds[name].append((len(audio) / elapsed, cpu / len(audio)))
        print(
            *(
                f"{name} {r[-1][0]:.2f} segments/s, CPU {r[-1][1]:.3f} s"
                for name, r in rounds.items()
            ),
            sep="; ",
            flush=True,
        )
    for kind, place in {"segments a second": 0, "CPU seconds of a segment": 1}.items():
        ours_pipeline = [[values[place] for values in rounds[name]] for name in runners]
        medians = [statistics.median(values) for values in ours_pipeline]
        ratio = statistics.median(a / b for a, b in zip(*ours_pipeline, strict=True))
        print(f"{kind}: psl_jax {medians[0]:.3f}, pipeline {medians[1]:.3f}, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
