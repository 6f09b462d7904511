import importlib
import io
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from nosnja_gui import plan
from nosnja_gui.engine import checkpoints, optimizers
from nosnja_gui.engine import train as training
from nosnja_gui.engine.train import train
from nosnja_gui.estimate import PER_PARAMETER
from nosnja_gui.events import Sampled, Step, Validated
from nosnja_gui.jobs import OptimizerSettings, ScheduleSettings, TrainJob
from nosnja_gui.jobs.optimizer import OPTIMIZERS
from nosnja_gui.methods import Trainable
from nosnja_gui.settings import UserError
from tests.small_training import job, make_workspace, run_of, said, trained

RATES = {"prodigy": 1.0, "dadapt_adam": 0.5, "lion": 1e-3, "lion8bit": 1e-3, "came": 1e-3}
VARIANTS = {
    **{name: {} for name in OPTIMIZERS},
    "adafactor at a rate": {"relative_step": False, "scale_parameter": False},
    "adafactor with momentum": {"beta1": 0.9},
}
"""Every optimiser, by a name that begins with its own, and what else is set."""


def settings_of(variant: str, **changes) -> OptimizerSettings:
    name = variant.split()[0]
    return OptimizerSettings(name=name, **{"learning_rate": RATES.get(name, 1e-2), **VARIANTS.get(variant, {}), **changes})


def toy(seed: int = 0) -> list[Trainable]:
    """A LoRA of a wide layer (enough numbers for eight bits), one of a convolution, and a bias."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    shapes = {"down": (8, 700), "up": (700, 8), "conv": (8, 4, 3, 3), "bias": (5,)}
    made = {
        name: torch.nn.Parameter(torch.zeros(shape) if name in ("up", "bias") else 0.05 * torch.randn(shape))
        for name, shape in shapes.items()
    }
    return [
        Trainable("unet", [made["down"], made["up"]], ["down", "up"]),
        Trainable("text_encoder", [made["conv"], made["bias"]], ["conv", "bias"]),
    ]


def parameters_of(trainables: list[Trainable]) -> list[torch.nn.Parameter]:
    return [parameter for trainable in trainables for parameter in trainable.parameters]


def loss_of(trainables: list[Trainable], step: int = 0) -> torch.Tensor:
    """How far the layers are from turning noise by one place and pictures into ones; the noise follows from the step."""
    generator = torch.Generator().manual_seed(100 + step)
    down, up, conv, bias = parameters_of(trainables)
    noise, pictures = torch.randn(16, 700, generator=generator), torch.randn(4, 4, 6, 6, generator=generator)
    turned = ((noise @ down.T @ up.T - noise.roll(1, 1)) ** 2).mean()
    return turned + ((torch.nn.functional.conv2d(pictures, conv) - 1 + bias.sum()) ** 2).mean()


def steps(optimizer: torch.optim.Optimizer, trainables: list[Trainable], first: int, last: int, total: int = 6) -> None:
    for step in range(first, last):
        optimizers.set_rates(optimizer, ScheduleSettings(name="constant", warmup_share=0.2), step, total)
        loss_of(trainables, step).backward()
        optimizer.step()
        optimizer.zero_grad()


def through_a_file(state):
    """As checkpoints do it."""
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


# ---------------------------------------------------------------- every entry of the table


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_optimiser_goes_on_with_the_same_bits(variant):
    settings = settings_of(variant, text_encoder_learning_rate=5e-3)
    whole, first, second = toy(), toy(), toy(seed=1)
    steps(optimizers.make(settings, whole), whole, 0, 6)
    half = optimizers.make(settings, first)
    steps(half, first, 0, 3)
    weights, state = through_a_file(([parameter.detach() for parameter in parameters_of(first)], half.state_dict()))
    resumed = optimizers.make(settings, second)
    with torch.no_grad():
        for parameter, saved in zip(parameters_of(second), weights, strict=True):
            parameter.copy_(saved)
    optimizers.load_state(resumed, state)
    steps(resumed, second, 3, 6)
    moved = [not torch.equal(one, other) for one, other in zip(parameters_of(whole), parameters_of(toy()), strict=True)]
    assert all(moved)
    assert all(torch.equal(one, other) for one, other in zip(parameters_of(whole), parameters_of(second), strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_optimiser_learns_at_its_rate(variant):
    settings, trainables = settings_of(variant, text_encoder_learning_rate=1e-2), toy()
    optimizer, before = optimizers.make(settings, trainables), loss_of(toy()).item()
    steps(optimizer, trainables, 0, 160, 160)
    with optimizers.averaged(optimizer, settings), torch.no_grad():
        # Adafactor goes by the size of the weights, and these begin at nothing.
        assert loss_of(trainables).item() < (0.99 if settings.name == "adafactor" and settings.scale_parameter else 0.7) * before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_memory_that_is_told_is_what_the_state_takes(name):
    """On a matrix of the size that a LoRA of rank 16 has, of SDXL's widest layers."""
    parameter = torch.nn.Parameter(torch.randn(16, 1280))
    settings = settings_of(name)
    optimizer = optimizers.make(settings, [Trainable("unet", [parameter], ["down"])])
    (parameter**2).sum().backward()
    optimizer.step()
    tensors = [value for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor) and value.numel() > 1]
    tables = 256 * 4 * sum(key.startswith("qmap") for key in optimizer.state[parameter])  # one for all parameters
    taken = (sum(value.numel() * value.element_size() for value in tensors) - tables) / parameter.numel()
    copied = 4 if settings.chosen.averages else 0  # of the weights, while the average is looked at
    assert taken + copied == pytest.approx(OPTIMIZERS[name].state_bytes, abs=0.75)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_setting_reaches_exactly_the_optimisers_that_it_is_shown_with(name):
    changed = {
        "beta1": 0.8, "beta2": 0.95, "beta3": 0.97, "epsilon": 1e-6, "momentum": 0.8, "relative_step": False, "scale_parameter": False,
        "d_coef": 2.0, "d0": 1e-5, "safeguard_warmup": False, "weight_decay": 0.1,
    }  # fmt: skip
    settings = settings_of(name)

    def defaults(settings: OptimizerSettings) -> list[str]:
        optimizer = optimizers.make(settings, toy())
        return [repr({key: value for key, value in group.items() if key != "params"}) for group in optimizer.param_groups]

    usual = defaults(settings)
    reached = {setting for setting, value in changed.items() if defaults(settings.changed(**{setting: value})) != usual}
    assert reached == set(changed) - set(settings.without_effect())


