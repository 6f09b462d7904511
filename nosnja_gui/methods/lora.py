"""LoRA: low-rank differences of the attention projections (Hu et al. 2021), trained through peft.

Files are written in the kohya layout that A1111 and ComfyUI read; read are that layout and diffusers' and peft's own.
Never asks which family the parts came from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from nosnja_gui.files import write_atomic
from nosnja_gui.methods import MethodSettings, Trainable
from nosnja_gui.settings import Shown, Slider, UserError
from nosnja_gui.weights import header

if TYPE_CHECKING:
    import torch

    from nosnja_gui.families import Family, Parts


class LoraSettings(MethodSettings):
    rank: Annotated[int, Field(ge=1, le=1024), Slider(1, 128, 1, logarithmic=True), Shown(essential=True)] = 16
    """Higher learns finer detail, makes a larger file and overfits sooner; 8 to 32 is usual."""
    alpha: Annotated[float, Field(gt=0, le=1024), Slider(1, 128, 1, logarithmic=True), Shown(essential=True)] = 8.0
    """Scales the updates by alpha / rank: 8 at rank 16 halves them, alpha = rank leaves them whole."""
    dropout: Annotated[float, Field(ge=0, lt=1), Slider(0, 0.5, 0.05)] = 0.0
    """Share of the LoRA's inputs dropped while training: 0.1 holds overfitting back a little."""

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


TRAINED = "trained"
"""Name of the adapter that is being trained."""
OTHER_KINDS = {
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "oft_": "an OFT",
    "boft_": "a BOFT",
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "lora_mid": "a LoRA with CP decomposition",
    ".diff": "a file of full differences",
    "emb_params": "a textual inversion",
    "string_to_param": "a textual inversion",
}
DOWN_ENDS = (".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight", "_lora.down.weight")
UP_ENDS = (".lora_up.weight", ".lora_B.weight", ".lora_B.default.weight", ".lora.up.weight", "_lora.up.weight")
ALPHA_ENDS = (".alpha",)


@dataclass
class Difference:
    """One module's update: weight + (alpha / rank) * up @ down."""

    down: torch.Tensor  # (rank, inputs) or (rank, inputs, kernel, kernel)
    up: torch.Tensor  # (outputs, rank) or (outputs, rank, 1, 1)
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


class Lora:
    name = "lora"
    title = "LoRA"
    settings = LoraSettings

    def attach(self, family: Family, parts: Parts, settings: LoraSettings, train_text_encoder: bool) -> list[Trainable]:
        """Add a LoRA in float32 to every attention projection, whatever the precision of the frozen model.

        The down matrices are drawn on the CPU, so a seed gives the same start on every device; the up matrices are zero, so
        nothing changes before the first step. Trained parts go into train mode (that matters for dropout only).
        """
        from peft import LoraConfig

        trainables = []
        for part, (module, suffixes) in family.trainable_modules(parts).items():
            if part.startswith("text_encoder") and not train_text_encoder:
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

    def save(
        self,
        family: Family,
        parts: Parts,
        file: Path,
        metadata: Mapping[str, str],
        precision: Literal["float16", "bfloat16", "float32"] = "float16",
    ) -> None:
        """Write the trained adapter. Raises UserError, and leaves an old file alone, if a weight is not a finite number."""
        import torch
        from safetensors.torch import save

        dtype = getattr(torch, precision)
        tensors: dict[str, torch.Tensor] = {}
        for part, (module, _) in family.trainable_modules(parts).items():
            for name, layer in _layers(module, TRAINED):
                key = _prefixes(family, parts)[part] + name.replace(".", "_")
                tensors[f"{key}.lora_down.weight"] = _finished(layer.lora_A[TRAINED].weight, dtype, file)
                tensors[f"{key}.lora_up.weight"] = _finished(layer.lora_B[TRAINED].weight, dtype, file)
                tensors[f"{key}.alpha"] = torch.tensor(float(layer.lora_alpha[TRAINED]))
        assert tensors, "nothing was attached, so there is nothing to save"
        content = save(tensors)
        # kohya's sshs_model_hash: sha256 of everything behind the header, so metadata doesn't change it.
        digest = hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()
        write_atomic(file, save(tensors, metadata={**metadata, "sshs_model_hash": digest}))

    def apply(self, family: Family, parts: Parts, file: Path, name: str) -> None:
        """Put a file onto the parts, frozen, in the model's precision, at weight 1; several can be on at once."""
        from peft import LoraConfig

        assert name not in parts.adapters, f"an adapter '{name}' is applied already"
        differences = read_differences(family, parts, file)
        for part, found in differences.items():
            module, _ = family.trainable_modules(parts)[part]
            config = LoraConfig(
                r=1,
                target_modules=list(found),
                rank_pattern={f"^{re.escape(target)}": difference.rank for target, difference in found.items()},
                alpha_pattern={f"^{re.escape(target)}": difference.alpha for target, difference in found.items()},
                inference_mode=True,
            )
            _inject(config, module, _adapter_key(name))
            for target, layer in _layers(module, _adapter_key(name)):
                _fill(layer, _adapter_key(name), found[target])
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
        self.set_weights(family, parts, dict(parts.adapters))


