"""Hypernetwork files: ours (.safetensors) and those of A1111 (.pt), and the networks that stand in them.

A hypernetwork has two small networks, for keys and for values, for each width of what an attention takes in. Layers, files and
fallbacks are those of AUTOMATIC1111/stable-diffusion-webui, modules/hypernetworks/hypernetwork.py. Knows nothing of models.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from nosnja_gui import weights
from nosnja_gui.settings import UserError

if TYPE_CHECKING:
    import torch

SIDES = ("key", "value")
"""In the order in which A1111 keeps them."""
PICKLED = ".pt"
START = "hypernetwork."
"""How all names in our files begin."""
THEIRS = re.compile(r"\d+\.[01]\.linear\d?\.")
"""How A1111's do: width, for keys or for values."""
ABOUT = "nosnja_hypernetwork"
"""Under what our files' metadata tell the structure: JSON with A1111's own names."""
USUAL_LAYERS = (1.0, 2.0, 1.0)

Initialisation = Literal["Normal", "KaimingUniform", "KaimingNormal", "XavierUniform", "XavierNormal"]
Activation = Literal[
    "linear", "relu", "leakyrelu", "elu", "swish", "tanh", "sigmoid",
    "celu", "gelu", "hardshrink", "hardsigmoid", "hardtanh", "logsigmoid", "mish", "prelu", "relu6", "rrelu", "selu", "silu", "softplus",
    "softshrink", "softsign", "tanhshrink",
]  # fmt: skip
"""A1111's own names, and those of torch's activations that act on each number by itself."""
OWN_NAMES = {"linear": "Identity", "swish": "Hardswish"}
"""What A1111 calls otherwise than torch: its swish is torch's Hardswish."""


@dataclass(frozen=True)
class Structure:
    """Of what each of the networks consists."""

    layers: tuple[float, ...] = USUAL_LAYERS
    """Widths of the layers as multiples of the attention's own, the first and the last of which are 1."""
    activation: str = "linear"
    initialisation: Initialisation = "Normal"
    layer_norm: bool = False
    dropout: tuple[float, ...] = ()
    """Share that is dropped behind each of `layers`, the first and the last of which are 0; empty for none."""
    activate_output: bool = False
    """Whether the activation also follows the last layer."""

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Structure:
        """From what a file says under A1111's names, with A1111's fallbacks for what older files don't say. Raises ValueError."""
        layers = tuple(map(float, said.get("layer_structure") or USUAL_LAYERS))
        if len(layers) < 2 or layers[0] != 1 or layers[-1] != 1 or min(layers) <= 0:
            raise ValueError(f"its layer structure is {layers}")
        dropout = said.get("dropout_structure")
        if dropout is None and said.get("use_dropout"):
            # Dropout of 0.3 behind each inner layer, behind the last of them only where it says so.
            dropout = [0.0, *[0.3] * (len(layers) - 3), 0.3 if said.get("last_layer_dropout") else 0.0, 0.0]
        dropout = tuple(map(float, dropout)) if dropout and any(dropout) else ()
        if dropout and (len(dropout) != len(layers) or not all(0 <= share < 1 for share in dropout)):
            raise ValueError(f"its dropout structure is {dropout}")
        initialisation = said.get("weight_initialization") or "Normal"
        return cls(
            layers=layers,
            activation=str(said.get("activation_func") or "linear"),
            initialisation=initialisation if initialisation in get_args(Initialisation) else "Normal",
            layer_norm=bool(said.get("is_layer_norm")),
            dropout=dropout,
            activate_output=bool(said.get("activate_output", True)),
        )

    @property
    def said(self) -> dict[str, Any]:
        """The same under A1111's names."""
        dropout = list(self.dropout) or [0] * len(self.layers)
        return {
            "layer_structure": list(self.layers),
            "activation_func": self.activation,
            "is_layer_norm": self.layer_norm,
            "weight_initialization": self.initialisation,
            "use_dropout": bool(self.dropout),
            "dropout_structure": dropout,
            "last_layer_dropout": dropout[-2] != 0,
            "activate_output": self.activate_output,
        }

    @property
    def about(self) -> dict[str, str]:
        """For a file's metadata."""
        return {ABOUT: json.dumps(self.said)}

    def sizes(self, width: int) -> list[int]:
        """Widths of the layers in numbers."""
        return [int(width * multiple) for multiple in self.layers]

    def numbers(self, width: int) -> int:
        """How many parameters both networks of a width have."""
        sizes = self.sizes(width)
        linear = sum(before * after + after for before, after in itertools.pairwise(sizes))
        slopes = len(sizes) - 2 + self.activate_output if self.activation == "prelu" else 0
        return 2 * (linear + slopes + (2 * sum(sizes[1:]) if self.layer_norm else 0))