def test_what_the_authors_do_is_what_empty_settings_mean():
    """The classes' own defaults, but for what is said to be done otherwise."""
    for name, optimizer in OPTIMIZERS.items():
        module, _, made_by = optimizer.made_by.rpartition(".")
        theirs = getattr(importlib.import_module(module), made_by)([{"params": [torch.nn.Parameter(torch.zeros(2, 2))], "use_muon": True}])
        given = {**settings_of(name).arguments(), "lr": None, "weight_decay": None}
        for argument in set(given) - {*optimizer.always, "lr", "weight_decay", "safeguard_warmup"}:
            assert given[argument] == theirs.param_groups[0][argument if argument != "d0" or name == "prodigy" else "d"], (name, argument)


@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "prodigy"])
def test_the_usual_ones_are_made_as_ever(name):
    import bitsandbytes
    import prodigyopt

    as_ever = {
        "adamw": lambda groups: torch.optim.AdamW(groups, weight_decay=0.01, fused=True),
        "adamw8bit": lambda groups: bitsandbytes.optim.AdamW8bit(groups, weight_decay=0.01),
        "prodigy": lambda groups: prodigyopt.Prodigy(groups, 1.0, weight_decay=0.01, use_bias_correction=True, safeguard_warmup=True),
    }
    ours, theirs, settings = toy(), toy(), settings_of(name)
    rate = settings.learning_rate
    groups = [{"params": one.parameters, "lr": rate, "base_rate": rate} for one in theirs]
    steps(optimizers.make(settings.changed(text_encoder_learning_rate=rate), ours), ours, 0, 8, 8)
    steps(as_ever[name](groups), theirs, 0, 8, 8)
    assert all(torch.equal(one, other) for one, other in zip(parameters_of(ours), parameters_of(theirs), strict=True))


# ---------------------------------------------------------------- rates


