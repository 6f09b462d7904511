"""Hypernetworks: small networks that change what the attentions of a UNet make keys and values from, as A1111 trains and reads them.

x + weight * network(x) takes the place of x, the text's encoding or the attention's own input, for every attention whose input has the
width of one of them; several one after the other. Source: AUTOMATIC1111/stable-diffusion-webui, modules/hypernetworks/hypernetwork.py,
apply_hypernetworks. Never asks which family the parts came from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from nosnja_gui import hypernetworks
from nosnja_gui.families.demand import attention_widths
from nosnja_gui.files import write_atomic
from nosnja_gui.hypernetworks import Activation, Hypernetwork, Initialisation, Structure
from nosnja_gui.methods import TRAINED, MethodSettings, Recipe, Trainable
from nosnja_gui.settings import Shown, Slider, UserError

if TYPE_CHECKING:
    import torch

    from nosnja_gui.families import Family, Parts
    from nosnja_gui.families.demand import Demand
    from nosnja_gui.sources import Source

COMPANIONS = "a1111"
"""Folder beside a finished file for what A1111 reads."""
MOST_LAYERS, LARGEST_MULTIPLE = 10, 32
INITIALISATION_TITLES = {
    "Normal": "normal",
    "KaimingUniform": "Kaiming, uniform",
    "KaimingNormal": "Kaiming, normal",
    "XavierUniform": "Xavier, uniform",
    "XavierNormal": "Xavier, normal",
}


class HypernetworkSettings(MethodSettings):
    layer_structure: Annotated[str, Shown(essential=True)] = "1, 2, 1"
    """Widths of the layers as multiples of the attention's own, from 1 to 1: "1, 2, 1" is usual, "1, 2, 2, 1" learns more and slower."""
    activation: Annotated[Activation, Shown(essential=True)] = "linear"
    """What stands between the layers: linear (nothing) is steady, swish or relu can learn more; A1111's swish is torch's Hardswish."""
    modules: Annotated[str, Field(title="Attention widths"), Shown(essential=True)] = ""
    """Which attentions are changed, by the width of their input; empty takes all of the model's: 320, 640, 768, 1280 for SD 1.5."""
    initialisation: Annotated[Initialisation, Shown(titles=INITIALISATION_TITLES)] = "Normal"
    """How weights begin: normal changes hardly anything at first; Kaiming goes with relu and its kin, Xavier with sigmoid and tanh."""
    layer_norm: Annotated[bool, Field(title="Layer norm")] = False
    """A norm layer behind each layer: steadier at high rates, and slower to learn."""
    dropout: Annotated[float, Field(ge=0, lt=1), Slider(0, 0.5, 0.05)] = 0.0
    """Share of the inner layers' outputs dropped while training: 0.3 holds overfitting back, and needs more steps; 0 is off."""
    activate_output: Annotated[bool, Field(title="Activate the output, too")] = False
    """Lets the activation follow the last layer as well: rarely wanted."""

    @field_validator("layer_structure")
    @classmethod
    def _is_a_structure(cls, text: str) -> str:
        layers = _numbers(text, float)
        if layers is None or not 2 <= len(layers) <= MOST_LAYERS or not all(0 < layer <= LARGEST_MULTIPLE for layer in layers):
            raise ValueError(f"must be 2 to {MOST_LAYERS} numbers from 0 to {LARGEST_MULTIPLE} with commas between them, such as 1, 2, 1")
        if layers[0] != 1 or layers[-1] != 1:
            raise ValueError("must begin and end with 1, as what comes out is added to what goes in, such as 1, 2, 1")
        return text

    @field_validator("modules")
    @classmethod
    def _are_widths(cls, text: str) -> str:
        widths = _numbers(text, int)
        if widths is None or not all(0 < width < 100_000 for width in widths):
            raise ValueError("must be whole numbers with commas between them, such as 768, 320, 640, 1280, or empty for all")
        return text

    @property
    def structure(self) -> Structure:
        layers = tuple(_numbers(self.layer_structure, float) or ())
        return Structure(
            layers=layers,
            activation=self.activation,
            initialisation=self.initialisation,
            layer_norm=self.layer_norm,
            dropout=(0.0, *[self.dropout] * (len(layers) - 2), 0.0) if self.dropout and len(layers) > 2 else (),
            activate_output=self.activate_output,
        )

    def widths(self, known: Sequence[int]) -> list[int]:
        """Those that are asked for, of a model that has these."""
        return sorted(set(_numbers(self.modules, int) or known))