@dataclass
class Hypernetwork:
    structure: Structure
    networks: dict[int, tuple[torch.nn.Sequential, torch.nn.Sequential]] = field(default_factory=dict)
    """Those for keys and for values, by the width of what they take: (..., width) -> (..., width), added to it. float32."""

    def parts(self) -> Iterator[tuple[str, torch.nn.Sequential]]:
        """Each network by the beginning of its weights' names."""
        for width, both in self.networks.items():
            for side, network in zip(SIDES, both, strict=True):
                yield f"{START}{width}.{side}.linear.", network

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        for start, network in self.parts():
            for name, parameter in network.named_parameters():
                yield start + name, parameter


def fresh(structure: Structure, widths: Iterable[int]) -> Hypernetwork:
    """An untrained one on the CPU, whose start follows from torch's seed."""
    made = Hypernetwork(structure, {width: (_layers(structure, width), _layers(structure, width)) for width in widths})
    for _, network in made.parts():
        _initialise(network, structure)
    return made


def _layers(structure: Structure, width: int) -> torch.nn.Sequential:
    import torch

    layers: list[torch.nn.Module] = []
    sizes, last = structure.sizes(width), len(structure.layers) - 1
    for number in range(1, len(sizes)):
        layers.append(torch.nn.Linear(sizes[number - 1], sizes[number]))
        if structure.activation != "linear" and (number < last or structure.activate_output):
            layers.append(_activation(structure.activation))
        if structure.layer_norm:
            layers.append(torch.nn.LayerNorm(sizes[number]))
        if structure.dropout and structure.dropout[number]:
            layers.append(torch.nn.Dropout(structure.dropout[number]))
    return torch.nn.Sequential(*layers)


def _activation(name: str) -> torch.nn.Module:
    """Raises ValueError for a name that torch has no plain activation of."""
    import torch

    found = {kind.lower(): getattr(torch.nn.modules.activation, kind) for kind in torch.nn.modules.activation.__all__}
    found |= {own: getattr(torch.nn, theirs) for own, theirs in OWN_NAMES.items()}
    try:
        return found[name]()
    except (KeyError, TypeError):  # TypeError: it wants to be told more, as Threshold does
        raise ValueError(f"its activation is '{name}'") from None


def _initialise(network: torch.nn.Sequential, structure: Structure) -> None:
    """As A1111 does: norm layers begin near 0 like Normal's weights, so that the whole network does hardly anything at first."""
    import torch

    init = torch.nn.init
    for layer in network:
        if isinstance(layer, torch.nn.Linear | torch.nn.LayerNorm):
            init.zeros_(layer.bias)
            if structure.initialisation == "Normal" or isinstance(layer, torch.nn.LayerNorm):
                init.normal_(layer.weight, mean=0.0, std=0.01)
            elif structure.initialisation.startswith("Xavier"):
                (init.xavier_uniform_ if structure.initialisation.endswith("Uniform") else init.xavier_normal_)(layer.weight)
            else:
                # Also for leaky ReLU, whose slope A1111 leaves at 0: then both have the same gain.
                draw = init.kaiming_uniform_ if structure.initialisation.endswith("Uniform") else init.kaiming_normal_
                draw(layer.weight, nonlinearity="relu")


# Files


def recognises(names: Collection[str]) -> bool:
    """Whether a file with these names is a hypernetwork: ours, or one of A1111's, whose names are those of `weights.joined`."""
    return any(name.startswith(START) or THEIRS.match(name) for name in names)


