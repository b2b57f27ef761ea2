"""A finished network, and what is known of it."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from psl_jax.audio.segments import RATES, SAMPLE_RATE
from psl_jax.networks.architecture import OUTPUTS, Architecture, FrontEnd, Network, Variables
from psl_jax.networks.available import ARCHITECTURES
from psl_jax.networks.class_lists import near_names
from psl_jax.networks.folding import FoldedNetwork
from psl_jax.networks.frontend import LogMel
from psl_jax.networks.mobilenetv2 import MOBILENET_V2
from psl_jax.runtime.errors import UserError
from psl_jax.runtime.settings import Rule, SettingInfo, check, read

DEFAULT_THRESHOLD = 0.5  # of models for which none were tuned


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """One for each class."""

    values: tuple[float, ...]  # each more than 0 and at most 1
    tuned_on: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # how, as JSON values

    @property
    def median_filter(self) -> int:
        """Rows of the median filter over the scores that the thresholds are for; 1: none."""
        return int(self.tuned_on.get("median_filter", 1))

    def as_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """As JSON values: what `from_json` reads."""
        values = dict(zip(classes, self.values, strict=True))
        return {"by_class": values, "tuned_on": dict(self.tuned_on)}

    @classmethod
    def from_json(cls, stored: Any, classes: Sequence[str], where: object) -> "Thresholds":
        """Raises UserError where a class has none, or one that is no score; `where` is the file."""
        if not isinstance(stored, Mapping) or not isinstance(stored.get("by_class"), Mapping):
            raise UserError(f"{where}: expected thresholds by_class, found {stored!r:.60}")
        for name in classes:
            value = stored["by_class"].get(name)
            if not isinstance(value, int | float) or not 0 < value <= 1:
                raise UserError(
                    f"{where}: the threshold of {name!r} is {value!r:.40}, expected more than 0 "
                    "and at most 1. psl-jax thresholds makes them anew"
                )
        tuned_on = stored.get("tuned_on")
        return cls(
            tuple(float(stored["by_class"][name]) for name in classes),
            dict(tuned_on) if isinstance(tuned_on, Mapping) else {},
        )

    def of(self, places: Sequence[int]) -> "Thresholds":
        """Those of some of the classes, by number."""
        return dataclasses.replace(self, values=tuple(self.values[i] for i in places))


FORMAT_VERSION = 3  # 2 without another network, 1 without a softmax: what earlier versions read


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is known of a model besides its arrays: what stands in its model.json."""

    classes: tuple[str, ...]  # in the order of the network's outputs
    width: float  # of the network, a factor on its channels
    segment_seconds: float  # that it was trained on
    logmel: LogMel = LogMel()  # that it was trained with
    name: str = "model"  # of the experiment, for people
    # Where it comes from, as JSON values: averaged_steps, config_digest, imported, licence.
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    output: str = "sigmoid"  # which of `architecture.OUTPUTS` makes probabilities
    thresholds: Thresholds | None = None  # None: none were tuned
    network: str = MOBILENET_V2.name  # in `available.ARCHITECTURES`
    sample_rate: int = SAMPLE_RATE  # of the audio that it was trained on, in Hz

    @property
    def format_version(self) -> int:
        """The first one that can read it."""
        if self.network != MOBILENET_V2.name:
            return 3
        return 1 if self.output == "sigmoid" else 2

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.network]

    @property
    def front_end(self) -> FrontEnd:
        """The front end that it was trained with."""
        return self.architecture.front_end(self.logmel)

    @property
    def exported_front_end(self) -> FrontEnd:
        """The front end inside an export, of audio at `sample_rate`."""
        return self.front_end.exported(self.sample_rate)

    def create(self) -> tuple[Network, Variables]:
        """The network, and arrays of its shapes."""
        return self.architecture.create(len(self.classes), self.width, output=self.output)

    def as_json(self) -> dict[str, Any]:
        """As JSON values: what `from_json` reads."""
        tuned = self.thresholds
        network: dict[str, Any] = {}
        if self.network != MOBILENET_V2.name:  # which earlier versions know
            network = {"network": self.network, "sample_rate": self.sample_rate}
        return {
            "format_version": self.format_version,
            **({} if tuned is None else {"thresholds": tuned.as_json(self.classes)}),
            "name": self.name,
            "classes": list(self.classes),
            **network,
            "width": self.width,
            "output": self.output,
            "segment_seconds": self.segment_seconds,
            "frontend": dataclasses.asdict(self.logmel),
        } | dict(self.origin)

    @classmethod
    def from_json(cls, values: Any, where: object) -> "ModelInfo":
        """Reads this or an earlier version; `where` names its file for messages.

        Raises UserError where something is missing, or written by a later version of psl_jax.
        """
        if not isinstance(values, Mapping):
            raise UserError(f"{where} was not written by psl_jax: it holds {values!r:.60}")
        rest = dict(values)
        version = rest.pop("format_version", 1)  # the first had no number
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise UserError(
                f"{where} has format version {version}, this psl_jax reads up to "
                f"{FORMAT_VERSION}: install a newer one"
            )

        foreign = f"{where} was not written by psl_jax, or by a newer one: "
        classes, tuned = rest.pop("classes", None), rest.pop("thresholds", None)
        is_list = isinstance(classes, list | tuple) and len(classes) > 0
        if not is_list or not all(isinstance(name, str) for name in classes):
            raise UserError(f"{foreign}classes is {classes!r:.60}, expected a list of names")
        facts = {name: rest.pop(name, getattr(cls, name, None)) for name in _STORED}
        for name, value in facts.items():
            check(name, value, _STORED[name], foreign)
        facts["segment_seconds"] = float(facts["segment_seconds"])
        return cls(
            tuple(classes),
            **facts,
            logmel=_read_logmel(rest.pop("frontend", {}), where),
            name=str(rest.pop("name", "") or "model"),
            thresholds=None if tuned is None else Thresholds.from_json(tuned, classes, where),
            origin=rest,
        )


