"""Hypernetworks: what is trained is what A1111 would paint with the .pt, on every family with a UNet, beside LoRAs and without a trace."""

import hashlib
import json
import math
import pickletools
import re
from typing import get_args

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nosnja_gui import events, grids, hypernetworks, infotext
from nosnja_gui.engine import grid as painting
from nosnja_gui.engine import roundtrip
from nosnja_gui.engine import train as engine
from nosnja_gui.engine.models import load_model
from nosnja_gui.engine.sampler import ImageRequest, sample
from nosnja_gui.engine.train import train, update
from nosnja_gui.estimate import trained_parameters
from nosnja_gui.hypernetworks import Activation, Structure
from nosnja_gui.jobs import GridJob, TrainJob
from nosnja_gui.methods import METHODS, TAGS, method_of, put_on, set_weights, take_off
from nosnja_gui.methods.lora import LoraSettings
from nosnja_gui.models import demand_of, list_models
from nosnja_gui.plan import plan_training
from nosnja_gui.runs import RunFolder
from nosnja_gui.settings import UserError
from nosnja_gui.sources import described
from nosnja_gui.workspace import Workspace
from tests.small_training import draw_pictures, job, run_of, said
from tests.tiny import tiny_model
from tests.tiny_sd35 import tiny_sd35

torch.set_num_threads(1)
CPU = torch.device("cpu")
METHOD = METHODS["hypernetwork"]
KINDS = ("sd1", "sd2", "sdxl")
CROSS = {"sd1": 64, "sd2": 1024, "sdxl": 192}
"""Width of the text in the small models; their own layers are 64 and 128 wide."""
REQUEST = ImageRequest("a girl in a coat", seed=3, sampler="euler", steps=2, width=64, height=64)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    made = Workspace(tmp_path_factory.mktemp("hypernetworks") / "workspace").create()
    for kind in KINDS:
        tiny_model(made.models / kind, kind)
    draw_pictures(made.datasets / "coats", 4)
    return made


def small(kind, **changes):
    settings = {
        "model__path": kind, "method": "hypernetwork", "hypernetwork__layer_structure": "1, 0.5, 1", "optimizer__learning_rate": 1e-3,
        "dataset__resolution": 64, "dataset__bucket_step": 32, "dataset__repeats": 1, "training__epochs": 1, "training__batch_size": 2,
    }  # fmt: skip
    return job(**settings | changes)


def loaded(workspace, kind):
    return load_model(workspace.models / kind, CPU, torch.float32)


def attached(workspace, kind, strength=0.05, **settings):
    """A hypernetwork with random weights as if it had been trained."""
    family, parts = loaded(workspace, kind)
    changes = {f"hypernetwork__{name}": value for name, value in settings.items()}
    torch.manual_seed(5)
    (trainable,) = METHOD.attach(family, parts, small(kind, **changes).recipe())
    with torch.no_grad():
        for parameter in trainable.parameters:
            parameter += strength * torch.randn(parameter.shape)
    return family, parts, trainable


def saved(family, parts, folder, name="coat", precision="float32", **metadata):
    METHOD.save(family, parts, folder / f"{name}.safetensors", metadata, precision)
    return folder / f"{name}.safetensors", folder / "a1111" / f"{name}.pt"


def hooks(parts):
    return sum(len(module._forward_pre_hooks) for module in parts.denoiser.modules())


def pixels(family, parts):
    (picture,) = sample(family, parts, [REQUEST])
    return torch.tensor(list(picture.tobytes())).float()


def noise(family, parts):
    return roundtrip.forward(family, parts)[0]


# ---------------------------------------------------------------- as A1111 has it


def theirs(file, x, side, strength):
    """What A1111 makes of an attention's input: HypernetworkModule of modules/hypernetworks/hypernetwork.py, from its description."""
    content = torch.load(file, weights_only=True)
    weights, layers, functions = content[x.shape[-1]][side], content["layer_structure"], {"swish": torch.nn.functional.hardswish}
    functions |= {"relu": torch.relu, "tanh": torch.tanh, "linear": None}
    h, place = x, 0
    for number in range(1, len(layers)):
        h = torch.nn.functional.linear(h, weights[f"linear.{place}.weight"].float(), weights[f"linear.{place}.bias"].float())
        place += 1
        if functions[content["activation_func"]] and (number < len(layers) - 1 or content["activate_output"]):
            h, place = functions[content["activation_func"]](h), place + 1
        if content["is_layer_norm"]:
            of_norm = weights[f"linear.{place}.weight"].float(), weights[f"linear.{place}.bias"].float()
            h, place = torch.nn.functional.layer_norm(h, h.shape[-1:], *of_norm), place + 1
        place += content["dropout_structure"][number] > 0
    return x + h * strength