def test_rates_of_parts_of_their_own_and_factors():
    settings = OptimizerSettings(learning_rate=1e-3, text_encoder_learning_rate=1e-4)
    unet, text = toy()
    faster = Trainable("unet", unet.parameters, unet.names, rate_factor=16.0)
    own = Trainable("embedding", text.parameters, text.names, rate=5e-3, rate_factor=2.0)
    assert [optimizers.rate_of(settings, one) for one in (unet, text, faster, own)] == pytest.approx([1e-3, 1e-4, 1.6e-2, 1e-2])
    finding = settings.changed(name="prodigy", learning_rate=1.0)
    assert [optimizers.rate_of(finding, one) for one in (unet, text, faster, own)] == pytest.approx([1, 1, 16, 2])


def test_one_rate_is_told_for_each_part_the_first_of_its_groups():
    settings = OptimizerSettings(learning_rate=1e-3)
    down, up = (Trainable("unet", [parameter], [name]) for parameter, name in zip(toy()[0].parameters, ("down", "up"), strict=True))
    up.rate_factor = 8.0
    optimizer = optimizers.make(settings, [down, up])
    optimizers.set_rates(optimizer, ScheduleSettings(name="constant", warmup_share=0), 0, 10)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-3, 8e-3])
    assert optimizers.rates(optimizer, [down, up], settings) == pytest.approx({"unet": 1e-3})
    optimizers.change_rate(optimizer, [down, up], settings, 5e-4)
    assert [group["base_rate"] for group in optimizer.param_groups] == pytest.approx([5e-4, 4e-3])


@pytest.mark.parametrize("name", [name for name, entry in OPTIMIZERS.items() if entry.finds_rate])
def test_an_optimiser_with_one_rate_refuses_parts_that_learn_faster(name):
    trainables = toy()
    trainables[1].rate_factor = 16.0
    with pytest.raises(UserError, match="finds one rate"):
        optimizers.make(settings_of(name), trainables)


@pytest.mark.parametrize("name", [name for name, entry in OPTIMIZERS.items() if entry.finds_rate])
def test_a_found_rate_is_told_and_grows(name):
    settings, trainables = settings_of(name), toy()
    optimizer = optimizers.make(settings, trainables)
    factor = settings.learning_rate
    assert optimizers.rates(optimizer, trainables, settings) == pytest.approx({"unet": 1e-6 * factor, "text_encoder": 1e-6 * factor})
    steps(optimizer, trainables, 0, 80, 80)
    told = optimizers.rates(optimizer, trainables, settings)
    assert told["unet"] == told["text_encoder"] == pytest.approx(factor * optimizer.param_groups[0]["d"])
    assert told["unet"] > 1e-5


def test_adafactor_tells_no_rate_where_it_goes_by_none_and_moves_alike_at_any():
    relative, given = settings_of("adafactor"), settings_of("adafactor at a rate")
    ends = {}
    for settings in (relative, relative.changed(learning_rate=1e-5), given, given.changed(learning_rate=1e-5)):
        trainables = toy()
        optimizer = optimizers.make(settings, trainables)
        steps(optimizer, trainables, 0, 2)
        ends[settings] = (parameters_of(trainables)[0].detach(), optimizers.rates(optimizer, trainables, settings))
    (one, none), (other, _), (fast, told), (slow, _) = ends.values()
    assert none == {} and torch.equal(one, other)
    assert told["unet"] == pytest.approx(1e-2) and not torch.equal(fast, slow)
    assert {"optimizer.learning_rate", "schedule.name", "schedule.warmup_share"} <= set(idle(relative))
    assert not {"optimizer.learning_rate", "schedule.name", "schedule.warmup_share"} & set(idle(given))


def idle(settings: OptimizerSettings) -> list[str]:
    return TrainJob(optimizer=settings).without_effect()


# ---------------------------------------------------------------- Muon