def read(file: Path) -> Hypernetwork:
    """Raises UserError in one sentence for a file that is damaged, of another kind, or whose weights don't fit what it says of itself."""
    pickled = file.suffix.lower() in weights.PICKLED
    said, stated = (weights.pickled(file), {}) if pickled else _read_ours(file)
    if pickled and not recognises(set(weights.joined(said))):
        raise UserError(f"{file} is no hypernetwork (it has no networks for keys and values): choose another file.")
    try:
        if pickled:
            stated = {width: both for width, both in said.items() if isinstance(width, int)}
        structure = Structure.of(said)
        made = Hypernetwork(structure)
        for width, (key, value) in sorted(stated.items()):
            made.networks[width] = _filled(structure, width, key), _filled(structure, width, value)
    except (ValueError, TypeError, RuntimeError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{file} cannot be read as a hypernetwork ({' '.join(str(error).split())[:200].rstrip('. ')}): copy or download it again."
        ) from None
    for _, network in made.parts():
        network.eval().requires_grad_(False)
    return made


def _filled(structure: Structure, width: int, weights_of: Mapping[str, torch.Tensor]) -> torch.nn.Sequential:
    import torch

    # Without memory at first: what a file says of its layers may be anything, and only its weights are real.
    with torch.device("meta"):
        network = _layers(structure, width)
    network.load_state_dict(_renewed(weights_of), assign=True)
    return network.float()


def _read_ours(file: Path) -> tuple[dict[str, Any], dict[int, list[dict[str, torch.Tensor]]]]:
    """(what it says of itself, weights for keys and values by width)."""
    stated: dict[int, list[dict[str, Any]]] = {}
    for name, tensor in weights.tensors(file):
        match = re.fullmatch(rf"{re.escape(START)}(\d+)\.({'|'.join(SIDES)})\.linear\.(.+)", name)
        if match is None:
            raise UserError(f"{file} is no hypernetwork (it holds '{name[:100]}'): choose another file.")
        stated.setdefault(int(match[1]), [{}, {}])[SIDES.index(match[2])][f"linear.{match[3]}"] = tensor
    try:
        said = json.loads(weights.metadata(file).get(ABOUT, "{}"))
    except ValueError:
        said = {}
    return said if isinstance(said, dict) else {}, stated


def _renewed(weights_of: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names within the network; the first files called its two layers linear1 and linear2."""
    first = {f"linear{number + 1}.{kind}": f"{number}.{kind}" for number in (0, 1) for kind in ("weight", "bias")}
    return {first.get(name, name.removeprefix("linear.")): tensor for name, tensor in weights_of.items()}


def encode(hypernetwork: Hypernetwork, metadata: Mapping[str, str], precision: str) -> bytes:
    """A .safetensors file of ours. Raises UserError for a weight that is not a finite number, or too large for float16."""
    from safetensors.torch import save

    tensors = {start + name: tensor for start, network in hypernetwork.parts() for name, tensor in _state(network, precision)}
    return save(tensors, {**metadata, **hypernetwork.structure.about, "format": "pt"})


def encode_pickled(
    hypernetwork: Hypernetwork, name: str, precision: str, step: int = 0, model: str | None = None, model_hash: str | None = None
) -> bytes:
    """A .pt file as A1111 writes and loads it. `name` is that of the file, by which prompts call it. Raises as `encode`."""
    import torch

    content: dict[int | str, Any] = {
        width: tuple({f"linear.{key}": tensor for key, tensor in _state(network, precision)} for network in both)
        for width, both in hypernetwork.networks.items()
    }
    content |= {"step": step, "name": name, **hypernetwork.structure.said, "optional_info": None}
    content |= {"sd_checkpoint": model_hash, "sd_checkpoint_name": model}
    buffer = io.BytesIO()
    # Not as a zip archive: A1111 (modules/safe.py) refuses those that hold records which torch writes only since its version 2.1.
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def _state(network: torch.nn.Sequential, precision: str) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise UserError("Nothing was written: the training has failed, a weight is not a finite number; lower the learning rate.")
        # A copy, so that a pickle doesn't hold the whole of a larger storage.
        rounded = tensor.detach().to("cpu", getattr(torch, precision), copy=True).contiguous()
        if not torch.isfinite(rounded).all():
            raise UserError("Nothing was written: a weight is too large for float16; set saving.precision to float32.")
        yield name, rounded