def attention(module, x, context, change):
    """Softmax attention with keys and values made of changed inputs (Vaswani et al. 2017, Eq. 1)."""
    q, k, v = module.to_q(x), module.to_k(change(context, 0)), module.to_v(change(context, 1))
    q, k, v = (t.unflatten(-1, (module.heads, -1)).transpose(1, 2) for t in (q, k, v))
    mixed = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
    return module.to_out[0](mixed.transpose(1, 2).flatten(2))


ODD = {"layer_structure": "1, 2, 1.5, 1", "activation": "swish", "layer_norm": True, "dropout": 0.2, "activate_output": True}


@pytest.mark.parametrize("settings", [{}, ODD, {"activation": "tanh", "layer_structure": "1, 1"}], ids=["usual", "everything", "short"])
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_an_attention_sees_what_a1111_makes_of_the_file(workspace, tmp_path, kind, settings):
    family, parts, _ = attached(workspace, kind, **{"layer_structure": "1, 2, 1"} | settings)
    _, file = saved(family, parts, tmp_path)
    family, parts = loaded(workspace, kind)
    block = next(module for name, module in parts.denoiser.named_modules() if name.endswith("transformer_blocks.0"))
    x, text = torch.randn(2, 9, block.attn1.to_q.in_features), torch.randn(2, 7, CROSS[kind])
    with torch.no_grad():
        bare = attention(block.attn1, x, x, lambda t, side: t), attention(block.attn2, x, text, lambda t, side: t)
        expected = [
            (attention(block.attn1, x, x, change), attention(block.attn2, x, text, change))
            for strength in (1.0, 0.4)
            for change in [lambda t, side, strength=strength: theirs(file, t, side, strength)]
        ]
        put_on(family, parts, file, "coat")
        for strength, (own, cross) in zip((1.0, 0.4), expected, strict=True):
            set_weights(family, parts, {"coat": strength})
            torch.testing.assert_close(block.attn1(x), own, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(block.attn2(x, text), cross, atol=1e-5, rtol=1e-4)
            assert (own - bare[0]).abs().max() > 1e-3 and (cross - bare[1]).abs().max() > 1e-3


def test_two_are_applied_one_after_the_other(workspace, tmp_path):
    files = []
    for name, strength in (("first", 0.05), ("second", 0.2)):
        family, parts, _ = attached(workspace, "sd1", strength, activation="relu")
        files.append(saved(family, parts, tmp_path, name)[1])
    family, parts = loaded(workspace, "sd1")
    block = parts.denoiser.mid_block.attentions[0].transformer_blocks[0]
    x = torch.randn(1, 4, 128)
    with torch.no_grad():
        expected = attention(block.attn1, x, x, lambda t, side: theirs(files[1], theirs(files[0], t, side, 0.5), side, 0.8))
        for file in files:
            put_on(family, parts, file, file.stem)
        set_weights(family, parts, {"first": 0.5, "second": 0.8})
        torch.testing.assert_close(block.attn1(x), expected, atol=1e-5, rtol=1e-4)


ZIP_RECORDS = re.compile(r"^([^/]+)/((data/\d+)|version|byteorder|.data/serialization_id|(data\.pkl))$")
GLOBALS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch FloatStorage", "torch HalfStorage", "torch BFloat16Storage"}


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_a1111_opens_the_companion(workspace, tmp_path, precision):
    """The rules of modules/safe.py: no zip with unknown records, or the older form: five pickles that name nothing unusual."""
    family, parts, _ = attached(workspace, "sd1", **ODD)
    _, file = saved(family, parts, tmp_path, "coat-2", precision, ss_steps="70", ss_sd_model_name="tiny", ss_sd_model_hash="abc")
    with file.open("rb") as stream:
        assert stream.read(2) != b"PK"
        stream.seek(0)
        named = [(code.name, value) for _ in range(5) for code, value, _ in pickletools.genops(stream)]
    assert {value for name, value in named if name == "GLOBAL"} <= GLOBALS and "STACK_GLOBAL" not in dict(named)
    content = torch.load(file, weights_only=True)
    assert {key for key in content if isinstance(key, int)} == {64, 128}
    assert {key: value for key, value in content.items() if not isinstance(key, int)} == {
        "step": 70, "name": "coat-2", "layer_structure": [1, 2, 1.5, 1], "activation_func": "swish", "is_layer_norm": True,
        "weight_initialization": "Normal", "use_dropout": True, "dropout_structure": [0, 0.2, 0.2, 0], "last_layer_dropout": True,
        "activate_output": True, "optional_info": None, "sd_checkpoint": "abc", "sd_checkpoint_name": "tiny",
    }  # fmt: skip
    assert all(tensor.dtype == getattr(torch, precision) for both in (content[64], content[128]) for one in both for tensor in one.values())
    # Key, value; linear, activation, norm, dropout each count.
    assert list(content[64][0]) == [f"linear.{place}.{kind}" for place in (0, 2, 4, 6, 8, 10) for kind in ("weight", "bias")]


def test_the_starts_have_a1111s_constants():
    def weights(width=400, **settings):
        torch.manual_seed(0)
        return hypernetworks.fresh(Structure(**settings), [width]).networks[width][0]

    inputs, outputs = 400, 800
    for initialisation, expected in {
        "Normal": 0.01,
        "KaimingUniform": math.sqrt(2 / inputs),  # He et al. 2015, Eq. 10
        "KaimingNormal": math.sqrt(2 / inputs),
        "XavierUniform": math.sqrt(2 / (inputs + outputs)),  # Glorot and Bengio 2010, Eq. 16
        "XavierNormal": math.sqrt(2 / (inputs + outputs)),
    }.items():
        for activation in ("relu", "leakyrelu"):
            network = weights(initialisation=initialisation, activation=activation, layer_norm=True)
            first, norm = network[0], network[2]
            assert first.weight.std().item() == pytest.approx(expected, rel=0.02)
            bounded = first.weight.abs().max() <= math.sqrt(3) * expected * 1.001
            assert bounded == initialisation.endswith("Uniform")
            assert norm.weight.std().item() == pytest.approx(0.01, rel=0.1) and abs(norm.weight.mean()) < 0.002
            assert not first.bias.any() and not norm.bias.any()
    one, other = weights(), weights()
    assert torch.equal(one[0].weight, other[0].weight)


def test_every_activation_that_is_offered_is_one_of_torchs():
    for activation in get_args(Activation):
        structure = Structure(activation=activation, activate_output=True, layer_norm=True)
        made = hypernetworks.fresh(structure, [8])
        assert made.networks[8][0](torch.randn(2, 3, 8)).shape == (2, 3, 8)
        assert sum(parameter.numel() for _, parameter in made.named_parameters()) == structure.numbers(8), activation
    assert isinstance(hypernetworks.fresh(Structure(activation="swish"), [8]).networks[8][0][1], torch.nn.Hardswish)


# ---------------------------------------------------------------- files


def test_old_files_of_others_are_read_with_a1111s_fallbacks(tmp_path):
    def weights(first, second):
        return {
            f"{first}.weight": torch.randn(16, 8), f"{first}.bias": torch.randn(16),
            f"{second}.weight": torch.randn(8, 16), f"{second}.bias": torch.randn(8),
        }  # fmt: skip

    first = {8: (weights("linear1", "linear2"), weights("linear1", "linear2"))}
    torch.save(first, tmp_path / "first.pt")
    read = hypernetworks.read(tmp_path / "first.pt")
    # A1111's load(): 1, 2, 1 without anything between; only the output's activation is on, where there is one.
    assert read.structure == Structure(activate_output=True)
    x = torch.randn(3, 8)
    hidden = torch.nn.functional.linear(x, first[8][1]["linear1.weight"], first[8][1]["linear1.bias"])
    expected = torch.nn.functional.linear(hidden, first[8][1]["linear2.weight"], first[8][1]["linear2.bias"])
    torch.testing.assert_close(read.networks[8][1](x), expected)
    # Dropout before it was a structure: of 0.3 behind inner layers, behind the last of them only where that is said.
    places = {"linear.0": (16, 8), "linear.3": (16, 16), "linear.5": (8, 16)}
    second = {}
    for place, shape in places.items():
        second |= {f"{place}.weight": torch.randn(shape), f"{place}.bias": torch.randn(shape[:1])}
    said = {"layer_structure": [1, 2, 2, 1], "activation_func": "relu", "use_dropout": True, "activate_output": False}
    torch.save({8: [second, second], **said}, tmp_path / "second.pt")
    assert hypernetworks.read(tmp_path / "second.pt").structure.dropout == (0, 0.3, 0, 0)
    torch.save({8: [second, second], **said, "last_layer_dropout": True}, tmp_path / "third.pt")
    with pytest.raises(UserError, match="cannot be read as a hypernetwork"):
        hypernetworks.read(tmp_path / "third.pt")


class Program:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": torch.zeros(2)}, "no hypernetwork"),
        ([torch.zeros(2)], "no hypernetwork"),
        ({8: ({"linear.0.weight": torch.zeros(8, 8)},)}, "cannot be read as a hypernetwork"),
        ({8: ({"linear.0.weight": torch.zeros(8, 8)},) * 2, "layer_structure": [1, 1]}, "cannot be read as a hypernetwork"),
        ({8: ({"linear.0.weight": torch.zeros(8, 8)},) * 2, "layer_structure": [1, 1e300, 1]}, "cannot be read as a hypernetwork"),
        ({8: ({"linear.0.weight": torch.zeros(8, 8)},) * 2, "activation_func": "multiheadattention"}, "cannot be read as a hypernetwork"),
        ({8: ({"linear.0.weight": torch.zeros(8, 8)},) * 2, "dropout_structure": [0, 2, 0]}, "cannot be read as a hypernetwork"),
        (Program(), "cannot be read safely"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_sentence(tmp_path, content, words, capsys):
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=words) as caught:
        hypernetworks.read(tmp_path / "bad.pt")
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".") and "run" not in capsys.readouterr().out.split()