# What a description says of fields, with an example; those without a default must be there.
_STORED = {
    "width": SettingInfo(float, 1.0, Rule(above=0, most=16), ""),
    "segment_seconds": SettingInfo(float, 10.0, Rule(above=0, most=10_000), ""),
    "output": SettingInfo(str, "sigmoid", Rule(choices=tuple(OUTPUTS)), ""),
    "network": SettingInfo(str, MOBILENET_V2.name, Rule(choices=tuple(ARCHITECTURES)), ""),
    "sample_rate": SettingInfo(int, SAMPLE_RATE, Rule(choices=RATES), ""),
}


def _read_logmel(values: Any, where: object) -> LogMel:
    # Exports say more of their front end than its settings.
    settings = {field.name for field in dataclasses.fields(LogMel)}
    try:
        return read(LogMel, {name: x for name, x in dict(values).items() if name in settings})
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"{where}: its front end {values!r:.200} is none of psl_jax's") from error


@dataclasses.dataclass(frozen=True)
class Model:
    """A finished network with what is needed to use it."""

    network: Network
    variables: Variables
    info: ModelInfo

    @classmethod
    def of(cls, variables: Variables, info: ModelInfo, where: object) -> "Model":
        """The model of arrays that were read from `where`. Raises UserError for others."""
        network, expected = info.create()
        if jax.tree.map(np.shape, variables) != jax.tree.map(np.shape, expected):
            raise UserError(
                f"{where}: the arrays are not those of a network of width {info.width:g}"
            )
        if not all(np.isfinite(array).all() for array in jax.tree.leaves(variables)):
            raise UserError(
                f"{where}: some weights are NaN or infinite, and so would scores be: train the "
                "model again, or copy it from where it is whole"
            )
        return cls(network, variables, info)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.info.classes

    @property
    def thresholds(self) -> Thresholds:
        """Those that were tuned, else DEFAULT_THRESHOLD for each class."""
        return self.info.thresholds or Thresholds((DEFAULT_THRESHOLD,) * len(self.classes))

    @property
    def folded(self) -> FoldedNetwork:
        """The network for inference."""
        folded: FoldedNetwork = self.info.architecture.fold(self.variables, self.info.output)
        return folded

    @property
    def digest(self) -> str:
        """Hash of all arrays, names and classes: what soft labels are said to come from."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        if self.info.output != "sigmoid":
            digest.update(self.info.output.encode())
        leaves, _ = jax.tree_util.tree_flatten_with_path(self.variables)
        for path, array in leaves:
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def for_classes(self, classes: Sequence[str]) -> "Model":
        """The same network for these of its classes, in this order; of a softmax all are needed.

        Raises UserError naming those that it does not know, and the nearest names.
        """
        if tuple(classes) == self.classes:
            return self
        place = {name: i for i, name in enumerate(self.classes)}
        if unknown := [name for name in classes if name not in place]:
            raise UserError(
                f"{self.info.name} knows {len(self.classes)} classes "
                f"({'; '.join(self.classes[:3])}; ...), and {len(unknown)} of the {len(classes)} "
                f"asked for are none of them, such as {unknown[0]!r}"
                f"{near_names(unknown[0], self.classes)}"
            )
        if twice := [name for name in classes if list(classes).count(name) > 1]:
            raise UserError(f"the class {twice[0]!r} is asked for twice")
        if self.info.output == "softmax" and len(classes) < len(self.classes):
            raise UserError(
                f"{self.info.name} tells {len(self.classes)} classes apart with one softmax, and "
                f"{len(classes)} of them are asked for: it has no probabilities of these alone"
            )
        chosen = np.array([place[name] for name in classes])
        params = self.variables.params
        classifier = {k: np.asarray(v)[..., chosen] for k, v in params["classifier"].items()}
        variables = Variables(params | {"classifier": classifier}, self.variables.stats)
        tuned = self.info.thresholds
        tuned = None if tuned is None else tuned.of(chosen.tolist())
        info = dataclasses.replace(self.info, classes=tuple(classes), thresholds=tuned)
        return Model(self.network, variables, info)  # a network's description knows no sizes
