"""The running average of the trained weights: its formula, and that it is what is shown, saved and resumed."""

import pytest
import torch
from safetensors.torch import load_file

from nosnja_gui.engine import train as training
from nosnja_gui.engine.ema import Average, decay_at
from nosnja_gui.engine.train import train
from nosnja_gui.plan import plan_training
from tests.small_training import job, make_workspace, run_of, trained
from tests.test_resume import digest, stop_after


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("ema"))


def test_the_average_is_the_formulas():
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    average = Average(["w"], [parameter], 0.5)
    with torch.no_grad():
        parameter.copy_(torch.tensor([3.0, 0.0]))
    average.update(1)  # d = min(0.5, 2 / 11)
    expected = torch.tensor([2 / 11 * 1 + 9 / 11 * 3, 2 / 11 * 2])
    assert torch.allclose(average.values[0], expected)
    average.update(100)  # d = 0.5
    assert torch.allclose(average.values[0], 0.5 * expected + 0.5 * torch.tensor([3.0, 0.0]))
    with average.worn():
        assert torch.equal(parameter.detach(), average.values[0])
    assert torch.equal(parameter.detach(), torch.tensor([3.0, 0.0]))


def test_it_forgets_the_start_sooner_at_first():
    assert [decay_at(update, 0.999) for update in (1, 10)] == [2 / 11, 11 / 20] and decay_at(10**6, 0.999) == 0.999


def test_the_file_holds_the_average_of_what_each_step_made(workspace, monkeypatch):
    seen: list[dict[str, torch.Tensor]] = []
    original = training.update

    def update(state):
        result = original(state)
        seen.append({name: value.detach().clone() for name, value in state.named_parameters.items()})
        return result

    monkeypatch.setattr(training, "update", update)
    file, _ = trained(workspace, "averaged", training__ema_decay=0.3, training__max_steps=4, saving__layout="diffusers")
    monkeypatch.undo()
    plain, _ = trained(workspace, "plain", training__max_steps=4, saving__layout="diffusers")
    name = next(name for name in seen[0] if name.endswith("lora_up.weight"))
    average = torch.zeros_like(seen[0][name])  # up matrices begin at zero
    for number, weights in enumerate(seen, start=1):
        decay = min(0.3, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * weights[name]
    found = [value for value in load_file(file).values() if value.shape == average.shape and torch.allclose(value, average, atol=1e-6)]
    last = [value for value in load_file(plain).values() if torch.equal(value, seen[-1][name])]
    assert found and last


def test_a_resumed_average_is_the_same_to_the_last_bit(workspace, monkeypatch):
    changes = {"training__ema_decay": 0.9, "training__max_steps": 5, "preview__prompts": ["a coat"], "preview__every_steps": 2}
    changes |= {"preview__steps": 1}
    whole, _ = trained(workspace, "whole", **changes)
    wanted = job(**changes)
    run = run_of(workspace, "parts", wanted)
    with monkeypatch.context() as patch:
        stop_after(run, 3, patch)
        train(wanted, run, workspace)
    assert run.status().state == "stopped"
    assert digest(train(wanted, run, workspace)) == digest(whole)


def test_an_optimiser_that_averages_by_itself_wants_no_second_average(workspace):
    changes = {"optimizer__name": "adamw_schedulefree", "schedule__name": "constant"}
    assert "training.ema_decay" in plan_training(job(training__ema_decay=0.9, **changes), workspace).problems
    assert not plan_training(job(**changes), workspace).problems