def test_a_file_of_another_family_and_a_ruined_training_are_refused(workspace, tmp_path):
    # The other two of these small models have texts as wide as each other's own layers, which no real ones have.
    for kind, other in (("sd1", "sdxl"), ("sd2", "sdxl"), ("sdxl", "sd1"), ("sdxl", "sd2")):
        files = saved(*attached(workspace, other)[:2], tmp_path, other)
        family, parts = loaded(workspace, kind)
        for file in files:
            with pytest.raises(UserError, match=r"doesn't fit .* of the widths") as caught:
                put_on(family, parts, file, "other")
            assert "\n" not in str(caught.value)
        assert not parts.worn.get("hypernetwork") and not hooks(parts)
    family, parts, trainable = attached(workspace, "sd1")
    with torch.no_grad():
        trainable.parameters[0][0, 0] = 1e6
    with pytest.raises(UserError, match=r"ruined\.safetensors was not written.*float32"):
        METHOD.save(family, parts, tmp_path / "ruined.safetensors", {})
    with torch.no_grad():
        trainable.parameters[0][0, 0] = math.nan
    with pytest.raises(UserError, match="not a finite number"):
        METHOD.save(family, parts, tmp_path / "ruined.safetensors", {}, "float32")
    assert not list(tmp_path.rglob("ruined*"))


