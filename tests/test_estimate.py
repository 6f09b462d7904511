"""Memory and time before a training: the measured figures come out, changes go the right way, earlier runs are listened to."""

import itertools
import time
from dataclasses import replace
from functools import cache

import pytest
import torch
from small_training import job as small_job
from small_training import make_workspace, trained

from nosnja_gui import estimate as estimating
from nosnja_gui.estimate import CUDA_CONTEXT, GIB, Machine, card_tflops, earlier_run, estimate, memory, this_machine
from nosnja_gui.events import EventLog, Started, Step
from nosnja_gui.families.demand import Demand, of_layers, of_text_encoder, of_unet, of_vae
from nosnja_gui.families.stable_diffusion import TEXT_ATTENTION, UNET_ATTENTION
from nosnja_gui.hardware import GpuLoad, Load
from nosnja_gui.jobs import TrainJob
from nosnja_gui.models import KIT, demand_of
from nosnja_gui.plan import TrainPlan, plan_training
from nosnja_gui.runs import RunFolder

CARD = Machine("NVIDIA GeForce RTX 3060", 12 * GIB, 11 * GIB, 8)
PLAN = TrainPlan(
    pictures=30, resolution=512, exposures_per_epoch=300, steps_per_epoch=150, epochs=10, total=1500, exposures=3000, samples=22
)


def headers(module):
    return {name: ("F32", tuple(tensor.shape)) for name, tensor in module.state_dict().items()}


