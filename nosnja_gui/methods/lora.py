"""LoRA: low-rank differences of the attention projections (Hu et al. 2021), trained through peft; its whole kin is applied.

Files are read and written by `nosnja_gui.adapters` in every layout. Never asks which family the parts came from.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from nosnja_gui.adapters import Adapter, Address, LowRank, Update
from nosnja_gui.adapters.reading import read
from nosnja_gui.adapters.writing import Layout, Precision, encode
from nosnja_gui.files import write_atomic
from nosnja_gui.methods import TRAINED, MethodSettings, Recipe, Trainable
from nosnja_gui.settings import Shown, Slider, UserError
from nosnja_gui.sources import described

if TYPE_CHECKING:
    import torch

    from nosnja_gui.families import Family, Parts
    from nosnja_gui.families.demand import Demand
    from nosnja_gui.sources import Source


class LoraSettings(MethodSettings):
    rank: Annotated[int, Field(ge=1, le=1024), Slider(1, 128, 1, logarithmic=True), Shown(essential=True)] = 16
    """Higher learns finer detail, makes a larger file and overfits sooner; 8 to 32 is usual."""
    alpha: Annotated[float, Field(gt=0, le=1024), Slider(1, 128, 1, logarithmic=True), Shown(essential=True)] = 8.0
    """Scales the updates by alpha / rank: 8 at rank 16 halves them, alpha = rank leaves them whole."""
    dropout: Annotated[float, Field(ge=0, lt=1), Slider(0, 0.5, 0.05)] = 0.0
    """Share of the LoRA's inputs dropped while training: 0.1 holds overfitting back a little."""

    start_from: Annotated[str, Field(title="Go on from a LoRA")] = ""
    """A LoRA file to go on training, by path or by its name in the models folder; of a higher rank it is brought to this one."""

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class Lora:
    name = "lora"
    title = "LoRA"
    groups = ("lora",)
    modelspec = "/lora"
    whole = False

    def problems(self, recipe: Recipe, family: Family, source: Source) -> dict[str, str]:
        return {}

    def trained_numbers(self, recipe: Recipe, demand: Demand) -> int:
        """Two matrices for each layer: inputs x rank and rank x outputs (Hu et al. 2021, section 4.1)."""
        settings: LoraSettings = recipe.settings["lora"]
        widths = demand.adapter_widths.items()
        return settings.rank * sum(width for part, width in widths if recipe.train_text_encoder or not part.startswith("text_encoder"))

    def about(self, recipe: Recipe) -> dict[str, Any]:
        settings: LoraSettings = recipe.settings["lora"]
        return {
            "ss_network_module": "networks.lora",
            "ss_network_dim": settings.rank,
            "ss_network_alpha": settings.alpha,
            "ss_network_dropout": settings.dropout,
        }

    def recognises(self, names: Collection[str], metadata: Mapping[str, str]) -> bool:
        return described(names) == "a LoRA or one of its kin"

    def attach(self, family: Family, parts: Parts, recipe: Recipe) -> list[Trainable]:
        """Add a LoRA in float32 to every attention projection, whatever the precision of the frozen model.

        The down matrices are drawn on the CPU, so a seed gives the same start on every device; the up matrices are zero, so
        nothing changes before the first step. Trained parts go into train mode (that matters for dropout only).
        """
        from peft import LoraConfig

        settings: LoraSettings = recipe.settings["lora"]
        trainables = []
        for part, (module, suffixes) in family.trainable_modules(parts).items():
            if part.startswith("text_encoder") and not recipe.train_text_encoder:
                continue
            config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=list(suffixes))
            _inject(config, module, TRAINED)
            names, parameters = [], []
            for name, layer in _layers(module, TRAINED):
                for which, linear in (("lora_down", layer.lora_A[TRAINED]), ("lora_up", layer.lora_B[TRAINED])):
                    linear.float()
                    names.append(f"{part}.{name}.{which}.weight")
                    parameters.append(linear.weight.requires_grad_(True))
            assert parameters, f"no module of {part} ends with one of {suffixes}"
            module.train()
            trainables.append(Trainable(part=part, parameters=parameters, names=names))
        parts.adapters[TRAINED] = 1.0
        self.set_weights(family, parts, parts.adapters)
        return trainables

    def trained(self, family: Family, parts: Parts) -> Adapter:
        """The trained adapter as data; its tensors are the parameters themselves."""
        updates: dict[Address, Update] = {}
        for part, (module, _) in family.trainable_modules(parts).items():
            for name, layer in _layers(module, TRAINED):
                down, up = layer.lora_A[TRAINED].weight.detach(), layer.lora_B[TRAINED].weight.detach()
                updates[part, name] = LowRank(down, up, float(layer.lora_alpha[TRAINED]))
        assert updates, "nothing was attached, so there is nothing to save"
        return Adapter(updates)

    def save(
        self,
        family: Family,
        parts: Parts,
        file: Path,
        metadata: Mapping[str, str],
        precision: Precision = "float16",
        layout: Layout = "kohya",
    ) -> list[Path]:
        """Write the trained adapter. Raises UserError, and leaves an old file alone, if a weight is not a finite number."""
        try:
            content = encode(self.trained(family, parts), family.names(parts), layout, precision, metadata)
        except UserError as error:
            raise UserError(str(error).replace("Nothing was written", f"{file} was not written")) from None
        write_atomic(file, content)
        return []

    def start_from(self, family: Family, parts: Parts, adapter: Adapter) -> None:
        """Begin where a LoRA left off: plain updates of the trained rank or less, of modules that are trained.

        Lesser ranks are filled up with what a fresh LoRA begins with, so they change nothing at first.
        """
        import torch

        with torch.no_grad():
            for part, (module, _) in family.trainable_modules(parts).items():
                for name, layer in _layers(module, TRAINED):
                    update = adapter.updates.get((part, name))
                    if not isinstance(update, LowRank):
                        continue
                    down, up = layer.lora_A[TRAINED].weight, layer.lora_B[TRAINED].weight
                    scale = (update.alpha / update.rank) / layer.scaling[TRAINED]
                    # Both matrices take an equal part of the scale, so that both go on learning at a like pace.
                    half = abs(scale) ** 0.5
                    down[: update.rank] = (update.down.flatten(1) * half).reshape(update.rank, *down.shape[1:]).to(down)
                    sign = 1.0 if scale >= 0 else -1.0
                    up[:, : update.rank] = (update.up.flatten(1) * (sign * half)).reshape(up.shape[0], update.rank, *up.shape[2:]).to(up)

    def apply(self, family: Family, parts: Parts, file: Path, name: str) -> None:
        """Put a file onto the parts, frozen, at weight 1; several can be on at once.

        Plain LoRAs go beside the weights, in the model's precision. What isn't a product of two matrices (LoHa, LoKr, DoRA, whole
        differences) is added to the weights themselves, whose originals are kept in the machine's memory.
        """
        names = family.names(parts)
        absent = set(family.adapter_parts) - {part.part for part in names}
        self.put_on(family, parts, read(file, names, parts.base_name, absent), name)

    def put_on(self, family: Family, parts: Parts, adapter: Adapter, name: str) -> None:
        """`apply` of what was read already."""
        from peft import LoraConfig

        assert name not in parts.adapters, f"an adapter '{name}' is applied already"
        modules = {part: module for part, (module, _) in family.trainable_modules(parts).items()}
        plain = {address: update for address, update in adapter.updates.items() if isinstance(update, LowRank) and update.mid is None}
        for part, module in modules.items():
            found = {target: update for (where, target), update in plain.items() if where == part}
            if not found:
                continue
            config = LoraConfig(
                r=1,
                target_modules=list(found),
                rank_pattern={f"^{re.escape(target)}$": update.rank for target, update in found.items()},
                alpha_pattern={f"^{re.escape(target)}$": update.alpha for target, update in found.items()},
                inference_mode=True,
            )
            _inject(config, module, _adapter_key(name))
            for target, layer in _layers(module, _adapter_key(name)):
                _fill(layer, _adapter_key(name), found[target])
        others = {address: update for address, update in adapter.updates.items() if address not in plain}
        if others or adapter.biases:
            parts.patches[name] = Adapter(others, adapter.biases)
        parts.adapters[name] = 1.0
        self.set_weights(family, parts, parts.adapters)

    def set_weights(self, family: Family, parts: Parts, weights: Mapping[str, float]) -> None:
        """Adapters of weight 0 are skipped wholly, not multiplied by 0: the model then is the base model to the last bit."""
        unknown = sorted(set(weights) - set(parts.adapters))
        assert not unknown, f"no adapter is called {', '.join(unknown)}; there are: {', '.join(parts.adapters)}"
        parts.adapters.update({name: float(weights.get(name, 0.0)) for name in parts.adapters})
        active = [_adapter_key(name) for name, weight in parts.adapters.items() if weight != 0]
        for module, _ in family.trainable_modules(parts).values():
            with _kept_trainable(module):
                for _, layer in _layers(module):
                    layer.enable_adapters(bool(active))
                    layer.set_adapter(active, inference_mode=True)
                    for name, weight in parts.adapters.items():
                        layer.set_scale(_adapter_key(name), weight)
        _patch(family, parts)

    def remove(self, family: Family, parts: Parts, name: str) -> None:
        """Take an applied file off; other adapters keep their weights."""
        assert name in parts.adapters, f"no adapter is called '{name}'; applied: {', '.join(parts.adapters)}"
        for module, _ in family.trainable_modules(parts).values():
            with _kept_trainable(module):
                for path, layer in list(_layers(module, _adapter_key(name))):
                    layer.set_adapter([], inference_mode=True)  # peft would choose, and announce, another one itself
                    layer.delete_adapter(_adapter_key(name))
                    if not layer.lora_A:
                        parent, _, child = path.rpartition(".")
                        setattr(module.get_submodule(parent), child, layer.get_base_layer())
            getattr(module, "peft_config", {}).pop(_adapter_key(name), None)
        del parts.adapters[name]
        parts.patches.pop(name, None)
        self.set_weights(family, parts, dict(parts.adapters))