def test_a_file_tells_what_it_is(workspace, tmp_path):
    file, companion = saved(*attached(workspace, "sd1", **ODD)[:2], tmp_path, precision="float16", ss_steps="7")
    names = list(load_file(file))
    assert "hypernetwork.64.key.linear.0.weight" in names and "hypernetwork.128.value.linear.10.bias" in names
    assert described(names) == "a hypernetwork"
    assert method_of(file) is method_of(companion) is METHOD and TAGS[METHOD.modelspec] == "hypernet"
    with safe_open(file, "pt") as content:
        told = content.metadata()
    assert told["ss_steps"] == "7" and json.loads(told["nosnja_hypernetwork"])["dropout_structure"] == [0, 0.2, 0.2, 0]
    ours, theirs = hypernetworks.read(file), hypernetworks.read(companion)
    asked = small("sd1", **{f"hypernetwork__{name}": value for name, value in ODD.items()})
    assert ours.structure == theirs.structure == asked.hypernetwork.structure
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True))
    (tmp_path / "models").mkdir()
    save_file(load_file(file), tmp_path / "models" / "loose.safetensors")
    assert [model.name for model in list_models(Workspace(tmp_path).create()) if not model.from_kit] == []
    # Pickles have no header: each has a hash of its own all the same.
    other = tmp_path / "other.pt"
    other.write_bytes(companion.read_bytes() + b" ")
    assert infotext.lora_hash(companion) == hashlib.sha256(companion.read_bytes()).hexdigest() != infotext.lora_hash(other)