def test_muon_moves_matrices_by_turned_steps_and_all_else_as_adamw_does():
    settings, ours, theirs = settings_of("muon", weight_decay=0.02, text_encoder_learning_rate=1e-2), toy(), toy()
    embedding = Trainable("embedding", [torch.nn.Parameter(torch.ones(3, 8))], ["token"])
    groups = optimizers.grouped(settings, [*ours, embedding])
    assert [(group.names, optimizers.for_matrices(group)) for group in groups] == [
        (["down", "up"], True), (["conv"], True), (["bias"], False), (["token"], False),
    ]  # fmt: skip
    muon, adamw = optimizers.make(settings, ours), torch.optim.AdamW(theirs[1].parameters[1:], 1e-2, (0.9, 0.95), 1e-10, 0.02)
    for optimizer, trainables in ((muon, ours), (adamw, theirs)):
        loss_of(trainables).backward()
        optimizer.step()
    assert torch.allclose(ours[1].parameters[1], theirs[1].parameters[1], atol=1e-7)
    step = ours[0].parameters[1].detach()  # it began at zero
    # All directions are gone alike, and as far as AdamW would: a root mean square of 0.2 (Liu et al. 2025, section 2.2).
    lengths = torch.linalg.svdvals(step / (1e-2 * 0.2 * 700**0.5))
    assert lengths.min() > 0.6 and lengths.max() < 1.3
    assert step.square().mean().sqrt() == pytest.approx(0.2 * 1e-2, rel=0.2)


# ---------------------------------------------------------------- what is refused, what is said


@pytest.mark.parametrize("name", [name for name, entry in OPTIMIZERS.items() if entry.package])
def test_a_missing_package_is_named(name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None if module == OPTIMIZERS[name].made_by.split(".")[0] else object())
    with pytest.raises(UserError, match=f"pip install {OPTIMIZERS[name].package}"):
        plan.check_optimizer(settings_of(name))


def test_what_needs_no_package_is_never_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    assert {name for name, entry in OPTIMIZERS.items() if not entry.package} == {"adamw", "adafactor"}
    for name in ("adamw", "adafactor"):
        plan.check_optimizer(settings_of(name))


def remarks(name: str, rate: float, **more) -> str:
    return " ".join(plan.rate_remarks(OptimizerSettings(name=name, learning_rate=rate, **more)))


def test_rates_far_from_what_is_usual_are_remarked_upon():
    assert remarks("adamw", 1e-2) == remarks("prodigy", 0.5) == remarks("dadapt_adam", 1.0) == remarks("lion", 3e-5) == ""
    assert "D-Adaptation (Adam) finds its own rate" in remarks("dadapt_adam", 1e-4)
    assert "1e-4" not in remarks("prodigy", 1.0) and "hardly learns" in remarks("prodigy", 1e-4)
    assert "0.0003 is usual, and 1 is for Prodigy and D-Adaptation (Adam) only" in remarks("adamw_schedulefree", 1.0)
    assert "Lion wants lower rates than AdamW" in remarks("lion", 1e-4) and "2e-05 is usual" in remarks("came", 1e-4)
    assert "have no effect" in remarks("adafactor", 1.0) and "burns" in remarks("adafactor", 1.0, relative_step=False)


# ---------------------------------------------------------------- schedule-free, in a real training


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("optimizers"))


FREE = {
    "optimizer__name": "adamw_schedulefree", "optimizer__text_encoder_learning_rate": 5e-3, "schedule__name": "constant",
    "schedule__warmup_share": 0.2, "dataset__validation_share": 0.2, "training__epochs": 3, "training__max_steps": 6,
}  # fmt: skip
LOOKED_AT = {
    "preview__prompts": ["a girl in a coat"], "preview__every_steps": 2, "preview__steps": 1, "validation__every_epochs": 1,
    "saving__every_steps": 1,
}  # fmt: skip


def test_a_schedule_is_refused_where_there_is_none_to_follow(workspace):
    wanted = job(**{**FREE, "schedule__name": "cosine"})
    problems = plan.plan_training(wanted, workspace).problems
    assert set(problems) == {"schedule.name"} and "set schedule.name to constant" in problems["schedule.name"]
    assert plan.plan_training(job(**FREE), workspace).problems == {}


def test_parts_that_learn_faster_are_refused_where_there_is_one_rate(workspace):
    wanted = job(optimizer__name="prodigy", optimizer__learning_rate=1.0, lora__plus_ratio=16)
    problems = plan.plan_training(wanted, workspace).problems
    assert set(problems) == {"lora.plus_ratio"} and "one rate" in problems["lora.plus_ratio"]
    assert plan.plan_training(wanted.changed(**{"optimizer.name": "muon"}), workspace).problems == {}