def _patch(family: Family, parts: Parts) -> None:
    """Add what is on to the weights' originals; where nothing is on any more the original itself comes back."""
    import torch

    wanted: dict[tuple[str, str, str], list[tuple[Any, float]]] = {}
    for name, adapter in parts.patches.items():
        if weight := parts.adapters.get(name, 0.0):
            for address, update in adapter.updates.items():
                wanted.setdefault((*address, "weight"), []).append((update, weight))
            for address, difference in adapter.biases.items():
                wanted.setdefault((*address, "bias"), []).append((difference, weight))
    if not wanted and not parts.originals:
        return
    modules = {part: module for part, (module, _) in family.trainable_modules(parts).items()}
    with torch.no_grad():
        for place in [*parts.originals, *(place for place in wanted if place not in parts.originals)]:
            part, target, which = place
            layer = modules[part].get_submodule(target)
            parameter = getattr(layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer, which)
            if parameter is None:
                raise UserError(f"'{target}' of {parts.base_name} has no {which}, which the LoRA changes: choose a LoRA of this model.")
            original = parts.originals.setdefault(place, parameter.detach().to("cpu", copy=True)).to(parameter.device)
            total = original.float()
            for change, weight in wanted.get(place, []):
                delta = change if which == "bias" else _on(change, parameter.device).delta(original)
                total = total + weight * delta.to(total.device, torch.float32).reshape(total.shape)
            parameter.copy_(total)
            if place not in wanted:
                del parts.originals[place]