def _numbers(text: str, kind: Callable[[str], Any]) -> list[Any] | None:
    """None where one of them is no number."""
    try:
        return [kind(piece) for piece in text.split(",")] if text.strip() else []
    except ValueError:
        return None


class HypernetworkMethod:
    name = "hypernetwork"
    title = "Hypernetwork"
    groups = ("hypernetwork",)
    modelspec = "/hypernetwork"
    whole = False

    def problems(self, recipe: Recipe, family: Family, source: Source) -> dict[str, str]:
        settings: HypernetworkSettings = recipe.settings["hypernetwork"]
        if "unet" not in family.adapter_parts:
            return {
                "method": f"A hypernetwork changes the attentions of a UNet, and {family.title} models have none: choose another method."
            }
        known = attention_widths(source.weights("unet"))
        wanted = settings.widths(known)
        if absent := [str(width) for width in wanted if width not in known]:
            return {
                "hypernetwork.modules": f"No attention of {source.name} is of the width {' or '.join(absent)}: "
                f"choose from {', '.join(map(str, known))}, or leave hypernetwork.modules empty for all."
            }
        if thin := [width for width in wanted if 0 in settings.structure.sizes(width)]:
            return {
                "hypernetwork.layer_structure": f"A layer of {settings.layer_structure} is thinner than 1 at width {thin[0]}: "
                "choose larger multiples."
            }
        return {}

    def trained_numbers(self, recipe: Recipe, demand: Demand) -> int:
        settings: HypernetworkSettings = recipe.settings["hypernetwork"]
        known = demand.unet.attention_widths
        return sum(settings.structure.numbers(width) for width in settings.widths(known) if width in known)

    def about(self, recipe: Recipe) -> dict[str, Any]:
        settings: HypernetworkSettings = recipe.settings["hypernetwork"]
        return settings.structure.about

    def recognises(self, names: Collection[str], metadata: Mapping[str, str]) -> bool:
        return hypernetworks.recognises(names)

    def attach(self, family: Family, parts: Parts, recipe: Recipe) -> list[Trainable]:
        """Two networks in float32 for each width, whatever the precision of the frozen model.

        Drawn on the CPU, so a seed gives the same start on every device. The denoiser goes into train mode (that matters for
        dropout only).
        """
        settings: HypernetworkSettings = recipe.settings["hypernetwork"]
        made = hypernetworks.fresh(settings.structure, settings.widths(sorted(_widths(parts.denoiser))))
        _wear(parts, made, TRAINED)
        parts.denoiser.train()
        named = dict(made.named_parameters())
        return [Trainable(part="unet", parameters=list(named.values()), names=list(named))]

    def save(
        self, family: Family, parts: Parts, file: Path, metadata: Mapping[str, str], precision: str = "float16", layout: str = "kohya"
    ) -> list[Path]:
        """Write the trained one, and beside it a .pt for A1111, whose prompts call it by the file's name.

        There is one layout only. Raises UserError, and leaves old files alone, if a weight is not a finite number.
        """
        trained = _kept(parts).networks[TRAINED]
        said = {"model": metadata.get("ss_sd_model_name"), "model_hash": metadata.get("ss_sd_model_hash")}
        steps = metadata.get("ss_steps", "")
        try:
            pickled = hypernetworks.encode_pickled(trained, file.stem, precision, int(steps) if steps.isdecimal() else 0, **said)
            content = hypernetworks.encode(trained, metadata, precision)
        except UserError as error:
            raise UserError(str(error).replace("Nothing was written", f"{file} was not written")) from None
        companion = file.parent / COMPANIONS / f"{file.stem}{hypernetworks.PICKLED}"
        write_atomic(companion, pickled)
        write_atomic(file, content)
        return [companion]

    def apply(self, family: Family, parts: Parts, file: Path, name: str) -> None:
        """Put a file, ours or a .pt of A1111's, onto the parts, frozen, at weight 1; several work in the order in which they came."""
        assert name not in _weights(parts), f"a hypernetwork '{name}' is applied already"
        if "unet" not in family.adapter_parts:
            raise UserError(f"{file} is a hypernetwork, which goes with a UNet, and {parts.base_name} has none: choose another model.")
        read = hypernetworks.read(file)
        known, of_text = _widths(parts.denoiser), parts.denoiser.config.cross_attention_dim
        # A1111 lets widths that a model hasn't go by, such as a 768 ticked for SD 2; what isn't made for the model's texts is another
        # family's, and what it has for the widths that both families have was trained beside other layers.
        if not known & set(read.networks) or (set(read.networks) - known and of_text not in read.networks):
            theirs, ours = (", ".join(map(str, sorted(widths))) for widths in (read.networks, known))
            raise UserError(
                f"{file} doesn't fit {parts.base_name}: it is for attentions of the widths {theirs}, and this model's are {ours}."
            )
        _wear(parts, read, name)

    def set_weights(self, family: Family, parts: Parts, weights: Mapping[str, float]) -> None:
        """At weight 0 for all, nothing of them is left in the denoiser: it is the base model to the last bit."""
        worn = _weights(parts)
        unknown = sorted(set(weights) - set(worn))
        assert not unknown, f"no hypernetwork is called {', '.join(unknown)}; there are: {', '.join(worn)}"
        worn.update({name: float(weights.get(name, 0.0)) for name in worn})
        _fit(parts)

    def remove(self, family: Family, parts: Parts, name: str) -> None:
        """Take an applied file off; others keep their weights."""
        del _weights(parts)[name], _kept(parts).networks[name]
        _fit(parts)


