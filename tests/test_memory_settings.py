"""What saves memory: packed layers really are small and right both ways, LoRAs on them train, resume and fit the exact model; the
update inside the backward pass is the same training; the advice leads to something that fits."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from small_training import job, make_workspace, run_of, said, trained
from tiny import tiny_model

from nosnja_gui import estimate as estimating
from nosnja_gui import events
from nosnja_gui.engine import fused, optimizers
from nosnja_gui.engine.models import load_model
from nosnja_gui.engine.roundtrip import forward
from nosnja_gui.engine.train import begin, check_fused, train
from nosnja_gui.estimate import GIB, MARGIN, Machine, fit, memory
from nosnja_gui.families import packing
from nosnja_gui.jobs import OptimizerSettings
from nosnja_gui.methods import Trainable, put_on
from nosnja_gui.models import demand_of
from nosnja_gui.plan import TrainPlan, memory_problems, plan_training
from nosnja_gui.settings import UserError

FORMATS = ("fp8", "int8", "nf4")
ROUNDED = {"fp8": 0.03, "int8": 0.01, "nf4": 0.12}
"""How far weights may be from what they were, as a share of their length; normally distributed they are 0.026, 0.008 and 0.092 away,
evenly distributed ones, as those of fresh layers here, a little more in nf4."""
WHOLE = {"method": "dreambooth", "model__path": "like-sd1", "dataset__resolution": 64, "optimizer__max_grad_norm": 0.0}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = make_workspace(tmp_path_factory.mktemp("memory"))
    tiny_model(made.models / "like-sd1", "sd1")
    return made


# ---------------------------------------------------------------- packed layers


def layers():
    torch.manual_seed(0)
    strided = torch.nn.Conv2d(16, 32, 3, stride=2, padding=1)
    return [(torch.nn.Linear(65, 33), (2, 5, 65)), (strided, (2, 16, 9, 9)), (torch.nn.Conv2d(16, 8, 1, bias=False), (1, 16, 4, 4))]


@pytest.mark.parametrize("wanted", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_layer_computes_with_what_it_holds_there_and_back(wanted, dtype):
    for layer, shape in layers():
        layer = torch.nn.Sequential(layer.to(dtype)).requires_grad_(False)
        before = layer[0].weight.clone()
        assert packing.pack(layer, wanted) == 1 and packing.is_packed(layer[0]) and "weight" not in dict(layer[0].named_parameters())
        weight = layer[0].weight
        assert weight.dtype == dtype and weight.shape == before.shape
        assert (weight.float() - before.float()).norm() < ROUNDED[wanted] * before.float().norm()
        inputs = torch.randn(shape, dtype=dtype, requires_grad=True)
        again = inputs.detach().clone().requires_grad_(True)
        convolution = isinstance(layer[0], torch.nn.Conv2d)
        found = layer(inputs)
        meant = (
            layer[0]._conv_forward(again, weight, layer[0].bias)
            if convolution
            else torch.nn.functional.linear(again, weight, layer[0].bias)
        )
        assert torch.equal(found, meant)
        direction = torch.randn_like(found)
        found.backward(direction)
        meant.backward(direction)
        torch.testing.assert_close(inputs.grad, again.grad)


def saved_by(layer, inputs):
    """How many tensors autograd keeps for the way back."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        layer(inputs)
    return len(saved)


@pytest.mark.parametrize("wanted", FORMATS)
def test_a_packed_layer_is_as_small_as_is_estimated_and_keeps_no_whole_weight_for_the_way_back(wanted):
    for layer, shape in layers():
        size, layer = tuple(layer.weight.shape), torch.nn.Sequential(layer).requires_grad_(False)
        packing.pack(layer, wanted)
        held = sum(buffer.numel() * buffer.element_size() for buffer in layer.buffers())
        # nf4 fills its last block up.
        assert held == pytest.approx(packing.bytes_of(size, packing.format_of("0", size, wanted)), abs=packing.BLOCK)
        saved = saved_by(layer, torch.randn(shape, requires_grad=True))
        assert saved == 0


def test_nf4_is_that_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    layer = torch.nn.Linear(128, 7).requires_grad_(False)
    packed, state = functional.quantize_4bit(layer.weight.detach().clone(), blocksize=64, quant_type="nf4")
    packing.pack(layer, "nf4")
    assert torch.equal(layer.packed.flatten(), packed.flatten()) and torch.equal(layer.scales.flatten(), state.absmax)


