"""Writing an `Adapter` in the layouts that other programs read. Whatever a layout cannot say is refused, never left out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from nosnja_gui.adapters import Adapter, Address, Decomposed, Full, Hadamard, Kronecker, LowRank, PartNames, Rotation, Update, keys
from nosnja_gui.settings import UserError

if TYPE_CHECKING:
    import torch

Layout = Literal["kohya", "diffusers", "comfyui"]
LAYOUTS: tuple[Layout, ...] = ("kohya", "diffusers", "comfyui")
Precision = Literal["float16", "bfloat16", "float32"]
LEGACY_PLACE, LEGACY_BYTES = 0x100000, 0x10000
"""Which bytes of a file kohya's sshs_legacy_hash is made of; a smaller file has none of them."""


def encode(
    adapter: Adapter,
    names: Sequence[PartNames],
    layout: Layout,
    precision: Precision = "float16",
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The content of a .safetensors file. `metadata` is what it says about itself; hashes and what the layout needs are added.

    Weights are written in `precision`, alphas as they are. Raises UserError where the layout cannot carry an update, and for a weight that
    is not a finite number or too large for float16.
    """
    import torch
    from safetensors.torch import save

    by_part = {part.part: part for part in names}
    strange = [address for address in (*adapter.updates, *adapter.biases) if address[1] not in by_part[address[0]].shapes]
    assert not strange, f"the model has no module {strange[0]}"
    said = {key: value for key, value in (metadata or {}).items() if key != keys.ADAPTER_METADATA}
    if layout == "diffusers":
        _check_carried(adapter, by_part)
        pieces = _diffusers(adapter, by_part)
        said[keys.ADAPTER_METADATA] = _configuration(adapter, by_part)
    else:
        pieces = _with_alphas(adapter, by_part, layout)
    dtype = getattr(torch, precision)
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in pieces:
        assert key not in tensors, f"two modules are called {key}"
        tensors[key] = tensor if key.endswith(".alpha") else _finished(tensor, dtype, key)
    assert tensors, "nothing to write"
    return save(tensors, metadata={**said, **_hashes(save(tensors, {key: value for key, value in said.items() if key.startswith("ss_")}))})


def _hashes(content: bytes) -> dict[str, str]:
    """kohya's hashes of a file with nothing but the ss_ values in its header (sd-scripts library/train_util.py).

    sshs_model_hash is of everything behind the header, so no metadata changes it.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    legacy = content[LEGACY_PLACE : LEGACY_PLACE + LEGACY_BYTES]
    return {
        "sshs_model_hash": hashlib.sha256(memoryview(content)[start:]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(legacy).hexdigest()[:8],
    }


def _finished(weight: torch.Tensor, dtype: torch.dtype, key: str) -> torch.Tensor:
    import torch

    if not torch.isfinite(weight).all():
        raise UserError(
            f"Nothing was written: the training has failed, a weight of '{key}' is not a finite number; lower the learning rate."
        )
    tensor = weight.detach().to("cpu", dtype, copy=True).contiguous()
    if not torch.isfinite(tensor).all():
        raise UserError(f"Nothing was written: a weight of '{key}' is too large for float16; set saving.precision to float32.")
    return tensor


def _with_alphas(adapter: Adapter, names: Mapping[str, PartNames], layout: Layout) -> Iterator[tuple[str, torch.Tensor]]:
    """LyCORIS' pieces, an alpha beside each module: kohya's and ComfyUI's layouts differ in the modules' names only."""

    def stem(address: Address) -> str:
        return (keys.kohya if layout == "kohya" else keys.comfyui)(names[address[0]], address[1])

    for address, update in adapter.updates.items():
        shape = names[address[0]].shapes[address[1]]
        # LyCORIS (modules/norms.py) has names of its own for norm layers, ComfyUI's own files (nodes_lora_extract.py) don't.
        norm = layout == "kohya" and len(shape) == 1
        if isinstance(update, Decomposed) and isinstance(update.inner, Full):
            raise UserError(
                f"No layout can carry a DoRA of a full difference (such as {'.'.join(address)}): make a plain LoRA of it first with "
                "'lora resize'."
            )
        for end, tensor in _pieces(update, shape):
            yield f"{stem(address)}.{'w_norm' if norm and end == 'diff' else end}", tensor
    for address, bias in adapter.biases.items():
        norm = layout == "kohya" and len(names[address[0]].shapes[address[1]]) == 1
        yield f"{stem(address)}.{'b_norm' if norm else 'diff_b'}", bias


def _pieces(update: Update, shape: tuple[int, ...]) -> Iterator[tuple[str, torch.Tensor]]:
    """Key's end -> tensor, in the shapes that LyCORIS gives them (lycoris/modules/*.py)."""
    import torch

    if isinstance(update, Decomposed):
        yield from _pieces(update.inner, shape)
        ones = [1] * (len(shape) - 2)
        yield "dora_scale", update.magnitude.reshape(-1, 1, *ones) if update.per_output(shape) else update.magnitude.reshape(1, -1, *ones)
        return
    if isinstance(update, LowRank):
        down, up, mid = _matrices(update, shape)
        yield from (("lora_down.weight", down), ("lora_up.weight", up))
        if mid is not None:
            yield "lora_mid.weight", mid
    elif isinstance(update, Hadamard):
        for name in ("w1_a", "w1_b", "w2_a", "w2_b"):
            yield f"hada_{name}", getattr(update, name).flatten(1)
        if update.t1 is not None:
            yield from (("hada_t1", update.t1), ("hada_t2", update.t2))
    elif isinstance(update, Kronecker):
        for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"):
            if (factor := getattr(update, name)) is not None:
                yield f"lokr_{name}", factor.flatten(1) if name.endswith(("_a", "_b")) else factor
    elif isinstance(update, Rotation):
        yield "oft_blocks", update.blocks
        if update.rescale is not None:
            yield "rescale", update.rescale.reshape(-1, *[1] * (len(shape) - 1))
        yield "alpha", torch.tensor(float(update.constraint))
        return
    else:
        assert isinstance(update, Full), f"no layout knows how to write a {update.title}"
        yield "diff", update.difference.reshape(shape)
        return
    yield "alpha", torch.tensor(float(update.alpha))


def _matrices(update: LowRank, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """down, up and mid in the dimensions of the module: a convolution's have four."""
    ones = [1] * (len(shape) - 2)
    kernel = ones if update.mid is not None else shape[2:]
    return update.down.reshape(update.rank, shape[1], *kernel), update.up.reshape(shape[0], -1, *ones), update.mid


# diffusers


def _diffusers(adapter: Adapter, names: Mapping[str, PartNames]) -> Iterator[tuple[str, torch.Tensor]]:
    """lora_A and lora_B, as diffusers saves peft's weights."""
    for part in adapter.parts:
        attends = any(module.endswith(tuple(f".{end}" for end in keys.OLD_ENDS)) for where, module in adapter.updates if where == part)
        # diffusers finds out how a text encoder's keys are spelt from its attention projections (utils/state_dict_utils.py,
        # convert_state_dict_to_peft); without any, only its other spelling is understood.
        down_end, up_end = ("lora_A", "lora_B") if attends or not part.startswith("text_encoder") else (
            "lora_linear_layer.down", "lora_linear_layer.up"
        )  # fmt: skip
        for (where, module), update in adapter.updates.items():
            if where != part:
                continue
            stem, shape = keys.diffusers(names[part], module), names[part].shapes[module]
            down, up, _ = _matrices(_plain(update), shape)
            yield from ((f"{stem}.{down_end}.weight", down), (f"{stem}.{up_end}.weight", up))
            if isinstance(update, Decomposed):
                # peft tuners/lora/dora.py: (outputs,) for linear layers, (1, outputs, 1, 1) for convolutions. peft leaves .weight away, but
                # transformers loads a text encoder's magnitudes by their whole name only.
                rows = (-1,) if len(shape) == 2 else (1, -1, *[1] * (len(shape) - 2))
                yield f"{stem}.lora_magnitude_vector.weight", update.magnitude.reshape(rows)


def _plain(update: Update) -> LowRank:
    inner = update.inner if isinstance(update, Decomposed) else update
    assert isinstance(inner, LowRank)
    return inner


def _check_carried(adapter: Adapter, names: Mapping[str, PartNames]) -> None:
    """Raises UserError for what peft's LoRA layers, which diffusers loads files into, don't have."""
    advice = "choose the kohya or comfyui layout, or make a plain LoRA of it first with 'lora resize'"
    for address, update in adapter.updates.items():
        inner = update.inner if isinstance(update, Decomposed) else update
        what = ""
        if not isinstance(inner, LowRank):
            what = f"a {inner.title}"
        elif inner.mid is not None:
            what = "a LoRA with CP decomposition"
        elif isinstance(update, Decomposed) and not update.per_output(names[address[0]].shapes[address[1]]):
            what = "a DoRA with a magnitude per input"
        if what:
            raise UserError(f"The diffusers layout cannot carry {what} (such as {'.'.join(address)}): {advice}.")
    if adapter.biases:
        raise UserError(
            f"The diffusers layout cannot carry differences of biases (such as {'.'.join(next(iter(adapter.biases)))}): {advice}."
        )
    for part in adapter.parts:
        if len({isinstance(update, Decomposed) for (where, _), update in adapter.updates.items() if where == part}) > 1:
            raise UserError(f"The diffusers layout cannot carry LoRA and DoRA in one part ({part}): {advice}.")


def _configuration(adapter: Adapter, names: Mapping[str, PartNames]) -> str:
    """peft's LoraConfig of each part as JSON, as diffusers keeps it (loaders/lora_base.py): the only place for an alpha.

    peft's patterns are expressions for a module's name or its end (utils/other.py, get_pattern_key): a text encoder's modules are named by
    their ends, so that the file also loads where its names begin with `text_model.`.
    """
    saved: dict[str, Any] = {}
    for part in adapter.parts:
        updates = {module: update for (where, module), update in adapter.updates.items() if where == part}
        ranks = {module: _plain(update).rank for module, update in updates.items()}
        alphas = {module: _plain(update).alpha for module, update in updates.items()}
        rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
        start = "" if names[part].inner or part.startswith("text_encoder") else "^"
        saved |= {
            f"{part}.r": rank,
            f"{part}.lora_alpha": alpha,
            f"{part}.rank_pattern": {start + module: value for module, value in ranks.items() if value != rank},
            f"{part}.alpha_pattern": {start + module: value for module, value in alphas.items() if value != alpha},
            f"{part}.target_modules": sorted(updates),
            f"{part}.use_dora": any(isinstance(update, Decomposed) for update in updates.values()),
            f"{part}.bias": "none",
        }
    return json.dumps(saved, indent=2, sort_keys=True)
