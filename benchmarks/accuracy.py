"""How far an accelerator's answers are from a reference in float64, made on the CPU beside it.

    python benchmarks/accuracy.py --model runs/teacher --audio FOLDER [--seconds 2] [--batch 32]

The front end (dB), the probabilities of a network and the gradient of a training step, in float32
and bfloat16, of the recordings in a folder, or of noise and tones; the CPU's own float32 beside
them. Without a model, of a new network of full width: its gradient in training hangs on rounding,
whatever computes it. Needs JAX with a CPU beside the accelerator, not TensorFlow.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
from functools import partial
from typing import NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from psl_jax.audio import decoding
from psl_jax.audio.segments import SAMPLE_RATE
from psl_jax.networks.architecture import Network, Variables, clip_probabilities
from psl_jax.networks.frontend import LogMel
from psl_jax.networks.layers import Context
from psl_jax.networks.mobilenetv2 import create
from psl_jax.training.step import binary_cross_entropy
from psl_jax.weights.load_model import load_model

CLASSES = 527


def main() -> None:
    flags = _flags()
    accelerator, cpu = jax.devices()[0], jax.devices("cpu")[0]
    print(f"{accelerator.device_kind}, jax {jax.__version__}; against float64 on the CPU")
    audio = _audio(flags)
    with jax.default_device(cpu):
        reference = np.asarray(LogMel()(jnp.asarray(audio), platform="cpu"))
    with jax.default_device(accelerator):
        frontend = LogMel()
        run = jax.jit(lambda x: frontend(x, platform=accelerator.platform))
        _print_frontend(np.abs(np.asarray(run(audio)) - reference))

    network, variables = _network(flags.model)
    classes = variables.params["classifier"]["bias"].size
    labels = np.random.default_rng(1).random((len(audio), classes)).astype(np.float32) ** 4
    with jax.default_device(cpu), jax.enable_x64(True):
        true = _answers(network, variables, reference, labels, jnp.float64, "cpu")
    ways = ((cpu, "float32"), (accelerator, "float32"), (accelerator, "bfloat16"))
    for device, dtype in dict.fromkeys(ways):
        with jax.default_device(device):
            platform = device.platform
            found = _answers(network, variables, reference, labels, jnp.dtype(dtype), platform)
        _print_network(f"{platform}, {dtype}", found, true)


def _network(path: pathlib.Path | None) -> tuple[Network, Variables]:
    if path is None:
        return create(CLASSES, dropout=0.0)
    model = load_model(path)
    classes = len(model.classes)
    network, _ = create(classes, model.info.width, dropout=0.0, output=model.info.output)
    return network, model.variables


class Answers(NamedTuple):
    """Of a network in one type.

    loss, gradient [parameters]: with the batch's statistics, as in training; frozen_gradient
    [parameters] and probabilities [batch, classes]: with the network's own.
    """

    loss: float
    gradient: np.ndarray
    frozen_gradient: np.ndarray
    probabilities: np.ndarray


def _answers(network: Network, variables: Variables, log_mel, labels, dtype, platform) -> Answers:
    """Of log_mel [batch, frames, 64] and labels [batch, classes], with maps of type `dtype`."""
    wide = jnp.promote_types(dtype, jnp.float32)
    variables, log_mel, labels = jax.tree.map(
        lambda x: jnp.asarray(x, wide), (variables, log_mel, labels)
    )

    @partial(jax.jit, static_argnums=0)
    def passed(context, variables):
        def loss(params):
            frames, _ = network.apply(Variables(params, variables.stats), log_mel, context)
            probabilities = clip_probabilities(jax.nn.sigmoid(frames))
            return binary_cross_entropy(frames, labels), probabilities

        return jax.value_and_grad(loss, has_aux=True)(variables.params)

    context = Context(train=True, dtype=dtype, platform=platform, gives_logits=True)
    (loss, _), gradient = passed(context, variables)
    frozen = dataclasses.replace(context, frozen=True)
    (_, probabilities), frozen_gradient = passed(frozen, variables)
    return Answers(float(loss), _flat(gradient), _flat(frozen_gradient), np.asarray(probabilities))


def _print_frontend(off: np.ndarray) -> None:
    print(
        f"front end: off by {off.mean():.1e} dB on average, 99.9 % within "
        f"{np.quantile(off, 0.999):.1e}, at most {off.max():.1e} dB, of {off.size:,} values"
    )


def _print_network(name: str, found: Answers, true: Answers) -> None:
    p = true.probabilities
    off = [
        np.linalg.norm(a - b) / np.linalg.norm(b)
        for a, b in zip(found[1:3], true[1:3], strict=True)
    ]
    print(
        f"{name}: probabilities ({p.min():.2g} to {p.max():.2g}) off by at most "
        f"{np.abs(found.probabilities - p).max():.1e}; loss {found.loss:.6f} for {true.loss:.6f}; "
        f"gradient off by {off[0]:.1e} of its norm, with frozen statistics by {off[1]:.1e}",
        flush=True,
    )


def _flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(tree)])


def _audio(flags: argparse.Namespace) -> np.ndarray:
    """int16 [batch, samples]: half noise, half tones, each at another level; or recordings."""
    samples, rng = round(flags.seconds * SAMPLE_RATE), np.random.default_rng(0)
    if flags.audio is None:
        time = np.arange(samples) / SAMPLE_RATE
        levels = 10 ** rng.uniform(-3, -0.1, (flags.batch, 1))
        tones = np.sin(2 * np.pi * rng.uniform(50, 7000, (flags.batch, 1)) * time)
        noise = rng.normal(0, 0.25, (flags.batch, samples))
        chosen = np.where(np.arange(flags.batch)[:, None] % 2, tones, noise)
        return (np.clip(levels * chosen, -1, 1) * 32767).astype(np.int16)
    paths = [p for p in sorted(flags.audio.iterdir()) if p.suffix in (".wav", ".flac", ".ogg")]
    if not paths:
        sys.exit(f"{flags.audio}: no .wav, .flac or .ogg in it")
    rows = np.zeros((min(flags.batch, len(paths)), samples), np.int16)
    for row, path in zip(rows, paths, strict=False):
        recording = decoding.decode(path, flags.seconds).samples[:samples]
        row[: len(recording)] = recording
    return rows


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--audio", type=pathlib.Path, help="a folder of recordings")
    parser.add_argument("--model", type=pathlib.Path, help="a run folder or an export")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=32)
    return parser.parse_args()


if __name__ == "__main__":
    main()