def test_another_weight_can_be_laid_over_and_taken_off_again():
    layer = torch.nn.Linear(8, 8).requires_grad_(False)
    packing.pack(layer, "int8")
    before, inputs = layer.weight, torch.randn(3, 8)
    packing.lay_over(layer, torch.ones(8, 8))
    assert torch.equal(layer(inputs), torch.nn.functional.linear(inputs, torch.ones(8, 8), layer.bias))
    packing.lay_over(layer, None)
    assert torch.equal(layer.weight, before)


def test_the_ends_of_a_model_its_norms_and_what_is_trained_are_not_packed(workspace):
    _, parts = load_model("tiny", workspace_models=workspace.models)
    trained_layer = parts.denoiser.get_submodule("mid_block.resnets.0.conv1")
    trained_layer.requires_grad_(True)
    packing.pack(parts.denoiser, "nf4")
    kinds = {name: layer.kept for name, layer in parts.denoiser.named_modules() if packing.is_packed(layer)}
    assert not packing.is_packed(trained_layer) and "conv_in" not in kinds and "time_embedding.linear_1" not in kinds
    assert kinds["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"] == "nf4"
    assert kinds["down_blocks.0.resnets.0.conv1"] == "int8", "a convolution is kept in eight bits"


# ---------------------------------------------------------------- trained on


def effect(workspace, file):
    """What a file changes in a forward pass of the exact model."""
    family, parts = load_model("tiny", workspace_models=workspace.models)
    before = forward(family, parts)[0]
    put_on(family, parts, file, "it")
    return (forward(family, parts)[0] - before).flatten()


@pytest.fixture(scope="module")
def exact(workspace):
    file, _ = trained(workspace, "exact", training__max_steps=3)
    return effect(workspace, file)


@pytest.mark.parametrize("base", FORMATS)
def test_a_lora_of_a_packed_model_changes_the_exact_one_in_the_same_direction(workspace, exact, base):
    preview = {"preview__prompts": ["nosnjaoutfit"], "preview__steps": 2, "preview__before_training": True}
    file, run = trained(workspace, f"on-{base}", memory__base_precision=base, training__max_steps=3, **preview)
    found = effect(workspace, file)
    assert torch.nn.functional.cosine_similarity(found, exact, dim=0) > 0.9
    assert len(said(run, events.Sampled)) == 1 and said(run, events.ReadBack)[0].ours < 1e-3


@pytest.mark.parametrize("base", ["fp8", "nf4"])
def test_a_stopped_training_on_a_packed_model_goes_on_with_the_same_bits(workspace, base):
    changes = {"memory__base_precision": base, "optimizer__text_encoder_learning_rate": 1e-3, "training__max_steps": 2}
    straight, _ = trained(workspace, f"straight-{base}", **changes)
    wanted = job(**changes, saving__checkpoint_every_steps=1)
    run = run_of(workspace, f"stopped-{base}", wanted)
    run.request("stop")
    assert train(wanted, run, workspace) != run.weights / "coat.safetensors"
    assert train(wanted, run, workspace).read_bytes()[-1000:] == straight.read_bytes()[-1000:]