# At work in a denoiser


def _weights(parts: Parts) -> dict[str, float]:
    return parts.worn.setdefault("hypernetwork", {})


@dataclass
class _Kept:
    networks: dict[str, Hypernetwork] = field(default_factory=dict)
    hooks: list[_Hooks] = field(default_factory=list)


def _kept(parts: Parts) -> _Kept:
    return parts.kept.setdefault("hypernetwork", _Kept())


def _wear(parts: Parts, hypernetwork: Hypernetwork, name: str) -> None:
    for _, network in hypernetwork.parts():
        network.to(parts.device)
    _kept(parts).networks[name], _weights(parts)[name] = hypernetwork, 1.0
    _fit(parts)


def _fit(parts: Parts) -> None:
    """Have exactly those attentions hooked whose input is to be changed."""
    kept, weights = _kept(parts), _weights(parts)
    while kept.hooks:
        kept.hooks.pop().remove()
    worn = [(name, hypernetwork.networks, weights[name]) for name, hypernetwork in kept.networks.items() if weights[name]]
    for attention in _attentions(parts.denoiser):
        width = _width(attention)
        fitting = [(networks[width], weight, name == TRAINED) for name, networks, weight in worn if width in networks]
        if fitting:
            kept.hooks.append(_Hooks(attention, [partial(_changed, side, fitting) for side in range(len(hypernetworks.SIDES))]))


def _changed(side: int, fitting: Sequence[tuple[Any, float, bool]], layer: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a layer for keys or values (of this side) is given instead of (batch, tokens, width); in float32, rounded after each."""
    x, *others = inputs
    for networks, weight, trained in fitting:
        network = networks[side]
        # What is trained drops out while its denoiser does.
        if trained and network.training != layer.training:
            network.train(layer.training)
        precise = x.float()
        x = (precise + weight * network(precise)).to(x.dtype)
    return (x, *others)


class _Hooks:
    """The hooks of one attention. A LoRA wraps and unwraps its layers at any time, so the place of both is looked up anew each time."""

    def __init__(self, attention: torch.nn.Module, changes: Sequence[Callable[..., Any]]) -> None:
        self._changes = changes
        self._guard = attention.register_forward_pre_hook(lambda attention, inputs: self._follow(attention))
        self._hooked: list[tuple[torch.nn.Module, Any]] = []
        self._follow(attention)

    def _follow(self, attention: torch.nn.Module) -> None:
        layers = [attention.to_k, attention.to_v]
        if [id(layer) for layer, _ in self._hooked] != [id(layer) for layer in layers]:
            self._let_go()
            self._hooked = [(layer, layer.register_forward_pre_hook(change)) for layer, change in zip(layers, self._changes, strict=True)]

    def _let_go(self) -> None:
        for _, hook in self._hooked:
            hook.remove()
        self._hooked = []

    def remove(self) -> None:
        self._let_go()
        self._guard.remove()


def _attentions(denoiser: torch.nn.Module) -> Iterator[torch.nn.Module]:
    return (module for module in denoiser.modules() if hasattr(module, "to_k") and hasattr(module, "to_v"))


def _width(attention: Any) -> int:
    """How many numbers its keys and values are made from."""
    return (attention.to_k.get_base_layer() if hasattr(attention.to_k, "get_base_layer") else attention.to_k).in_features


def _widths(denoiser: torch.nn.Module) -> set[int]:
    return {_width(attention) for attention in _attentions(denoiser)}


ENTRY = HypernetworkMethod()
