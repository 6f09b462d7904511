"""LoRA (Hu et al. 2021) and its kin, DoRA, LoHa, LoKr, OFT and BOFT: small differences of a model's layers, trained through peft.

Files are read and written by `nosnja_gui.adapters` in every layout. Never asks which family the parts came from.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from nosnja_gui.adapters import Adapter, Address, LowRank, Update, rotating, targets
from nosnja_gui.adapters.reading import read
from nosnja_gui.adapters.targets import PartLayers, Targets
from nosnja_gui.adapters.writing import Layout, Precision, encode
from nosnja_gui.families import packing
from nosnja_gui.files import write_atomic
from nosnja_gui.methods import TRAINED, MethodSettings, Recipe, Trainable, lora_layers
from nosnja_gui.methods.lora_layers import WHOLE, Piece
from nosnja_gui.settings import Shown, Slider, UserError
from nosnja_gui.sources import described

if TYPE_CHECKING:
    import torch

    from nosnja_gui.families import Family, Parts
    from nosnja_gui.families.demand import Demand
    from nosnja_gui.sources import Source

Algorithm = Literal["lora", "loha", "lokr", "oft", "boft"]
ALGORITHM_TITLES = {"lora": "LoRA", "loha": "LoHa", "lokr": "LoKr", "oft": "OFT", "boft": "BOFT"}
TARGET_TITLES = {
    "attention": "Attention",
    "attention_ff": "Attention and feed-forward",
    "everything": "Everything (LoCon: convolutions too)",
}
BELONGS_TO: dict[str, tuple[Algorithm, ...]] = {
    "rank": ("lora", "loha", "lokr"),
    "alpha": ("lora", "loha", "lokr"),
    "rank_stabilised": ("lora", "loha", "lokr"),
    "text_encoder_rank": ("lora", "loha", "lokr"),
    "conv_rank": ("lora", "loha", "lokr"),
    "conv_alpha": ("lora", "loha", "lokr"),
    "dora": ("lora",),
    "dropout": ("lora",),
    "plus_ratio": ("lora",),
    "rank_dropout": ("loha", "lokr"),
    "module_dropout": ("loha", "lokr"),
    "tucker": ("loha", "lokr"),
    "factor": ("lokr",),
    "decompose_both": ("lokr",),
    "full_matrix": ("lokr",),
    "block_size": ("oft", "boft"),
    "constraint": ("oft", "boft"),
    "butterfly_stages": ("boft",),
    "rescale": ("boft",),
}
"""Settings that only some algorithms have."""


class LoraSettings(MethodSettings):
    algorithm: Annotated[Algorithm, Shown(essential=True, titles=ALGORITHM_TITLES)] = "lora"
    """How the difference is put together: LoRA is read by every program; LoHa and LoKr hold more in less; OFT and BOFT only rotate."""
    rank: Annotated[int, Field(ge=1, le=1024), Slider(1, 128, 1, logarithmic=True), Shown(essential=True)] = 16
    """Higher learns finer detail, makes a larger file and overfits sooner; 8 to 32 is usual."""
    alpha: Annotated[float, Field(gt=0, le=1024), Slider(1, 128, 1, logarithmic=True), Shown(essential=True)] = 8.0
    """Scales the updates by alpha / rank: 8 at rank 16 halves them, alpha = rank leaves them whole."""
    targets: Annotated[Targets, Field(title="Layers"), Shown(essential=True, titles=TARGET_TITLES)] = "attention"
    """Which layers learn: attention is enough for a person or a thing; more layers learn a style faster and make a larger file."""
    dora: Annotated[bool, Field(title="DoRA")] = False
    """Learns lengths and directions of the weights apart (DoRA): often more like the pictures at low ranks, and a third slower."""
    rank_stabilised: Annotated[bool, Field(title="Rank-stabilised (rsLoRA)")] = False
    """Scales by alpha / √rank: high ranks learn as fast as low ones; choose alpha = √rank to leave the updates whole."""
    dropout: Annotated[float, Field(ge=0, lt=1), Slider(0, 0.5, 0.05)] = 0.0
    """Share of the LoRA's inputs dropped while training: 0.1 holds overfitting back a little."""
    rank_dropout: Annotated[float, Field(ge=0, lt=1), Slider(0, 0.5, 0.05)] = 0.0
    """Share of an update's rows dropped in each step: 0.1 holds overfitting back a little."""
    module_dropout: Annotated[float, Field(ge=0, lt=1), Slider(0, 0.5, 0.05)] = 0.0
    """Share of the layers left out of each step: 0.1 holds overfitting back a little."""
    text_encoder_rank: Annotated[int | None, Field(ge=1, le=1024, title="Rank of the text encoder"), Shown(empty="as rank", start=8)] = None
    """Another rank where the text encoder is trained, at the same strength; half the rank is enough for a trigger word."""
    conv_rank: Annotated[int | None, Field(ge=1, le=1024, title="Rank of convolutions"), Shown(empty="as rank", start=8)] = None
    """Rank of convolutions of 3 x 3 and more, where all layers are trained: half the rank or less is usual."""
    conv_alpha: Annotated[float | None, Field(gt=0, le=1024, title="Alpha of convolutions"), Shown(empty="as alpha", start=4)] = None
    """Alpha of convolutions of 3 x 3 and more; empty takes that of the other layers."""
    block_ranks: Annotated[str, Field(title="Ranks by block"), Shown(empty="as rank")] = ""
    """Other ranks for blocks, at the same strength, 0 to leave one out: 'down.0: 4, mid: 16, up.*: 8'; the last that fits counts."""
    pattern: Annotated[str, Field(title="Layers by expression"), Shown(empty="by the choice above")] = ""
    """A regular expression for names of layers instead of the choice above, such as 'attn2' or 'up_blocks.*to_v'."""
    plus_ratio: Annotated[float, Field(ge=1, le=64, title="LoRA+ ratio"), Slider(1, 16, 1)] = 1.0
    """The up matrices learn this many times as fast (LoRA+): 16 is the paper's value, then lower the rate; 1 is off."""
    max_norm: Annotated[float | None, Field(gt=0, le=1000), Shown(empty="no limit", start=1)] = None
    """Holds each layer's update below this norm after every step, so that none burns in: 1 is usual."""
    tucker: Annotated[bool, Field(title="Tucker decomposition of convolutions")] = False
    """Makes updates of convolutions smaller by a core between their factors."""
    factor: Annotated[int, Field(ge=-1, le=1024, title="LoKr factor"), Slider(-1, 32, 1)] = -1
    """Size of the smaller factor: 4 to 16 is usual, higher makes a smaller file; -1 makes both as alike as can be."""
    decompose_both: Annotated[bool, Field(title="Decompose both factors")] = False
    """Makes low ranks of the smaller factor, too; that saves little."""
    full_matrix: Annotated[bool, Field(title="Whole factors (rank doesn't count)")] = False
    """Leaves both factors whole: what is usual with a factor of 8 or 16; rank and alpha then do nothing."""
    block_size: Annotated[int, Field(ge=2, le=512, title="Block size"), Slider(2, 64, 2)] = 32
    """Outputs that are rotated together, or the nearest number that fits a layer: larger learns more and makes a larger file."""
    constraint: Annotated[float, Field(ge=0, le=1, title="Constraint (COFT)"), Slider(0, 0.01, 0.0001)] = 0.0
    """Holds the rotation's angle down: 0.001 keeps close to the model; 0 is off."""
    butterfly_stages: Annotated[int | None, Field(ge=1, le=16), Shown(empty="as many as connect all", start=2)] = None
    """Rotations one after the other (BOFT's factors): fewer make a smaller file that mixes less."""
    rescale: Annotated[bool, Field(title="Learn lengths, too")] = False
    """Also learns a factor for each output of a layer."""

    start_from: Annotated[str, Field(title="Go on from a LoRA")] = ""
    """A LoRA file to go on training, by path or by its name in the models folder; of a higher rank it is brought to this one."""

    @field_validator("block_ranks")
    @classmethod
    def _readable_ranks(cls, text: str) -> str:
        targets.block_ranks(text)
        return text.strip()

    @field_validator("pattern")
    @classmethod
    def _readable_pattern(cls, text: str) -> str:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"must be a regular expression ({error})") from None
        return text.strip()

    @field_validator("factor")
    @classmethod
    def _some_factor(cls, factor: int) -> int:
        if factor == 0:
            raise ValueError("must be -1 or at least 1")
        return factor

    @property
    def scale(self) -> float:
        if self.algorithm in ("oft", "boft") or (self.algorithm == "lokr" and self.full_matrix):
            return 1.0
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)

    def without_effect(self) -> list[str]:
        """Fields that change nothing as the others stand."""
        idle = {name for name, algorithms in BELONGS_TO.items() if self.algorithm not in algorithms}
        if self.algorithm == "lokr" and self.full_matrix:
            idle |= {"rank", "alpha", "rank_stabilised", "text_encoder_rank", "conv_rank", "conv_alpha", "decompose_both", "tucker"}
        if self.pattern:
            idle.add("targets")
        elif self.targets != "everything":
            idle |= {"conv_rank", "conv_alpha", "tucker"}
        return [name for name in type(self).model_fields if name in idle]

    def refused_by(self, layout: Layout) -> str:
        """Why files of that layout cannot hold what is trained; empty where they can."""
        if layout != "diffusers" or self.algorithm == "lora":
            return ""
        return f"The diffusers layout cannot hold a {ALGORITHM_TITLES[self.algorithm]}: set saving.layout to kohya or comfyui."

    def pieces(self, part: str, layers: PartLayers) -> dict[str, Piece]:
        """What is put on which layers of a part. Raises UserError for a layer that the algorithm cannot go on."""
        by_block = targets.block_ranks(self.block_ranks)
        found = {}
        for name, shape in layers.chosen(self.targets, self.pattern).items():
            rank, alpha = self.rank, self.alpha
            if targets.is_convolution(shape):
                rank, alpha = self.conv_rank or rank, self.conv_alpha or alpha
            usual = rank
            if part.startswith("text_encoder"):
                rank = self.text_encoder_rank or rank
            own = targets.rank_in(by_block, name)
            rank = rank if own is None else own
            if not rank:
                continue
            # The strength stays as it is, whether alpha / rank or alpha / √rank (Kalajdzievski 2023, Eq. 5); files say alpha for / rank.
            if self.rank_stabilised:
                alpha *= math.sqrt(rank)
            elif rank != usual:
                alpha *= rank / usual
            found[name] = Piece(shape, rank, alpha)
        return found

    def rank_of_factors(self, rank: int) -> int:
        return WHOLE if self.algorithm == "lokr" and self.full_matrix else rank

    def rotation_of(self, outputs: int) -> tuple[int, ...]:
        """The shape of the blocks that rotate so many outputs."""
        if self.algorithm == "oft":
            groups, size = targets.rotation(outputs, self.block_size)
            return groups, size, size
        try:
            stages, groups, size = targets.butterfly(outputs, self.block_size, self.butterfly_stages)
        except ValueError:
            raise UserError(f"A BOFT cannot go on a layer of {outputs} outputs, which is an odd number: choose other layers.") from None
        return stages, groups, size, size

    def numbers(self, piece: Piece) -> int:
        """How many parameters a piece has."""
        shape, rank = piece.shape, self.rank_of_factors(piece.rank)
        if self.algorithm == "lora":
            return targets.of_lora(shape, rank, self.dora)
        if self.algorithm == "loha":
            return targets.of_loha(shape, rank, self.tucker)
        if self.algorithm == "lokr":
            return targets.of_lokr(shape, rank, self.factor, self.decompose_both, self.tucker)
        return math.prod(self.rotation_of(shape[0])) + (shape[0] if self.algorithm == "boft" and self.rescale else 0)

    def rebuilt_bytes(self, layers: Mapping[str, PartLayers], number: int, checkpointing: bool) -> int:
        """Memory of a training step for weights that are put together anew for each layer and kept for the backward pass.

        LoHa and LoKr make the whole difference in float32; rotations keep the weight in float32 before each stage, and the rotated one
        in the model's format (`number` bytes). With checkpointing one block's at a time.
        """
        if self.algorithm == "lora":
            return 0
        blocks: dict[str, int] = {}
        for part, found in layers.items():
            for name, piece in self.pieces(part, found).items():
                size = 4
                if self.algorithm in ("oft", "boft"):
                    stages = self.rotation_of(piece.shape[0])[:-3] or (1,)
                    size = 4 * stages[0] + number
                block = f"{part}.{targets.block_of(name).rpartition('.')[0]}"
                blocks[block] = blocks.get(block, 0) + size * math.prod(piece.shape)
        return max(blocks.values(), default=0) if checkpointing else sum(blocks.values())