# ---------------------------------------------------------------- on and off


@pytest.mark.parametrize("kind", KINDS)
def test_it_leaves_no_trace(workspace, tmp_path, kind):
    family, parts, _ = attached(workspace, kind)
    trained = pixels(family, parts)
    file, companion = saved(family, parts, tmp_path)
    family, parts = loaded(workspace, kind)
    before, base = pixels(family, parts), noise(family, parts)
    names = set(dict(parts.denoiser.named_modules()))
    put_on(family, parts, file, "coat.v1")
    assert torch.equal(pixels(family, parts), trained) and not torch.equal(trained, before)
    set_weights(family, parts, {})
    assert torch.equal(noise(family, parts), base) and not hooks(parts)
    set_weights(family, parts, {"coat.v1": 0.5})
    put_on(family, parts, companion, "again")
    take_off(family, parts, "coat.v1")
    assert torch.equal(pixels(family, parts), trained)
    take_off(family, parts, "again")
    assert torch.equal(noise(family, parts), base) and not hooks(parts)
    assert set(dict(parts.denoiser.named_modules())) == names and not any(p.requires_grad for p in parts.denoiser.parameters())


def test_a_lora_gets_the_changed_input_whichever_came_first(workspace, tmp_path):
    family, parts = loaded(workspace, "sd1")
    lora = METHODS["lora"]
    torch.manual_seed(2)
    recipe = TrainJob().changed(**{"lora.rank": 2}).recipe()
    assert recipe.settings["lora"] == LoraSettings(rank=2)
    with torch.no_grad():
        for trainable in lora.attach(family, parts, recipe):
            for parameter in trainable.parameters:
                parameter += 0.2 * torch.randn(parameter.shape)
    lora.save(family, parts, tmp_path / "lora.safetensors", {}, "float32")
    family, parts, _ = attached(workspace, "sd1", 0.2)
    file, _ = saved(family, parts, tmp_path, "hyper")
    family, parts = loaded(workspace, "sd1")
    base = noise(family, parts)
    results = []
    for order in ([tmp_path / "lora.safetensors", file], [file, tmp_path / "lora.safetensors"]):
        for each in order:
            put_on(family, parts, each, each.stem)
        results.append(noise(family, parts))
        take_off(family, parts, order[0].stem)
        results.append(noise(family, parts))
        take_off(family, parts, order[1].stem)
        assert torch.equal(noise(family, parts), base) and not hooks(parts)
    both, only_hyper, again, only_lora = results
    assert torch.equal(both, again)
    assert min((a - b).abs().max() for a, b in ((both, only_hyper), (both, only_lora), (only_hyper, base), (only_lora, base))) > 1e-4
    # A LoRA merged into the weights has nothing to go around the hook with, so this is what both together must be.
    put_on(family, parts, file, "hyper")
    adapter = lora_of(tmp_path / "lora.safetensors", family, parts)
    with torch.no_grad():
        for (_, name), update in adapter.updates.items():
            weight = parts.denoiser.get_submodule(name).weight
            weight += update.delta(weight)
    torch.testing.assert_close(noise(family, parts), both, atol=1e-4, rtol=1e-4)


def lora_of(file, family, parts):
    from nosnja_gui.adapters.reading import read

    return read(file, family.names(parts), parts.base_name)


