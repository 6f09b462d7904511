"""The tools for LoRA files, on numbers: what they write does what it should to a model, and says what was lost."""

import pytest
import torch
from original import write_single_file
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_lora_families import others, trained
from tiny import tiny_model

from nosnja_gui.__main__ import main
from nosnja_gui.adapters.writing import LAYOUTS, encode
from nosnja_gui.engine import lora_files, roundtrip
from nosnja_gui.engine.models import load_model
from nosnja_gui.methods.lora import ENTRY as LORA
from nosnja_gui.settings import UserError

torch.set_num_threads(1)
CPU = torch.device("cpu")
KINDS = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: tiny_model(tmp_path_factory.mktemp("models") / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def files(folders, tmp_path_factory):
    where = tmp_path_factory.mktemp("loras")
    for kind in KINDS:
        family, parts = trained(folders[kind])
        said = {"modelspec.trigger_phrase": "nosnjaoutfit", "ss_tag_frequency": '{"10_x": {"a": 3}}', "ss_output_name": kind}
        LORA.save(family, parts, where / f"{kind}.safetensors", said, precision="float32")
    family, parts = load_model(folders["sd1"], CPU, torch.float32)
    names = family.names(parts)
    (where / "kin.safetensors").write_bytes(encode(others(names), names, "kohya", "float32"))
    return where


def forward(folder, *loras):
    family, parts = load_model(folder, CPU, torch.float32)
    for number, (file, weight) in enumerate(loras):
        LORA.apply(family, parts, file, str(number))
        LORA.set_weights(family, parts, {**parts.adapters, str(number): weight})
    return roundtrip.forward(family, parts)


def far(one, other):
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_file_does_the_same_and_converts_back(folders, files, tmp_path, kind, layout):
    file, model = files / f"{kind}.safetensors", folders[kind]
    outcome = lora_files.convert(file, tmp_path / "out.safetensors", layout, model=model)
    assert "read back: 0.0e+00" in outcome.lines[-1] and ("diffusers:" in outcome.lines[-1]) == (layout != "comfyui")
    assert far(forward(model, (file, 0.8)), forward(model, (outcome.file, 0.8))) == 0
    back = lora_files.convert(outcome.file, tmp_path / "back.safetensors", "kohya", model=model, check=False)
    first, second = load_file(file), load_file(back.file)
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    with safe_open(outcome.file, "pt") as content:
        assert content.metadata()["modelspec.trigger_phrase"] == "nosnjaoutfit"


def test_a_merged_lora_does_what_both_do_together(folders, files, tmp_path):
    model, first = folders["sd1"], files / "sd1.safetensors"
    family, parts = trained(model, rank=2, alpha=4)
    with torch.no_grad():
        for layer in parts.denoiser.modules():
            if hasattr(layer, "lora_B") and "trained" in layer.lora_B:
                layer.lora_B["trained"].weight.mul_(-0.5)
    LORA.save(family, parts, tmp_path / "second.safetensors", {}, precision="float32")
    pair = [(first, 0.7), (tmp_path / "second.safetensors", -0.4)]
    together = forward(model, *pair)
    exact = lora_files.merge(pair, tmp_path / "exact.safetensors", model=model)
    assert far(together, forward(model, (exact.file, 1.0))) < 1e-4
    assert load_file(exact.file)["lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight"].shape[0] == 6
    small = lora_files.merge(pair, tmp_path / "small.safetensors", rank=6, model=model)
    assert far(together, forward(model, (small.file, 1.0))) < 1e-4
    with pytest.raises(UserError, match="doesn't fit"):
        lora_files.merge([(first, 1.0), (files / "sdxl.safetensors", 1.0)], tmp_path / "no.safetensors", model=model)


def test_resizing_says_what_was_lost_and_makes_a_plain_lora_of_any_kind(folders, files, tmp_path):
    model = folders["sd1"]
    whole = lora_files.resize(files / "sd1.safetensors", tmp_path / "same.safetensors", 4, model=model)
    assert "Kept: 100.00%" in whole.lines[1]
    assert far(forward(model, (whole.file, 1.0)), forward(model, (files / "sd1.safetensors", 1.0))) < 1e-4
    less = lora_files.resize(files / "sd1.safetensors", tmp_path / "less.safetensors", 1, model=model)
    assert "Kept: 100.00%" not in less.lines[1] and less.file.stat().st_size < whole.file.stat().st_size
    plain = lora_files.resize(files / "kin.safetensors", tmp_path / "plain.safetensors", 64, model=model, check=False)
    assert not any(mark in key for key in load_file(plain.file) for mark in ("hada", "lokr", "dora", ".diff") if not key.endswith("diff_b"))


@pytest.mark.parametrize(("kind", "single"), [("sd1", True), ("sd2", True), ("sdxl", True), ("sdxl", False)])
def test_a_model_with_a_lora_inside_and_the_lora_out_of_it_again(folders, files, tmp_path, kind, single):
    folder, lora = folders[kind], files / f"{kind}.safetensors"
    model = write_single_file(folder, tmp_path / "model.safetensors", kind) if single else folder
    output = tmp_path / ("merged.safetensors" if single else "merged")
    lora_files.merge_into(model, [(lora, 0.7)], output)
    assert far(forward(folder, (lora, 0.7)), forward(output)) < 2e-4
    assert far(forward(folder), forward(output)) > 1e-2
    taken = lora_files.extract(model, output, tmp_path / "taken.safetensors", 4)
    assert far(forward(folder, (lora, 0.7)), forward(folder, (taken.file, 1.0))) < 2e-3
    assert any("Kept: " in line for line in taken.lines)


def test_a_dora_and_its_kin_are_put_into_a_model(folders, files, tmp_path):
    output = tmp_path / "merged.safetensors"
    model = write_single_file(folders["sd1"], tmp_path / "model.safetensors", "sd1")
    lora_files.merge_into(model, [(files / "kin.safetensors", 1.0)], output)
    assert far(forward(folders["sd1"], (files / "kin.safetensors", 1.0)), forward(output)) < 1e-3


def test_words_inside_are_changed_and_taken_out_and_the_weights_stay(files, tmp_path):
    file = files / "sd1.safetensors"
    lora_files.rename_trigger(file, tmp_path / "renamed.safetensors", "nosnja")
    lora_files.strip(file, tmp_path / "bare.safetensors")
    before = load_file(file)
    for name in ("renamed", "bare"):
        after = load_file(tmp_path / f"{name}.safetensors")
        assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    with safe_open(tmp_path / "renamed.safetensors", "pt") as content:
        assert content.metadata()["modelspec.trigger_phrase"] == "nosnja"
    with safe_open(tmp_path / "bare.safetensors", "pt") as content:
        assert "ss_tag_frequency" not in content.metadata() and "modelspec.trigger_phrase" in content.metadata()


def test_the_command_line_does_all_of_it(folders, files, tmp_path, capsys):
    lora, model = str(files / "sd1.safetensors"), str(folders["sd1"])

    def run(*words):
        code = main(["lora", *words, "--workspace", str(tmp_path / "workspace")])
        return code, capsys.readouterr()

    code, said = run("inspect", lora, "--layers", "--metadata")
    assert code == 0 and "LoRA" in said.out and "nosnjaoutfit" in said.out and "rank 4" in said.out and "ss_output_name = sd1" in said.out
    out = str(tmp_path / "out.safetensors")
    code, said = run("convert", lora, "--to", "diffusers", "--output", out, "--model", model)
    assert code == 0 and "by diffusers" in said.out
    code, said = run("convert", lora, "--to", "diffusers", "--output", out, "--model", model)
    assert code == 2 and "--overwrite" in said.err
    code, said = run("merge", f"{lora}:0.5", f"{out}:0.5", "--output", str(tmp_path / "sum.safetensors"), "--model", model, "--no-check")
    assert code == 0 and "rank 8" in said.out
    code, said = run("merge", lora, "--into", model, "--output", str(tmp_path / "whole"))
    assert code == 0 and "modules changed" in said.out
    code, said = run("extract", model, str(tmp_path / "whole"), "--rank", "4", "--output", str(tmp_path / "x.safetensors"), "--no-check")
    assert code == 0 and "Kept" in said.out
    code, said = run("resize", lora, "--keep", "0.5", "--output", str(tmp_path / "s.safetensors"), "--model", model, "--no-check")
    assert code == 0 and "Kept" in said.out
    code, said = run("rename", lora, "--trigger", "other", "--output", str(tmp_path / "r.safetensors"))
    assert code == 0 and "other" in said.out
    code, said = run("strip", lora, "--output", str(tmp_path / "t.safetensors"))
    assert code == 0 and "ss_tag_frequency" in said.out


def test_a_file_that_doesnt_come_back_whole_is_taken_away_again(folders, files, tmp_path, monkeypatch):
    monkeypatch.setattr(lora_files.roundtrip, "check", lambda *given: (_ for _ in ()).throw(UserError("not whole.")))
    with pytest.raises(UserError, match="not whole"):
        lora_files.convert(files / "sd1.safetensors", tmp_path / "out.safetensors", "diffusers", model=folders["sd1"])
    assert not (tmp_path / "out.safetensors").exists()


def test_a_full_size_lora_is_opened_without_a_base_model(tmp_path):
    """The usual model's names are known; layers as wide as the real ones."""
    stem = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    tensors = {f"{stem}.lora_down.weight": torch.randn(2, 2048), f"{stem}.lora_up.weight": torch.randn(640, 2)}
    save_file(tensors, tmp_path / "xl.safetensors")
    opened = lora_files.open_lora(tmp_path / "xl.safetensors")
    assert opened.family.name == "sdxl" and list(opened.adapter.updates) == [
        ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k")
    ]
    outcome = lora_files.convert(tmp_path / "xl.safetensors", tmp_path / "out.safetensors", "comfyui", check=False)
    assert "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.lora_up.weight" in load_file(outcome.file)