class Lora:
    name = "lora"
    title = "LoRA"
    groups = ("lora",)
    modelspec = "/lora"
    whole = False

    def problems(self, recipe: Recipe, family: Family, source: Source) -> dict[str, str]:
        settings: LoraSettings = recipe.settings["lora"]
        if not settings.pattern and not settings.block_ranks and settings.algorithm != "boft":
            return {}
        try:
            layers = trained_parts(recipe, family.demand(source).layers)
            chosen = {part: found.chosen(settings.targets, settings.pattern) for part, found in layers.items()}
            if not any(chosen.values()):
                return {
                    "lora.pattern": f"lora.pattern '{settings.pattern}' is found in no layer's name of {source.name}: "
                    "take a part of a name such as 'attn2', or leave it empty."
                }
            blocks = {targets.block_of(name) for found in chosen.values() for name in found} - {""}
            for pattern in targets.block_ranks(settings.block_ranks):
                if all(targets.rank_in({pattern: 1}, name) is None for found in chosen.values() for name in found):
                    return {
                        "lora.block_ranks": f"lora.block_ranks names '{pattern}', in which no layer of {source.name} is trained: "
                        f"there are {', '.join(sorted(blocks))}."
                    }
            if not any(settings.pieces(part, found) for part, found in layers.items()):
                return {"lora.block_ranks": "lora.block_ranks leaves out every block: give at least one a rank above 0."}
            self.trained_numbers(recipe, family.demand(source))
        except UserError as error:
            return {"lora.algorithm": str(error)}
        except (KeyError, OSError):  # a damaged model, which is told of by itself
            return {}
        return {}

    def trained_numbers(self, recipe: Recipe, demand: Demand) -> int:
        """Two matrices for each layer of a LoRA: inputs x rank and rank x outputs (Hu et al. 2021, section 4.1)."""
        settings: LoraSettings = recipe.settings["lora"]
        return sum(
            settings.numbers(piece)
            for part, layers in trained_parts(recipe, demand.layers).items()
            for piece in settings.pieces(part, layers).values()
        )

    def about(self, recipe: Recipe) -> dict[str, Any]:
        """Under the names of sd-scripts (networks/lora.py) and LyCORIS (lycoris/kohya.py), which has all that is no plain LoRA."""
        settings: LoraSettings = recipe.settings["lora"]
        idle = settings.without_effect()

        def set_or_none(name: str) -> Any:
            default = type(settings).model_fields[name].default
            return None if name in idle or getattr(settings, name) == default else getattr(settings, name)

        lycoris = settings.algorithm != "lora" or settings.dora or settings.rank_stabilised
        rotates = settings.algorithm in ("oft", "boft")
        convolves = "conv_rank" not in idle
        arguments = {
            "algo": {"oft": "diag-oft"}.get(settings.algorithm, settings.algorithm) if lycoris else None,
            "conv_dim": (settings.conv_rank or settings.rank) if convolves else None,
            "conv_alpha": (settings.conv_alpha or settings.alpha) if convolves else None,
            "dora_wd": set_or_none("dora"),
            "wd_on_output": set_or_none("dora"),
            "rs_lora": set_or_none("rank_stabilised"),
            "rank_dropout": set_or_none("rank_dropout"),
            "module_dropout": set_or_none("module_dropout"),
            "use_tucker": set_or_none("tucker"),
            "factor": settings.factor if settings.algorithm == "lokr" else None,
            "decompose_both": set_or_none("decompose_both"),
            "full_matrix": set_or_none("full_matrix"),
            "constraint": set_or_none("constraint"),
            "rescaled": set_or_none("rescale"),
            "loraplus_lr_ratio": set_or_none("plus_ratio"),
        }
        said = {name: str(value) for name, value in arguments.items() if value is not None}
        return {
            "ss_network_module": "lycoris.kohya" if lycoris else "networks.lora",
            "ss_network_dim": settings.block_size if rotates else settings.rank,
            "ss_network_alpha": settings.constraint if rotates else settings.alpha,
            "ss_network_dropout": settings.dropout,
            "ss_network_args": json.dumps(said) if said else None,
            "ss_scale_weight_norms": settings.max_norm,
            "nosnja_layers": (settings.pattern or settings.targets) if settings.pattern or settings.targets != "attention" else None,
            "nosnja_block_ranks": settings.block_ranks or None,
        }

    def recognises(self, names: Collection[str], metadata: Mapping[str, str]) -> bool:
        return described(names) == "a LoRA or one of its kin"

    def attach(self, family: Family, parts: Parts, recipe: Recipe) -> list[Trainable]:
        """Add float32 layers to what the settings choose, whatever the precision of the frozen model.

        All random matrices are drawn on the CPU, so a seed gives the same start on every device; others are such that nothing changes
        before the first step. Trained parts go into train mode (that matters for dropout only).
        """
        settings: LoraSettings = recipe.settings["lora"]
        if not _is_plain(settings) and parts.adapters:
            raise UserError(
                f"A {self._title(settings)} cannot be trained beside {', '.join(parts.adapters)}: take the applied LoRAs off first."
            )
        shapes = {found.part: found.shapes for found in family.names(parts)}
        trainables = []
        for part, (module, suffixes) in family.trainable_modules(parts).items():
            if part.startswith("text_encoder") and not recipe.train_text_encoder:
                continue
            pieces = settings.pieces(part, PartLayers(shapes[part], suffixes))
            if not pieces:
                continue
            lora_layers.inject(module, pieces, settings, TRAINED)
            named: dict[str, torch.nn.Parameter] = {}
            for name, layer in lora_layers.layers(module, TRAINED):
                found = lora_layers.parameters(layer, TRAINED)
                named |= {f"{part}.{name}.{end}": parameter for end, parameter in found.items()}
            module.train()
            trainables += _groups(part, named, settings, _bounds(module, settings))
        if not trainables:
            raise UserError("No layer of the model is chosen to be trained: change lora.pattern or lora.block_ranks.")
        parts.adapters[TRAINED] = 1.0
        self.set_weights(family, parts, parts.adapters)
        return trainables

    def _title(self, settings: LoraSettings) -> str:
        return "DoRA" if settings.algorithm == "lora" and settings.dora else ALGORITHM_TITLES[settings.algorithm]

    def trained(self, family: Family, parts: Parts) -> Adapter:
        """The trained adapter as data; its tensors are the parameters themselves."""
        updates: dict[Address, Update] = {}
        for part, (module, _) in family.trainable_modules(parts).items():
            for name, layer in lora_layers.layers(module, TRAINED):
                updates[part, name] = lora_layers.update_of(layer, TRAINED)
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

    def rank_of_products(self, updates: Mapping[Address, Update]) -> int | None:
        """The highest rank of plain LoRAs; None where there are others among them."""
        return max(update.rank for update in updates.values()) if all(map(_is_product, updates.values())) else None  # type: ignore[attr-defined]

    def start_from(self, family: Family, parts: Parts, adapter: Adapter) -> None:
        """Begin where a file left off, as far as it changes what is trained here.

        A LoRA and a DoRA begin with plain updates of any rank (a DoRA with a DoRA, too), the others with updates of their own kind and
        shapes. Raises UserError for anything else, and where nothing of the file is trained here.
        """
        import torch

        begun = 0
        with torch.no_grad():
            for part, (module, _) in family.trainable_modules(parts).items():
                for name, layer in lora_layers.layers(module, TRAINED):
                    if (update := adapter.updates.get((part, name))) is not None:
                        lora_layers.begin_with(layer, TRAINED, update, f"{part}.{name}")
                        begun += 1
        if not begun:
            raise UserError("The file changes no layer that is trained here: choose other layers, or leave lora.start_from empty.")

    def apply(self, family: Family, parts: Parts, file: Path, name: str) -> None:
        """Put a file onto the parts, frozen, at weight 1; several can be on at once.

        Plain LoRAs go beside the weights, in the model's precision. What isn't a product of two matrices (LoHa, LoKr, DoRA, whole
        differences) is added to the weights themselves, whose originals are kept in the machine's memory. So is everything while
        something else than a plain LoRA is trained on these parts: peft has one kind of adapter on a layer.
        """
        names = family.names(parts)
        absent = set(family.adapter_parts) - {part.part for part in names}
        self.put_on(family, parts, read(file, names, parts.base_name, absent), name)

    def put_on(self, family: Family, parts: Parts, adapter: Adapter, name: str) -> None:
        """`apply` of what was read already."""
        from peft import LoraConfig

        assert name not in parts.adapters, f"an adapter '{name}' is applied already"
        modules = {part: module for part, (module, _) in family.trainable_modules(parts).items()}
        trained = [layer for module in modules.values() for _, layer in lora_layers.layers(module, TRAINED)]
        beside = all(lora_layers.is_plain(layer, TRAINED) for layer in trained)
        plain = {address: update for address, update in adapter.updates.items() if beside and _is_product(update)}
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
            lora_layers.add(config, module, _adapter_key(name))
            for target, layer in lora_layers.layers(module, _adapter_key(name)):
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
            with lora_layers.kept_trainable(module):
                for _, layer in lora_layers.layers(module):
                    layer.enable_adapters(bool(active))
                    layer.set_adapter(active, inference_mode=True)
                    for name, weight in parts.adapters.items():
                        layer.set_scale(_adapter_key(name), weight)
        _patch(family, parts)

    def remove(self, family: Family, parts: Parts, name: str) -> None:
        """Take an applied file off; other adapters keep their weights."""
        assert name in parts.adapters, f"no adapter is called '{name}'; applied: {', '.join(parts.adapters)}"
        for module, _ in family.trainable_modules(parts).values():
            with lora_layers.kept_trainable(module):
                for path, layer in list(lora_layers.layers(module, _adapter_key(name))):
                    layer.set_adapter([], inference_mode=True)  # peft would choose, and announce, another one itself
                    layer.delete_adapter(_adapter_key(name))
                    if not lora_layers.holds(layer):
                        parent, _, child = path.rpartition(".")
                        setattr(module.get_submodule(parent), child, layer.get_base_layer())
            getattr(module, "peft_config", {}).pop(_adapter_key(name), None)
        del parts.adapters[name]
        parts.patches.pop(name, None)
        self.set_weights(family, parts, dict(parts.adapters))