@cache
def real(name):
    """The demand of the real configurations, built without their weights."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel

    xl = {
        "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20], "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }  # fmt: skip
    channels = {
        "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    }  # fmt: skip
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 49408}
    with torch.device("meta"):
        options = xl if name == "sdxl" else {"cross_attention_dim": 768, "attention_head_dim": 8}
        unet = headers(UNet2DConditionModel(**options))
        vae, encoder = headers(AutoencoderKL(latent_channels=4, **channels)), headers(CLIPTextModel(CLIPTextConfig(**text)))
    layers = {"unet": of_layers(unet, UNET_ATTENTION), "text_encoder": of_layers(encoder, TEXT_ATTENTION)}
    return Demand(of_unet(unet), of_vae(vae), of_text_encoder(encoder), layers)


def job(**changes):
    return TrainJob().changed(**{name.replace("__", "."): value for name, value in changes.items()})


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("estimate"))


# ---------------------------------------------------------------- the measured figures


@pytest.mark.parametrize(
    ("model", "resolution", "batch", "checkpointing", "gibibytes"),
    [
        ("sd15", 512, 1, False, 2.46), ("sd15", 512, 4, False, 4.90), ("sd15", 512, 8, False, 8.16),
        ("sd15", 512, 1, True, 1.86), ("sd15", 512, 4, True, 2.52), ("sd15", 512, 8, True, 3.40),
        ("sdxl", 1024, 1, False, 10.75), ("sdxl", 1024, 4, False, 27.8), ("sdxl", 1024, 1, True, 5.55), ("sdxl", 1024, 4, True, 7.09),
    ],
)  # fmt: skip
def test_the_memory_of_a_step_is_within_a_tenth_of_the_measured_floors(model, resolution, batch, checkpointing, gibibytes):
    wanted = job(training__batch_size=batch, training__gradient_checkpointing=checkpointing)
    phases = memory(wanted, replace(PLAN, resolution=resolution), real(model), on_gpu=True)
    assert (phases["training"] - CUDA_CONTEXT) / GIB == pytest.approx(gibibytes, rel=0.1)


@pytest.mark.parametrize(
    ("model", "positions", "forward", "training", "checkpointed"),
    [("sd15", 64**2, 0.808, 1.788, 2.380), ("sdxl", 128**2, 6.80, 14.58, 19.73)],
)
def test_the_work_of_a_picture_is_within_a_tenth_of_the_counted_one(model, positions, forward, training, checkpointed):
    unet = real(model).unet
    assert unet.forward_flop(positions) / 1e12 == pytest.approx(forward, rel=0.1)
    assert unet.training_flop(positions, False) / 1e12 == pytest.approx(training, rel=0.1)
    assert unet.training_flop(positions, True) / 1e12 == pytest.approx(checkpointed, rel=0.1)


def test_the_autoencoder_and_the_text_encoder_are_those_that_were_counted():
    demand = real("sd15")
    assert demand.vae.encoding_flop(512**2) / 1e12 == pytest.approx(1.117)
    assert demand.vae.decoding_flop(512**2) / 1e12 == pytest.approx(2.5, rel=0.01)
    assert demand.text_encoder.training_flop() / 3e12 == pytest.approx(0.013, rel=0.1)
    assert estimating.trained_parameters(job(lora__rank=16), demand) == 3_188_736
    preview = 20 * 2 * demand.unet.forward_flop(64**2) + demand.vae.decoding_flop(512**2)
    assert preview / 1e12 == pytest.approx(34.7, rel=0.05)


@pytest.mark.parametrize(("batch", "checkpointing", "gibibytes"), [(1, False, 0.550), (8, False, 0.691), (8, True, 0.626)])
def test_the_memory_on_a_processor_is_that_measured_with_the_demo_kit(batch, checkpointing, gibibytes):
    plan = TrainPlan(pictures=4, resolution=128, steps_per_epoch=10, total=12)
    wanted = job(training__batch_size=batch, training__gradient_checkpointing=checkpointing)
    needed = max(memory(wanted, plan, demand_of(KIT / "sd"), on_gpu=False).values())
    assert needed / GIB == pytest.approx(gibibytes, rel=0.1)


# ---------------------------------------------------------------- which way it goes


def needed(machine_has_card=True, resolution=512, **changes):
    return memory(job(**changes), replace(PLAN, resolution=resolution), real("sd15"), machine_has_card)["training"]


@pytest.mark.parametrize("card", [True, False])
def test_more_of_anything_needs_more_memory(card):
    def rises(name, values):
        figures = [needed(card, **{name: value}) for value in values]
        return all(one < other for one, other in itertools.pairwise(figures))

    assert rises("training__batch_size", (1, 2, 4, 16)) and rises("lora__rank", (1, 8, 64, 512))
    assert rises("optimizer__name", ("adamw8bit", "adamw")) and rises("resolution", (256, 512, 768, 1024))
    assert rises("training__gradient_checkpointing", (True, False)) and rises("model__precision", ("bfloat16", "float32"))
    assert rises("optimizer__text_encoder_learning_rate", (None, 5e-5))
    assert needed(card, training__gradient_accumulation=8) == needed(card)


def kit_job(**changes):
    return job(model__path=str(KIT / "sd"), **changes)


def test_advice_lowers_the_memory_and_says_by_how_much(workspace, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(estimating, "demand_of", lambda model: real("sd15"))
    wanted = kit_job(training__batch_size=6, optimizer__text_encoder_learning_rate=5e-5, lora__rank=128, lora__alpha=64.0)
    little = Machine("NVIDIA GeForce RTX 3060", 6 * GIB, 5 * GIB, 8)
    told = estimate(wanted, PLAN, workspace, little)
    assert told.fits is False
    kinds = [advice.kind for advice in told.advice]
    harmless = ["batch_size", "gradient_checkpointing", "int8", "adamw8bit"]
    assert kinds[:4] == harmless and set(kinds[4:]) == {"nf4", "resolution", "text_encoder", "rank"}
    for advice in told.advice:
        changed = wanted.changed(**advice.changes)
        plan = replace(PLAN, resolution=changed.dataset.resolution or 512)
        after = estimate(changed, plan, workspace, little)
        assert told.memory_bytes - after.memory_bytes == advice.saves_bytes > 0
        assert advice.kind not in {again.kind for again in after.advice} or advice.kind in ("resolution", "rank")
        if advice.kind != "resolution":
            assert changed.lora.scale == wanted.lora.scale and changed.training.batch_size * changed.training.gradient_accumulation == 6
    for some in (told.advice[:4], told.advice[4:]):
        saved = [advice.saves_bytes for advice in some]
        assert saved == sorted(saved, reverse=True)


def test_there_is_no_advice_where_memory_is_plenty_and_none_that_needs_a_missing_package(workspace, monkeypatch):
    plan = replace(PLAN, resolution=128)
    assert estimate(kit_job(), plan, workspace, Machine("NVIDIA H100", 80 * GIB, 79 * GIB)).advice == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    told = estimate(kit_job(training__batch_size=8, lora__rank=256), plan, workspace, Machine("NVIDIA H100", 80 * GIB, GIB // 4))
    assert told.fits is False and "adamw8bit" not in {advice.kind for advice in told.advice}


def test_whether_it_fits_depends_on_what_is_free(workspace):
    plan = replace(PLAN, resolution=128)
    asked = estimate(kit_job(), plan, workspace, CARD).memory_bytes
    assert estimate(kit_job(), plan, workspace, replace(CARD, memory_free=asked)).fits is False
    assert estimate(kit_job(), plan, workspace, replace(CARD, memory_free=2 * asked)).fits is True
    unknown = estimate(kit_job(), plan, workspace, replace(CARD, memory_total=0, memory_free=0))
    assert unknown.fits is None and unknown.memory_bytes == asked


def test_without_a_model_or_a_dataset_nothing_is_made_up(workspace):
    for path in ("", "nowhere", "a\0b", str(workspace.root)):
        told = estimate(job(model__path=path), PLAN, workspace, CARD)
        assert (told.memory_bytes, told.fits, told.seconds, told.advice) == (None, None, None, []) and told.basis
    told = estimate(kit_job(), TrainPlan(resolution=128), workspace, CARD)
    assert told.seconds is None and told.memory_bytes and told.basis


# ---------------------------------------------------------------- time


def test_a_first_guess_is_called_one_and_grows_with_the_work(workspace):
    told = estimate(kit_job(), replace(PLAN, resolution=128), workspace, CARD)
    assert told.basis_kind == "gpu" and "rough guess" in told.basis and "3060" in told.basis
    slow = Machine("", 16 * GIB, 12 * GIB, 2)
    guesses = [estimate(kit_job(**changes), plan, workspace, slow).seconds for changes, plan in [
        ({}, replace(PLAN, resolution=128)),
        ({"training__gradient_checkpointing": True}, replace(PLAN, resolution=128)),
        ({"training__gradient_checkpointing": True, "training__batch_size": 8}, replace(PLAN, resolution=128)),
        ({"training__gradient_checkpointing": True, "training__batch_size": 8}, replace(PLAN, resolution=256)),
        ({"training__gradient_checkpointing": True, "training__batch_size": 8}, replace(PLAN, resolution=256, total=15_000)),
    ]]  # fmt: skip
    assert guesses == sorted(guesses) and guesses[0] < guesses[-1] / 10


def test_the_known_recipe_takes_about_what_it_is_known_to_take(monkeypatch, workspace):
    """3,000 samples of SD 1.5 took a quarter of an hour on a T4-class card."""
    monkeypatch.setattr(estimating, "demand_of", lambda model: real("sd15"))
    plan = replace(PLAN, samples=0)
    told = estimate(kit_job(training__batch_size=2), plan, workspace, Machine("Tesla T4", 15 * GIB, 15 * GIB))
    assert told.seconds == pytest.approx(15 * 60, rel=0.2)


@pytest.mark.parametrize(
    ("name", "like"),
    [("NVIDIA A100-SXM4-80GB", 60), ("NVIDIA A10G", 18), ("NVIDIA L40S", 45), ("NVIDIA GeForce RTX 4070 Ti SUPER", 16), ("Tesla T4", 6),
     ("NVIDIA GeForce RTX 2060", 6), ("NVIDIA T400 4GB", 8), ("Quadro P4000", 8), ("", 8)],
)  # fmt: skip
def test_cards_are_known_by_their_names(name, like):
    assert card_tflops(name) == like


def log_run(workspace, name, seconds, device, **changes):
    run = RunFolder.create(workspace.runs / name, small_job(**changes))
    log = EventLog(run.events)
    log.append(Started(job="train", total=100, device=device))
    for step, pace in enumerate((9.0, *[seconds] * 5, 7.0), start=1):
        log.append(Step(step=step, epoch=1, loss=0.1, learning_rates={}, seconds_per_step=pace))
    return run


def test_an_earlier_run_tells_how_fast_it_goes(workspace):
    wanted = small_job(training__epochs=500)
    plan = plan_training(wanted, workspace)
    machine = Machine("", 16 * GIB, 12 * GIB, 2)
    assert estimate(wanted, plan, workspace, machine).basis_kind == "processor"
    log_run(workspace, "coat-001", 0.5, "cpu")
    told = estimate(wanted, plan, workspace, machine)
    assert told.basis == "As fast as coat-001." and told.basis_name == "coat-001"
    assert told.seconds == pytest.approx(0.5 * plan.total, rel=0.05)
    # twice the pictures a step take twice as long; a run of that very size is believed before a newer one
    double = small_job(training__epochs=500, training__batch_size=4)
    assert estimate(double, replace(plan, total=1000), workspace, machine).seconds == pytest.approx(2 * 0.5 * 1000, rel=0.05)
    checkpointed = small_job(training__epochs=500, training__gradient_checkpointing=True)
    assert 1.2 < estimate(checkpointed, plan, workspace, machine).seconds / told.seconds < 1.5
    time.sleep(0.02)
    log_run(workspace, "coat-002", 3.0, "cpu", training__batch_size=4)
    assert estimate(wanted, plan, workspace, machine).basis_name == "coat-001"
    assert estimate(double, plan, workspace, machine).basis_name == "coat-002"
    # another machine's pace says nothing about this one
    assert estimate(wanted, plan, workspace, CARD).basis_kind == "gpu"
    log_run(workspace, "coat-003", 0.01, CARD.gpu)
    assert estimate(wanted, plan, workspace, CARD).basis_name == "coat-003"
    assert estimate(wanted, plan, workspace, machine).basis_name == "coat-001"


def test_a_real_run_of_another_model_and_odd_folders_are_passed_over(workspace, tmp_path):
    other = make_workspace(tmp_path)
    (other.runs / "no-run").mkdir()
    broken = RunFolder.create(other.runs / "broken", small_job())
    broken.run_yaml.write_text("job: train\nmodel: {path: tiny")
    empty = RunFolder.create(other.runs / "empty", small_job())
    empty.events.write_bytes(b'\n{"kind": "step"}\n{"kind": "st')
    log_run(other, "kit", 1.0, "cpu", model__path=str(KIT / "sd"))
    machine = Machine("", 16 * GIB, 12 * GIB, 2)
    wanted = small_job()
    plan = plan_training(wanted, other)
    assert earlier_run(wanted, plan, other.models / "tiny", other, machine) is None
    trained(other, "real", training__max_steps=3)
    name, _, seconds = earlier_run(wanted, plan, other.models / "tiny", other, machine)
    assert name == "real" and 0 < seconds < 10


def test_estimating_again_is_fast_with_many_runs(workspace):
    for number in range(60):
        log_run(workspace, f"many-{number:03d}", 0.5, "cpu", training__batch_size=3)
    wanted = small_job()
    plan = plan_training(wanted, workspace)
    times = []
    for _ in range(8):
        began = time.process_time()
        estimate(wanted, plan, workspace)
        times.append(time.process_time() - began)
    assert sorted(times)[len(times) // 2] < 0.02


# ---------------------------------------------------------------- the machine


def test_the_card_is_asked_for_in_the_background(monkeypatch):
    class Meter:
        read = None

        def now(self):
            return self.read

    meter = Meter()
    monkeypatch.setattr(estimating, "_meter", meter)
    monkeypatch.setattr(estimating.hardware, "torch_cuda", lambda: "12.8")
    monkeypatch.setattr(estimating, "_first_cards", lambda: [])
    assert this_machine().gpu == "" and this_machine().memory_total > 0
    meter.read = Load(gpus=(GpuLoad("NVIDIA L4", used_bytes=4 * GIB, total_bytes=24 * GIB),))
    assert this_machine() == Machine("NVIDIA L4", 24 * GIB, 20 * GIB, this_machine().processors)
    meter.read = Load(gpus=(GpuLoad("NVIDIA Thor"),))
    assert this_machine().memory_total == 0
    monkeypatch.setattr(estimating.hardware, "torch_cuda", lambda: None)
    assert this_machine().gpu == ""