def test_half_precision_models_get_float32_networks(workspace, tmp_path):
    file, _ = saved(*attached(workspace, "sd1")[:2], tmp_path)
    family, whole = loaded(workspace, "sd1")
    put_on(family, whole, file, "coat")
    expected = noise(family, whole)
    family, parts = load_model(workspace.models / "sd1", CPU, torch.bfloat16)
    base = noise(family, parts)
    put_on(family, parts, file, "coat")
    found = noise(family, parts)
    assert (found - expected).abs().max() < 0.2 * (expected - base).abs().max() + 0.05
    assert all(p.dtype == torch.float32 for net in parts.kept["hypernetwork"].networks.values() for _, p in net.named_parameters())


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_is_stopped_gone_on_with_and_read_back(workspace, kind, monkeypatch):
    settings = {"hypernetwork__dropout": 0.2, "hypernetwork__activation": "rrelu", "training__gradient_checkpointing": kind == "sd1"}
    if kind == "sd2":
        settings["hypernetwork__modules"] = "64, 128"
    whole = run_of(workspace, f"{kind}-whole", small(kind, **settings))
    file = train(whole.job(), whole, workspace)
    weights = load_file(file)
    (checked,) = said(whole, events.ReadBack)
    assert checked.ours == 0.0 and checked.diffusers is None
    with safe_open(file, "pt") as content:
        told = content.metadata()
    assert told["modelspec.architecture"].endswith("/hypernetwork") and told["ss_steps"] == "2"
    content = torch.load(whole.weights / "a1111" / "coat.pt", weights_only=True)
    assert (content["step"], content["name"], content["sd_checkpoint"]) == (2, "coat", told["ss_sd_model_hash"])
    assert {path.name for path in whole.weights.glob("*.safetensors")} == {"coat.safetensors"}

    torch.manual_seed(0)
    family, parts = loaded(workspace, kind)
    start = dict(zip((t := METHOD.attach(family, parts, whole.job().recipe())[0]).names, t.parameters, strict=True))
    assert start.keys() == weights.keys()
    assert sum(tensor.numel() for tensor in weights.values()) == trained_parameters(whole.job(), demand_of(workspace.models / kind))

    stopped = run_of(workspace, f"{kind}-stopped", small(kind, **settings))
    monkeypatch.setattr(engine, "update", lambda training: (update(training), stopped.request("stop"))[0])
    train(stopped.job(), stopped, workspace)
    assert [event.step for event in said(stopped, events.Stopped)] == [1]
    monkeypatch.undo()
    again = load_file(train(stopped.job(), stopped, workspace))
    assert weights.keys() == again.keys() and all(torch.equal(weights[key], again[key]) for key in weights)
    one = load_file(stopped.weights / "coat-step-00001.safetensors")
    moved = {key for key in weights if not torch.equal(one[key], weights[key])}
    # A width's network learns through every attention that has it.
    assert {key.split(".")[1] for key in moved} == {key.split(".")[1] for key in weights}


def test_the_finished_file_paints_what_the_training_showed(workspace):
    run = run_of(workspace, "shown", small("sd1", preview__prompts=["a girl in a coat"], preview__steps=2, preview__sampler="euler",
                                           preview__every_epochs=1, preview__before_training=True, preview__seed=3))  # fmt: skip
    file = train(run.job(), run, workspace)
    shown = run.path / said(run, events.Sampled)[-1].files[0]
    with Image.open(shown) as opened:
        text, seen = opened.info["parameters"], torch.tensor(list(opened.tobytes())).float()
    assert (
        infotext.parse(text).hypernets == (infotext.Network("coat", 1.0),)
        and "<hypernet:coat:1>" in text
        and not infotext.parse(text).loras
    )
    with Image.open(run.path / said(run, events.Sampled)[0].files[0]) as opened:
        assert "<" not in opened.info["parameters"]
    family, parts = loaded(workspace, "sd1")
    put_on(family, parts, file, "coat")
    (painted,) = sample(
        family, parts, [ImageRequest("a girl in a coat", seed=3, sampler="euler", steps=2, cfg_scale=7.0, width=64, height=64)]
    )
    assert (torch.tensor(list(painted.tobytes())).float() - seen).abs().max() <= 1


# ---------------------------------------------------------------- in grids