def test_a_schedule_free_training_is_the_same_looked_at_stopped_and_resumed_or_left_alone(workspace, monkeypatch):
    alone, _ = trained(workspace, "free-alone", **FREE)
    wanted = job(**{**FREE, **LOOKED_AT})
    run = run_of(workspace, "free-parts", wanted)
    made, update = [], training.update

    def stopping(state):
        made.append(1)
        if len(made) == 3:
            run.request("stop")
        return update(state)

    monkeypatch.setattr(training, "update", stopping)
    train(wanted, run, workspace)
    assert run.status().state == "stopped"
    final = load_file(train(wanted, run, workspace))
    assert all(torch.equal(tensor, final[name]) for name, tensor in load_file(alone).items())
    assert len(said(run, Validated)) >= 2 and len(said(run, Sampled)) >= 3
    assert said(run, Step)[-1].learning_rates == pytest.approx({"unet": 1e-2, "text_encoder": 5e-3})


def test_the_average_is_shown_saved_and_measured_and_the_training_goes_on_from_its_own_weights(workspace, monkeypatch):
    looked: dict[str, list[dict[str, torch.Tensor]]] = {"paint": [], "validate": [], "save": []}
    kept: list[training.Training] = []
    begin, sample, fixed = training.begin, training.sample, training.fixed_noise
    monkeypatch.setattr(training, "begin", lambda *given, **more: kept.append(begin(*given, **more)) or kept[0])

    def weights() -> dict[str, torch.Tensor]:
        return {name: parameter.detach().clone() for name, parameter in kept[0].named_parameters.items()}

    monkeypatch.setattr(training, "sample", lambda *given, **more: looked["paint"].append(weights()) or sample(*given, **more))
    monkeypatch.setattr(training, "fixed_noise", lambda *given: looked["validate"].append(weights()) or fixed(*given))
    _, run = trained(workspace, "free-average", **{**FREE, **LOOKED_AT, "saving__checkpoint_every_steps": 5})
    optimizer, trained_weights = kept[0].optimizer, weights()
    for weight, states in zip(kept[0].parameters, optimizer.state.values(), strict=True):
        # Between the base sequence z and the average x, nearer to x (Defazio et al. 2024, equation 3).
        average = (weight - 0.1 * states["z"]) / 0.9
        name = next(name for name, parameter in kept[0].named_parameters.items() if parameter is weight)
        for seen in (looked["paint"][-1], looked["validate"][-1]):
            assert torch.allclose(seen[name], average, atol=1e-6)
    assert any(not torch.equal(trained_weights[name], looked["paint"][-1][name]) for name in trained_weights)
    saved = [load_file(run.weights / f"coat-step-{step:05d}.safetensors") for step in (5, 6)]
    assert all(tensor.isfinite().all() for file in saved for tensor in file.values())
    ups = sorted(tensor.norm().item() for name, tensor in saved[1].items() if name.endswith("lora_up.weight"))
    shown = sorted(tensor.norm().item() for name, tensor in looked["paint"][-1].items() if tensor.shape[1] == 4)
    assert ups == pytest.approx(shown)
    state = checkpoints.newest(run.checkpoints, pytest.fail)
    assert state.step == 5 and all(group["train_mode"] for group in state.optimizer["optimizer"]["param_groups"])


def test_the_estimate_counts_the_state():
    assert {name: PER_PARAMETER + entry.state_bytes for name, entry in OPTIMIZERS.items() if name in ("adamw", "adamw8bit", "prodigy")} == {
        "adamw": 16, "adamw8bit": 10, "prodigy": 24,
    }  # fmt: skip


def test_a_tensor_in_a_group_goes_where_the_parameters_are():
    """D-Adaptation keeps one there, which torch would leave where the file was read."""
    moved = []
    parameter = SimpleNamespace(device=torch.device("meta"))
    optimizer = SimpleNamespace(
        param_groups=[{"params": [parameter], "d": torch.ones(1), "betas": (0.9, 0.999)}], load_state_dict=moved.append
    )
    optimizers.load_state(optimizer, {"state": {}})
    assert moved == [{"state": {}}] and optimizer.param_groups[0]["d"].device.type == "meta"
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999) and optimizer.param_groups[0]["params"] == [parameter]