def read_differences(family: Family, parts: Parts, file: Path) -> dict[str, dict[str, Difference]]:
    """Part -> module name -> difference. Raises UserError for a damaged file, another kind of file or another model's."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    entries = header(file)
    for mark, title in OTHER_KINDS.items():
        if any(mark in key for key in entries):
            raise UserError(f"{file} is {title}, which cannot be applied yet: choose a LoRA file.")
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}): copy or download it again.") from None
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values() if tensor.is_floating_point()):
        raise UserError(f"{file} holds weights that are not finite numbers, its training had failed: choose another file.")

    modules = {part: module for part, (module, _) in family.trainable_modules(parts).items()}
    targets = _targets(_prefixes(family, parts), modules)
    grouped, strange = _group(tensors)
    unknown = sorted(key for key in grouped if key not in targets) + sorted(strange)
    if unknown and not _only_unloaded(unknown, modules):
        kind = "an SDXL model" if any("lora_te2_" in key for key in grouped) else "another kind of model"
        raise UserError(
            f"{file} doesn't fit {parts.base_name}: {len(unknown)} of its {len(grouped) + len(strange)} modules, such as '{unknown[0]}', "
            f"have no place there; it was trained on {kind}."
        )
    alphas = _peft_alphas(entries.get("__metadata__"))
    found: dict[str, dict[str, Difference]] = {}
    for key, pieces in grouped.items():
        if key not in targets:
            continue
        part, name = targets[key]
        difference = _difference(pieces, alphas.get(f"{part}.{name}", alphas.get(part)), key, file)
        _check_fit(modules[part].get_submodule(name), difference, key, file, parts.base_name)
        found.setdefault(part, {})[name] = difference
    if not found:
        raise UserError(f"{file} holds no LoRA weights: choose a LoRA file.")
    return found


def _prefixes(family: Family, parts: Parts) -> dict[str, str]:
    return {names.part: f"{names.kohya}_{names.inner.replace('.', '_')}" for names in family.names(parts)}


def _targets(prefixes: Mapping[str, str], modules: Mapping[str, torch.nn.Module]) -> dict[str, tuple[str, str]]:
    """Every name under which a file may speak of a linear or convolution layer -> (part, module name)."""
    import torch
    from peft.tuners.lora import LoraLayer

    targets: dict[str, tuple[str, str]] = {}
    for part, module in modules.items():
        prefix = prefixes[part]
        for name, layer in module.named_modules():
            if isinstance(layer, LoraLayer | torch.nn.Linear | torch.nn.Conv2d) and ".lora_" not in name and ".base_layer" not in name:
                targets[prefix + name.replace(".", "_")] = (part, name)
                targets[f"{part}.{name}"] = (part, name)
                if part.startswith("text_encoder"):
                    targets[f"{part}.text_model.{name}"] = (part, name)
    return targets


def _group(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, dict[str, torch.Tensor]], list[str]]:
    """Tensors by module key and role (down, up, alpha), and the keys that are none of these."""
    grouped: dict[str, dict[str, torch.Tensor]] = {}
    strange = []
    for key, tensor in tensors.items():
        for role, ends in (("down", DOWN_ENDS), ("up", UP_ENDS), ("alpha", ALPHA_ENDS)):
            end = next((end for end in ends if key.endswith(end)), None)
            if end:
                grouped.setdefault(_plain(key.removesuffix(end)), {})[role] = tensor
                break
        else:
            strange.append(key)
    return grouped, strange


def _plain(key: str) -> str:
    """Old diffusers names ('...attn1.processor.to_q', '...to_out') and peft's ('base_model.model.') in today's form."""
    key = key.removeprefix("base_model.model.")
    if ".processor." in key:
        key = re.sub(r"\.processor\.(to_[qkv]|to_out)$", r".\1", key)
        key = f"{key}.0" if key.endswith(".to_out") else key
    return key


def _only_unloaded(unknown: list[str], modules: Mapping[str, torch.nn.Module]) -> bool:
    """Whether the parts that have no place all belong to a part of the model that simply wasn't loaded."""
    absent = [part for part in ("unet", "text_encoder") if part not in modules]
    starts = tuple(start for part in absent for start in ({"unet": "lora_unet_", "text_encoder": "lora_te_"}[part], f"{part}."))
    return bool(starts) and all(key.startswith(starts) for key in unknown)