@pytest.mark.parametrize(
    "changes",
    [
        {"lora__dora": True}, {"lora__algorithm": "loha"}, {"lora__algorithm": "lokr", "lora__max_norm": 1.0}, {"lora__algorithm": "oft"},
        {"lora__algorithm": "boft", "lora__rescale": True}, {"method": "pivotal"}, {"method": "textual_inversion"},
        {"method": "hypernetwork", "optimizer__learning_rate": 1e-4}, {"training__gradient_checkpointing": True},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)  # fmt: skip
def test_every_method_trains_on_a_packed_model_and_its_file_is_read_back(workspace, changes, request):
    name = request.node.callspec.id
    layers_of = {"lora__targets": "everything"}
    _, run = trained(workspace, name, training__max_steps=1, memory__base_precision="nf4", **layers_of, **changes)
    assert said(run, events.ReadBack)[0].ours < 1e-3


def test_captions_that_are_read_once_are_read_by_the_exact_encoder(workspace, monkeypatch):
    begun = []
    monkeypatch.setattr("nosnja_gui.engine.train.begin", lambda *given, **named: begun.append(begin(*given, **named)) or begun[-1])
    trained(workspace, "read-once", training__max_steps=1, memory__base_precision="int8")
    trained(workspace, "read-often", training__max_steps=1, memory__base_precision="int8", optimizer__text_encoder_learning_rate=1e-3)
    packed = [any(packing.is_packed(layer) for encoder in one.parts.text_encoders for layer in encoder.modules()) for one in begun]
    assert packed == [False, True] and all(packing.is_packed(one.parts.denoiser.down_blocks[0].resnets[0].conv1) for one in begun)


# ---------------------------------------------------------------- the fused backward pass


def weights_after(workspace, name, **changes):
    file, _ = trained(workspace, name, training__max_steps=2, **{**WHOLE, **changes})
    from safetensors.torch import load_file

    return load_file(file)


def test_the_fused_backward_pass_is_the_same_training_bit_for_bit(workspace):
    usual = weights_after(workspace, "unfused")
    together = weights_after(workspace, "fused", memory__fused_backward=True)
    assert all(torch.equal(tensor, together[name]) for name, tensor in usual.items())
    wanted = job(training__max_steps=2, memory__fused_backward=True, saving__checkpoint_every_steps=1, **WHOLE)
    run = run_of(workspace, "fused-stopped", wanted)
    run.request("stop")
    train(wanted, run, workspace)
    from safetensors.torch import load_file

    resumed = load_file(train(wanted, run, workspace))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in usual.items())


@pytest.mark.parametrize("name", ["adamw", "adafactor", "adamw8bit", "adamw_schedulefree", "came"])
def test_fused_optimizers_free_each_gradient_and_their_state_goes_on_either_way(name):
    pytest.importorskip({"adamw8bit": "bitsandbytes", "adamw_schedulefree": "schedulefree", "came": "pytorch_optimizer"}.get(name, "torch"))

    def fresh():
        torch.manual_seed(3)
        return torch.nn.Sequential(torch.nn.Linear(80, 80), torch.nn.Linear(80, 1))

    def made(model, maker):
        named = dict(model.named_parameters())
        settings = OptimizerSettings(name=name, learning_rate=1e-3, relative_step=False)
        return maker(settings, [Trainable("unet", list(named.values()), list(named))])

    def steps(model, optimizer, first, last):
        for step in range(first, last):
            torch.manual_seed(step)
            model(torch.randn(4, 80)).square().mean().backward()
            optimizer.step()
            assert all(parameter.grad is None for parameter in model.parameters()) or isinstance(optimizer, fused.FusedOptimizer) is False
            optimizer.zero_grad()

    usual, other = fresh(), fresh()
    one, each = made(usual, optimizers.make), made(other, fused.make)
    steps(usual, one, 0, 2)
    steps(other, each, 0, 2)
    third = fresh()
    third.load_state_dict(other.state_dict())
    back = made(third, optimizers.make)
    optimizers.load_state(back, copy.deepcopy(each.state_dict()))
    fourth = fresh()
    fourth.load_state_dict(usual.state_dict())
    on = made(fourth, fused.make)
    optimizers.load_state(on, copy.deepcopy(one.state_dict()))
    for model, optimizer in ((usual, one), (other, each), (third, back), (fourth, on)):
        steps(model, optimizer, 2, 4)
    for model in (other, third, fourth):
        assert all(torch.equal(a, b) for a, b in zip(usual.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"training__gradient_accumulation": 2}, "accumulation"), ({"optimizer__max_grad_norm": 1.0}, "max_grad_norm"),
        ({"prior__images": 10}, "class pictures"), ({"optimizer__name": "prodigy"}, "Prodigy"),
    ],
)  # fmt: skip
def test_what_the_fused_backward_pass_cannot_do_is_refused_at_the_field(changes, says):
    wanted = job(**{**WHOLE, "memory__fused_backward": True, **changes})
    problem = memory_problems(wanted)["memory.fused_backward"]
    assert says in problem and problem.endswith(".") and "\n" not in problem
    # Below an adapter it does nothing, and says so.
    assert not memory_problems(wanted.changed(method="lora"))
    assert "memory.fused_backward" in wanted.changed(method="lora").without_effect()


