"""Other trainers' kinds of LoRA find their counterparts here."""

import json

import pytest

from nosnja_gui.foreign import networks, understand

HEAD = "train_batch_size = 2\nmax_train_epochs = 3\nunet_lr = 1e-4\n"


def scripts(text):
    return understand(("a.toml", HEAD + text))


def kohya(**values):
    return understand(("a.json", json.dumps({"LoRA_type": "Standard", "lr_warmup": 1, "num_cpu_threads_per_process": 2, **values})))


def trainer(**values):
    return understand(("a.json", json.dumps({"training_method": "LORA", "model_type": "STABLE_DIFFUSION_15", **values})))


def of(imported):
    return {name.removeprefix("lora."): value for name, value in imported.settings.items() if name.startswith("lora.")}


def line(imported, key):
    return next(line for line in imported.lines if line.key == key)


def test_sd_scripts_own_lora_and_its_convolutions():
    plain = scripts('network_module = "networks.lora"\nnetwork_dim = 8\nnetwork_alpha = 4\nscale_weight_norms = 1\n')
    assert of(plain) == {"algorithm": "lora", "targets": "attention_ff", "rank": 8, "alpha": 4, "max_norm": 1}
    assert line(plain, "network_module").verdict == "taken"
    with_convolutions = scripts(
        'network_module = "networks.lora"\nnetwork_dim = 8\nnetwork_args = ["conv_dim=4", "loraplus_lr_ratio=16"]\n'
    )
    assert of(with_convolutions).items() >= {"targets": "everything", "conv_rank": 4, "conv_alpha": 1.0, "plus_ratio": 16}.items()
    ranks = ",".join(["2"] * 13 + ["3", "3", "4", *["5"] * 9])
    by_block = scripts(f'network_module = "networks.lora"\nnetwork_dim = 8\nnetwork_args = ["block_dims={ranks}"]\n')
    assert of(by_block)["block_ranks"] == (
        "down.0: 2, down.1: 2, down.2: 2, down.3: 2, mid: 2, up.0.0: 3, up.0.1: 3, up.0.2: 4, up.1: 5, up.2: 5, up.3: 5"
    )
    assert line(by_block, "network_args").verdict == "approximated"
    with pytest.raises(ValueError, match="25 blocks"):
        networks.block_ranks("1,2,3")
    odd = scripts('network_module = "networks.lora"\nnetwork_dim = 8\nnetwork_args = ["rank_dropout=0.1"]\n')
    assert "rank_dropout" not in of(odd) and "rank_dropout" in line(odd, "network_args").reason


@pytest.mark.parametrize(
    ("arguments", "dim", "expected"),
    [
        ("algo=loha preset=attn-mlp rank_dropout=0.1 use_tucker=True", 8,
         {"algorithm": "loha", "targets": "attention_ff", "rank": 8, "rank_dropout": 0.1, "tucker": True}),
        ("algo=lokr factor=8 preset=attn-only", 100_000, {"algorithm": "lokr", "targets": "attention", "factor": 8, "full_matrix": True}),
        ("algo=locon dora_wd=True conv_dim=8 conv_alpha=4 rs_lora=True", 16,
         {"algorithm": "lora", "targets": "everything", "dora": True, "conv_rank": 8, "conv_alpha": 4, "rank_stabilised": True}),
        ("algo=diag-oft constraint=0.001", 16, {"algorithm": "oft", "targets": "everything", "constraint": 0.001, "block_size": 16}),
        ("algo=boft rescaled=True", 8, {"algorithm": "boft", "targets": "everything", "rescale": True, "block_size": 8}),
    ],
)  # fmt: skip
def test_lycoris_kinds(arguments, dim, expected):
    words = json.dumps(arguments.split())
    found = of(scripts(f'network_module = "lycoris.kohya"\nnetwork_dim = {dim}\nnetwork_args = {words}\n'))
    assert found.items() >= expected.items() and ("rank" in found) == (found["algorithm"] in ("lora", "loha"))


def test_a_kind_that_is_not_there_becomes_a_plain_lora_and_says_so():
    found = scripts('network_module = "lycoris.kohya"\nnetwork_dim = 8\nnetwork_args = ["algo=glora"]\n')
    assert of(found)["algorithm"] == "lora" and "no lycoris.kohya glora here" in line(found, "network_module").reason


def test_kinds_of_kohya_ss():
    loha = kohya(LoRA_type="LyCORIS/LoHa", LyCORIS_preset="attn-mlp", network_dim=8, conv_dim=4, rank_dropout=0.2, dora_wd=True)
    assert of(loha).items() >= {"algorithm": "loha", "targets": "attention_ff", "rank_dropout": 0.2}.items()
    assert "conv_rank" not in of(loha) and line(loha, "dora_wd").verdict == "no counterpart"
    lokr = kohya(LoRA_type="LyCORIS/LoKr", network_dim=8, factor=4, decompose_both=True, use_tucker=True)
    assert of(lokr).items() >= {"algorithm": "lokr", "factor": 4, "decompose_both": True, "tucker": True, "targets": "everything"}.items()
    locon = kohya(LoRA_type="Kohya LoCon", network_dim=8, conv_dim=4, conv_alpha=2)
    assert of(locon).items() >= {"algorithm": "lora", "targets": "everything", "conv_rank": 4, "conv_alpha": 2}.items()
    standard = kohya(network_dim=8, conv_dim=4, conv_alpha=2)
    assert of(standard)["targets"] == "attention_ff" and "conv_rank" not in of(standard)
    assert line(standard, "LoRA_type").verdict == "taken"


def test_kinds_of_onetrainer():
    dora = trainer(peft_type="LORA", lora_decompose=True, lora_decompose_output_axis=True, layer_filter_preset="attn-mlp", lora_rank=8)
    assert of(dora).items() >= {"algorithm": "lora", "dora": True, "targets": "attention_ff", "rank": 8}.items()
    assert (
        line(dora, "lora_decompose").verdict == "taken" and line(trainer(lora_decompose=True), "lora_decompose").verdict == "approximated"
    )
    lokr = trainer(peft_type="LOKR", lokr_decompose_factor=8, lokr_full_matrix=True, oft_block_size=4, dropout_probability=0.2)
    assert of(lokr).items() >= {"algorithm": "lokr", "factor": 8, "full_matrix": True}.items()
    assert not {"block_size", "dropout"} & set(of(lokr))
    oft = trainer(peft_type="OFT_2", oft_block_size=16)
    assert of(oft).items() >= {"algorithm": "oft", "block_size": 16}.items() and line(oft, "peft_type").verdict == "approximated"
    own = trainer(layer_filter_preset="custom", layer_filter="attn1, attn2.to_k")
    assert of(own)["pattern"] == r"attn1|attn2\.to_k"