def _on(update: Any, device: torch.device) -> Any:
    """An update with its tensors there."""
    import torch

    def moved(value: Any) -> Any:
        return value.to(device) if isinstance(value, torch.Tensor) else _on(value, device) if is_dataclass(value) else value

    return replace(update, **{field.name: moved(getattr(update, field.name)) for field in fields(update)})


def _fill(layer: Any, key: str, difference: LowRank) -> None:
    import torch

    base = layer.get_base_layer()
    for linear, values in ((layer.lora_A[key], difference.down), (layer.lora_B[key], difference.up)):
        with torch.no_grad():
            linear.weight.copy_(values.reshape(linear.weight.shape))
        linear.to(base.weight.device, base.weight.dtype).requires_grad_(False)
    layer.lora_dropout[key].eval()


def _layers(module: torch.nn.Module, key: str | None = None) -> Iterator[tuple[str, Any]]:
    """peft's layers in the module by the name of what they stand for, in the module's order."""
    from peft.tuners.lora import LoraLayer

    for name, layer in module.named_modules():
        if isinstance(layer, LoraLayer) and (key is None or key in layer.lora_A):
            yield name, layer


def _inject(config: Any, module: torch.nn.Module, key: str) -> None:
    from peft import inject_adapter_in_model

    with _kept_trainable(module), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters at once are meant
        inject_adapter_in_model(config, module, key)


@contextlib.contextmanager
def _kept_trainable(module: torch.nn.Module) -> Iterator[None]:
    """peft switches requires_grad when adapters are switched; what was trainable before stays so, and nothing else becomes it."""
    trainable = {id(parameter) for parameter in module.parameters() if parameter.requires_grad}
    yield
    for parameter in module.parameters():
        parameter.requires_grad_(id(parameter) in trainable)


def _adapter_key(name: str) -> str:
    """torch refuses dots in the names of submodules, and files are called 'costume-v1.2'."""
    return name.replace(".", "\N{MIDDLE DOT}")


ENTRY = Lora()