def test_it_is_refused_on_cards_and_in_processes_that_it_is_not_for():
    with pytest.raises(UserError, match="float16"):
        check_fused(torch.float16, 1)
    with pytest.raises(UserError, match="one process"):
        check_fused(torch.bfloat16, 2)
    check_fused(torch.bfloat16, 1)


@pytest.mark.parametrize("base", FORMATS)
def test_a_whole_model_is_trained_on_no_packed_weights(workspace, base):
    wanted = job(method="dreambooth", memory__base_precision=base)
    assert base in plan_training(wanted, workspace).problems["memory.base_precision"]
    assert "memory.base_precision" not in plan_training(wanted.changed(method="lora"), workspace).problems


# ---------------------------------------------------------------- estimated and made to fit

PLAN = TrainPlan(pictures=30, resolution=512, steps_per_epoch=150, epochs=10, total=1500)


def kit_job(workspace, **changes):
    return job(**{"model__path": str(workspace.models / "tiny"), "lora__alpha": 4.0, **changes})


def test_the_estimate_counts_what_is_packed_and_what_never_exists_at_once(workspace):
    demand = demand_of(workspace.models / "tiny")

    def needed(**changes):
        return memory(kit_job(workspace, **{"model__precision": "bfloat16", **changes}), PLAN, demand, on_gpu=True)["training"]

    figures = [needed(memory__base_precision=base) for base in ("as_model", "fp8", "nf4")]
    assert figures[0] > figures[1] == needed(memory__base_precision="int8") > figures[2]
    _, parts = load_model("tiny", workspace_models=workspace.models)
    parts.denoiser.bfloat16()
    before = sum(parameter.numel() * 2 for parameter in parts.denoiser.parameters())
    packing.pack(parts.denoiser, "fp8")
    after = sum(t.numel() * t.element_size() for t in (*parts.denoiser.parameters(), *parts.denoiser.buffers()))
    assert figures[0] - figures[1] == pytest.approx(before - after, abs=2)
    largest = max(math.prod(shape) for layers in demand.layers.values() for shape in layers.shapes.values())
    for precision, computed_with in (("float32", 0), ("bfloat16", 2)):
        whole = {"method": "dreambooth", "model__precision": precision}
        saved = needed(**whole) - needed(**whole, memory__fused_backward=True)
        assert saved == pytest.approx((4 - computed_with) * demand.unet.parameters - 4 * largest, abs=2)


def test_a_training_is_made_to_fit_with_what_leaves_the_result_as_it_is_first(workspace, monkeypatch):
    from test_estimate import real

    monkeypatch.setattr(estimating, "demand_of", lambda model: real("sd15"))
    wanted = kit_job(workspace, training__batch_size=4, lora__rank=128, preview__prompts=["a"])
    four = Machine("NVIDIA GeForce GTX 1650", 4 * GIB, int(3.6 * GIB), 8)
    found = fit(wanted, PLAN, workspace, four)
    assert found.estimate.fits and found.estimate.memory_bytes * MARGIN <= four.memory_free
    kinds = [advice.kind for advice in found.advice]
    assert kinds[:1] == ["gradient_checkpointing"] and not {"rank", "resolution", "nf4"} & set(kinds), kinds
    assert [advice.text for advice in found.advice] == [said.partition(" That saves")[0] for said in found.said[:-1]]
    assert "It fits" in found.said[-1] and all(sentence.endswith(".") for sentence in found.said)
    again = fit(wanted.changed(**found.changes), replace(PLAN, resolution=found.changes.get("dataset.resolution", 512)), workspace, four)
    assert again.changes == {} and again.said == found.said[-1:]


def test_what_cannot_fit_is_said_with_the_nearest(workspace, monkeypatch):
    from test_estimate import real

    monkeypatch.setattr(estimating, "demand_of", lambda model: real("sd15"))
    found = fit(kit_job(workspace), PLAN, workspace, Machine("NVIDIA GeForce GT 1030", 2 * GIB, GIB, 4))
    assert found.estimate.fits is False and "cannot be made to fit" in found.said[-1] and found.changes
    whole = kit_job(workspace, method="dreambooth")
    eight = fit(whole, PLAN, workspace, Machine("NVIDIA GeForce RTX 4090", 24 * GIB, 12 * GIB, 8))
    assert eight.estimate.fits
    unknown = fit(kit_job(workspace), PLAN, workspace, Machine())
    assert unknown.changes == {} and "Nothing is known" in unknown.said[0]