def _is_plain(settings: LoraSettings) -> bool:
    return settings.algorithm == "lora" and not settings.dora


def _is_product(update: Update) -> bool:
    return isinstance(update, LowRank) and update.mid is None


def trained_parts(recipe: Recipe, layers: Mapping[str, PartLayers]) -> dict[str, PartLayers]:
    """Without the text encoders where those are left alone."""
    return {part: found for part, found in layers.items() if recipe.train_text_encoder or not part.startswith("text_encoder")}


def _bounds(module: torch.nn.Module, settings: LoraSettings) -> Callable[[], None] | None:
    """What is to be done after each update of the optimiser; None where nothing is."""
    import torch

    constraint = settings.constraint if settings.algorithm in ("oft", "boft") else 0.0
    if not constraint and settings.max_norm is None:
        return None
    held = [layer for _, layer in lora_layers.layers(module, TRAINED)]

    @torch.no_grad()
    def hold() -> None:
        for layer in held:
            if constraint:
                rotating.keep_within(layer.oft_blocks[TRAINED], constraint)
            if settings.max_norm is not None:
                lora_layers.hold_below(layer, TRAINED, settings.max_norm)

    return hold


def _groups(
    part: str, named: Mapping[str, torch.nn.Parameter], settings: LoraSettings, after_update: Callable[[], None] | None
) -> list[Trainable]:
    """One group, or two where LoRA+ lets the up matrices learn faster."""
    if settings.algorithm != "lora" or settings.plus_ratio == 1:
        return [Trainable(part, list(named.values()), list(named), after_update=after_update)]
    usual, faster = lora_layers.with_faster_ups(named)
    return [
        Trainable(part, [named[name] for name in usual], usual),
        Trainable(part, [named[name] for name in faster], faster, rate_factor=settings.plus_ratio, after_update=after_update),
    ]


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
            base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
            parameter = getattr(base, which)
            if parameter is None:
                raise UserError(f"'{target}' of {parts.base_name} has no {which}, which the LoRA changes: choose a LoRA of this model.")
            original = parts.originals.setdefault(place, parameter.detach().to("cpu", copy=True)).to(parameter.device)
            total = original.float()
            for change, weight in wanted.get(place, []):
                delta = change if which == "bias" else _on(change, parameter.device).delta(original)
                total = total + weight * delta.to(total.device, torch.float32).reshape(total.shape)
            if which == "weight" and packing.is_packed(base):
                packing.lay_over(base, total if place in wanted else None)
            else:
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


def _adapter_key(name: str) -> str:
    """torch refuses dots in the names of submodules, and files are called 'costume-v1.2'."""
    return name.replace(".", "\N{MIDDLE DOT}")


ENTRY = Lora()