def _peft_alphas(metadata: Mapping[str, str] | None) -> dict[str, float]:
    """Alphas of a file that diffusers saved, by part and by part and module: they are in its metadata, not beside the weights."""
    try:
        saved = json.loads((metadata or {})["lora_adapter_metadata"])
        alphas = {part: float(saved[f"{part}.lora_alpha"]) for part in ("unet", "text_encoder") if f"{part}.lora_alpha" in saved}
        patterns = {(part, name): alpha for part in alphas for name, alpha in (saved.get(f"{part}.alpha_pattern") or {}).items()}
        return alphas | {f"{part}.{name}": float(alpha) for (part, name), alpha in patterns.items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _difference(pieces: Mapping[str, torch.Tensor], stated_alpha: float | None, key: str, file: Path) -> Difference:
    """Without any alpha, alpha is the rank: that is how such files are meant."""
    if "down" not in pieces or "up" not in pieces or min(pieces["down"].ndim, pieces["up"].ndim) < 2:
        raise UserError(f"{file} is incomplete, '{key}' lacks one of its two matrices: copy or download it again.")
    down, up = pieces["down"].float(), pieces["up"].float()
    alpha = float(pieces["alpha"].float().reshape(-1)[0]) if "alpha" in pieces else stated_alpha
    return Difference(down, up, float(down.shape[0]) if alpha is None else alpha)


def _check_fit(layer: torch.nn.Module, difference: Difference, key: str, file: Path, base_name: str) -> None:
    base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    outputs, inputs = base.weight.shape[0], base.weight[0].numel()
    ours = difference.up.shape[0], difference.down[0].numel()
    if ours != (outputs, inputs) or difference.up[0].numel() != difference.rank:
        raise UserError(
            f"{file} doesn't fit {base_name}: '{key}' is made for {ours[1]} inputs and {ours[0]} outputs, "
            f"but the model has {inputs} and {outputs} there; it was trained on another kind of model."
        )


def _fill(layer: Any, key: str, difference: Difference) -> None:
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


def _finished(weight: torch.Tensor, dtype: torch.dtype, file: Path) -> torch.Tensor:
    import torch

    if not torch.isfinite(weight).all():
        raise UserError(f"{file} was not written: the training has failed, a weight is not a finite number; lower the learning rate.")
    tensor = weight.detach().to("cpu", dtype).contiguous()
    if not torch.isfinite(tensor).all():
        raise UserError(f"{file} was not written: a weight is too large for float16; set saving.precision to float32.")
    return tensor


ENTRY = Lora()