def test_a_grid_paints_it_at_every_strength_and_a1111_reads_it_so(workspace, tmp_path):
    folder = workspace.models / "hypernetworks"
    folder.mkdir(exist_ok=True)
    _, companion = saved(*attached(workspace, "sd1")[:2], tmp_path, "anime")
    companion.rename(folder / "anime.pt")
    saved(*attached(workspace, "sd1", 0.1)[:2], folder, "own")
    offered = {lora.name: lora for lora in grids.list_loras(workspace)}
    assert {"hypernetworks/anime.pt", "hypernetworks/own.safetensors"} <= set(offered)
    wanted = GridJob.parse(
        {
            "model": {"path": "sd1"}, "prompt": "a girl in a coat", "steps": 2, "width": 64, "height": 64, "sampler": "euler",
            "x": {"axis": "weight", "values": [0, 0.5, 1]},
            "y": {"axis": "lora", "values": ["none", "hypernetworks/anime.pt", "hypernetworks/own.safetensors"]},
        }
    )  # fmt: skip
    run = RunFolder.create(workspace.runs / "grid", wanted)
    painting.run_grid(wanted, run, workspace)
    cells = {tuple(cell["position"]): cell for cell in json.loads((run.path / "grid.json").read_text())["cells"]}
    assert not any(cell["error"] for cell in cells.values())
    files = {place: cell["files"][0] for place, cell in cells.items()}
    assert len({files[0, y, 0] for y in range(3)} | {files[x, 0, 0] for x in range(3)}) == 1, "strength 0 is no hypernetwork"
    seen = {file: Image.open(run.path / file).tobytes() for file in set(files.values())}
    assert len(seen) == len(set(seen.values())) == 5
    with Image.open(run.path / files[1, 1, 0]) as opened:
        text = opened.info["parameters"]
    assert text.startswith("a girl in a coat <hypernet:anime:0.5>\n") and "Lora hashes" not in text
    known = [infotext.Known(lora.name, lora.path) for lora in offered.values()]
    taken = infotext.as_grid_values(infotext.parse(text), loras=known)
    assert (taken.values["lora"], taken.values["weight"]) == ("hypernetworks/anime.pt", 0.5)


def test_the_epochs_of_a_run_are_an_axis(workspace):
    trained = run_of(workspace, "epochs", small("sd1", training__epochs=2, saving__every_epochs=1, optimizer__learning_rate=1e-2))
    train(trained.job(), trained, workspace)
    wanted = GridJob.parse(
        {
            "run": "epochs", "prompt": "a girl in a coat", "steps": 2, "width": 64, "height": 64, "sampler": "euler",
            "x": {"axis": "epoch", "values": ["none", 1, 2]},
        }
    )  # fmt: skip
    run = RunFolder.create(workspace.runs / "epochs-grid", wanted)
    painting.run_grid(wanted, run, workspace)
    cells = [event for event in events.read(run.events) if isinstance(event, events.Cell)]
    assert not any(cell.error for cell in cells) and len({Image.open(run.path / cell.file).tobytes() for cell in cells}) == 3


# ---------------------------------------------------------------- what is asked for


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layer_structure": "2, 1"}, "begin and end with 1"),
        ({"layer_structure": "1"}, "2 to 10 numbers"),
        ({"layer_structure": "1, nan, 1"}, "2 to 10 numbers"),
        ({"layer_structure": "1; 2; 1"}, "2 to 10 numbers"),
        ({"modules": "768 320"}, "whole numbers"),
        ({"modules": "-1"}, "whole numbers"),
        ({"activation": "swosh"}, "activation"),
        ({"dropout": 1}, "less than 1"),
    ],
)
def test_wrong_settings_are_refused_at_the_field(settings, words):
    with pytest.raises(UserError, match=words):
        TrainJob().changed(**{f"hypernetwork.{name}": value for name, value in settings.items()})


def test_what_a_model_has_not_is_refused_beforehand(workspace):
    plan = plan_training(small("sd2", hypernetwork__modules="1024, 768"), workspace)
    assert "768" in plan.problems["hypernetwork.modules"] and "64, 128, 1024" in plan.problems["hypernetwork.modules"]
    assert not plan_training(small("sd2", hypernetwork__modules="1024, 64"), workspace).problems
    thin = plan_training(small("sd1", hypernetwork__layer_structure="1, 0.01, 1"), workspace)
    assert "thinner" in thin.problems["hypernetwork.layer_structure"]
    tiny_sd35(workspace.models / "sd35")
    (problem,) = plan_training(small("sd35", dataset__bucket_step=64), workspace).problems.values()
    assert problem.startswith("A hypernetwork changes the attentions of a UNet") and problem.count(".") == 2  # 3.5 and the end
    family, parts = load_model(workspace.models / "sd35", CPU, torch.float32)
    file, _ = saved(*attached(workspace, "sd1")[:2], workspace.root)
    with pytest.raises(UserError, match="goes with a UNet"):
        put_on(family, parts, file, "coat")


def test_a_rate_that_ruins_it_is_said(workspace):
    assert any("ruins a hypernetwork" in note for note in plan_training(small("sd1"), workspace).notes)
    assert not any("hypernetwork" in note for note in plan_training(small("sd1", optimizer__learning_rate=1e-5), workspace).notes)
    assert {"saving.layout", "optimizer.text_encoder_learning_rate"} <= set(small("sd1").without_effect())
