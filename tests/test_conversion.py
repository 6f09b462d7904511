"""Pickled checkpoints become .safetensors with the same numbers, and nothing that is hidden in one ever runs."""

import collections
import io
import os
import pathlib
import pickle
import re
import shlex
import struct
import subprocess
import sys
import tarfile
import types
import zipfile

import numpy
import pytest
import torch
from original import write_single_file
from safetensors.torch import load_file
from tiny import tiny_model

from nosnja_gui.__main__ import main
from nosnja_gui.engine.conversion import NUMBER_FORMATS, convert, target_beside
from nosnja_gui.engine.models import load_model
from nosnja_gui.settings import UserError
from nosnja_gui.weights import metadata, shapes

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """(diffusers folder, weights of a small SD 1.x under their original names)."""
    where = tmp_path_factory.mktemp("model")
    folder = tiny_model(where / "sd1", "sd1")
    return folder, load_file(write_single_file(folder, where / "sd1.safetensors", "sd1"))


def saved(content, file, **options):
    torch.save(content, file, **options)
    return file


def same(expected, file):
    found = load_file(file)
    assert found.keys() == expected.keys()
    assert all(torch.equal(expected[name], found[name]) and expected[name].dtype == found[name].dtype for name in expected)
    return True


# What is converted


@pytest.mark.parametrize("is_archive", [True, False], ids=["archive", "before torch 1.6"])
def test_a_converted_checkpoint_is_the_same_model(checkpoint, tmp_path, is_archive):
    folder, weights = checkpoint
    file = saved({"state_dict": weights, "epoch": 3}, tmp_path / "sd.ckpt", _use_new_zipfile_serialization=is_archive)
    heard = []
    result = convert(file, tmp_path / "sd.safetensors", lambda done, total: heard.append((done, total)))
    assert same(weights, result.target)
    assert (result.family, result.kind, result.weights) == ("sd1", "a Stable Diffusion 1.x model", len(weights))
    assert result.left_out == ("epoch",) and result.size_bytes == result.target.stat().st_size
    in_all = sum(tensor.nbytes for tensor in weights.values())
    assert len(heard) == len(weights) and heard[-1] == (in_all, in_all)
    _, expected = load_model(folder, CPU, torch.float32)
    _, found = load_model(result.target, CPU, torch.float32)
    for one, other in zip(expected.denoiser.parameters(), found.denoiser.parameters(), strict=True):
        assert torch.equal(one, other)
    assert metadata(result.target) == {"format": "pt"}


LIBRARIES = ("pytorch_lightning", "omegaconf")


def made_up(name, base=object):
    """A class that pickles under a name of a library that isn't here."""
    module, _, last = name.rpartition(".")
    cls = type(last, (base,), {"__module__": module})
    for end in [place for place, letter in enumerate(module + ".") if letter == "."]:
        sys.modules.setdefault(module[:end], types.ModuleType(module[:end]))
    setattr(sys.modules[module], last, cls)
    return cls


def forget_made_up():
    for name in [name for name in sys.modules if name.startswith(LIBRARIES)]:
        del sys.modules[name]


@pytest.fixture
def lightning():
    callback = made_up("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
    attributes = made_up("pytorch_lightning.utilities.parsing.AttributeDict", dict)
    config = made_up("omegaconf.dictconfig.DictConfig")
    value = config()
    value.__dict__.update(_content={"a": 1}, _metadata=made_up("omegaconf.base.ContainerMetadata")())
    loss = numpy.float64(0.25)
    yield {
        "epoch": 12,
        "pytorch-lightning_version": "1.4.2",
        "callbacks": {callback: {"best_model_score": loss, "best_k_models": {"a": numpy.array([1.0, 2.0])}}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]}],
        "hyper_parameters": attributes(rate=1e-4, config=value, counts=collections.defaultdict(int, a=1), more={1, 2}),
    }
    forget_made_up()


@pytest.mark.parametrize("is_archive", [True, False], ids=["archive", "before torch 1.6"])
def test_what_lightning_leaves_in_a_checkpoint_is_left_out_unread(checkpoint, lightning, tmp_path, is_archive):
    _, weights = checkpoint
    averages = {"model_ema." + name.replace(".", ""): tensor for name, tensor in list(weights.items())[:7]}
    content = {"state_dict": collections.OrderedDict(weights | averages | {"model_ema.num_updates": torch.tensor(4)}), **lightning}
    file = saved(content, tmp_path / "lightning.ckpt", _use_new_zipfile_serialization=is_archive)
    named = pickle.dumps(lightning, protocol=2)
    assert b"ModelCheckpoint" in named and b"multiarray" in named and b"defaultdict" in named and b"DictConfig" in named
    forget_made_up()
    result = convert(file, tmp_path / "lightning.safetensors")
    assert same(weights, result.target) and result.family == "sd1"
    assert result.left_out == ("8 entries beginning with 'model_ema.'", *lightning)
    assert not [name for name in sys.modules if name.startswith(LIBRARIES)]


def test_shared_turned_and_odd_tensors_are_written_as_their_numbers(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    content = {
        "whole": whole,
        "same": whole,
        "turned": whole.T,
        "part": whole[1:3, ::2],
        "spread": torch.tensor([2.5]).expand(3, 2),
        "double": torch.tensor([1.0, 2.5], dtype=torch.float64),
        "one": torch.tensor(4.6),
        "none": torch.zeros(0),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        **{str(number): torch.tensor([[0, 1]]).to(number) for number in NUMBER_FORMATS},
        "complex": torch.ones(2, dtype=torch.complex64),
        "text": "words",
        5: torch.ones(1),
    }
    result = convert(saved(content, tmp_path / "odd.pt"), tmp_path / "odd.safetensors")
    expected = {name: tensor for name, tensor in content.items() if name not in ("complex", "text", 5)}
    expected = {name: tensor.detach().float() if tensor.dtype == torch.float64 else tensor.detach() for name, tensor in expected.items()}
    assert same(expected, result.target)
    assert result.left_out == ("3 entries that are no weights",) and result.family == ""
    assert shapes(result.target)["double"] == ("F32", (2,))


def vae_of(weights):
    start = "first_stage_model."
    return {name.removeprefix(start): tensor for name, tensor in weights.items() if name.startswith(start)}


def test_a_vae_loses_what_judged_it_and_works(checkpoint, tmp_path):
    folder, weights = checkpoint
    vae = vae_of(weights)
    judge = {"loss.logvar": torch.zeros(()), "loss.discriminator.main.0.weight": torch.zeros(2, 3, 4, 4)}
    result = convert(saved({"state_dict": vae | judge}, tmp_path / "better.vae.pt"), tmp_path / "better.vae.safetensors")
    assert same(vae, result.target) and result.kind == "a VAE alone"
    assert result.left_out == ("2 entries beginning with 'loss.'",)
    _, parts = load_model(folder, CPU, torch.float32, vae=result.target)
    expected = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in parts.vae.state_dict().items())


def test_embeddings_are_converted(tmp_path):
    vectors = torch.rand(3, 8)
    words = {"string_to_token": {"*": 265}, "name": "coat", "step": 100, "sd_checkpoint": None}
    old = torch.nn.ParameterDict({"*": torch.nn.Parameter(vectors)})
    for number, parameters in enumerate([{"*": vectors}, old]):
        result = convert(saved(words | {"string_to_param": parameters}, tmp_path / f"{number}.pt"), tmp_path / f"{number}.safetensors")
        assert same({"emb_params": vectors}, result.target) and result.kind == "a textual inversion"
    result = convert(saved({"<coat>": vectors[0]}, tmp_path / "learned_embeds.bin"), tmp_path / "embeds.safetensors")
    assert same({"<coat>": vectors[0]}, result.target)


def test_the_file_beside_is_called_as_its_reader_wants_it():
    assert target_beside(pathlib.Path("a/v1.5.ckpt")) == pathlib.Path("a/v1.5.safetensors")
    assert target_beside(pathlib.Path("a/pytorch_model.bin")) == pathlib.Path("a/model.safetensors")


# What is refused

CODE = "open({canary!r}, 'w').close()"


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def replaced(file, name, content):
    """The archive with other bytes in one of its records, or with one more."""
    with zipfile.ZipFile(file) as archive:
        records = [(record.filename, archive.read(record)) for record in archive.infolist()]
    root = records[0][0].partition("/")[0]
    whole = name.replace("ROOT", root)
    with zipfile.ZipFile(file, "w") as archive:
        for known, data in records:
            archive.writestr(known, content if known == whole else data)
        if whole not in dict(records):
            archive.writestr(whole, content)
    return file


def evils(canary):
    code = CODE.format(canary=str(canary))
    shell = Call(os.system, f"touch {canary}")
    array = numpy.empty(1, dtype=object)
    array[0] = shell
    builder = Call(types.SimpleNamespace)
    return {
        "os.system": (shell, "posix.system"),
        "eval": (Call(eval, code), "builtins.eval"),
        "exec": (Call(exec, code), "builtins.exec"),
        "getattr": (Call(getattr, Call(__import__, "os"), "system"), "builtins.getattr"),
        "import": (Call(__import__, "os"), "builtins.__import__"),
        "subprocess": (Call(subprocess.Popen, ["touch", str(canary)]), "subprocess.Popen"),
        "a real class": (Call(pathlib.Path, str(canary)), "pathlib"),
        "tensors of tensors": (Call(torch.storage._load_from_bytes, b"anything"), "torch.storage._load_from_bytes"),
        "torch.load": (Call(torch.load, str(canary)), "torch.serialization.load"),
        "hub": (Call(torch.hub.load, str(canary), "model"), "torch.hub.load"),
        "a numpy array of objects": (array, "posix.system"),
        "a file": (Call(io.open, str(canary), "w"), "io.open"),
        "a namespace": (builder, "types.SimpleNamespace"),
        "a partial": (Call(__import__("functools").partial, os.system, f"touch {canary}"), "functools.partial"),
    }


@pytest.mark.parametrize("is_archive", [True, False], ids=["archive", "before torch 1.6"])
@pytest.mark.parametrize(
    ("kind", "place"),
    [
        (kind, place)
        for kind, (evil, _) in evils("x").items()
        for place in ("value", "key", "beside", "hyperparameter")
        if place != "key" or not isinstance(evil, numpy.ndarray)  # an array is no key
    ],
)
def test_programs_in_a_checkpoint_are_refused_by_name_and_never_run(tmp_path, kind, place, is_archive):
    canary = tmp_path / "canary"
    evil, name = evils(canary)[kind]
    content = {
        "value": lambda: {"state_dict": {"weight": torch.ones(2), "more": evil}},
        "key": lambda: {"state_dict": {"weight": torch.ones(2), evil: 1}},
        "beside": lambda: {"state_dict": {"weight": torch.ones(2)}, "callbacks": [evil]},
        "hyperparameter": lambda: {"weight": torch.ones(2), "args": collections.OrderedDict(a=(1, [evil]))},
    }[place]()
    file = saved(content, tmp_path / "evil.ckpt", _use_new_zipfile_serialization=is_archive)
    said = refusal(file)
    assert name in said and "may be malicious" in said, said
    assert not canary.exists()


def refusal(file):
    target = file.parent / "refused.safetensors"
    before = dict.fromkeys(os.listdir(file.parent))
    with pytest.raises(UserError) as caught:
        convert(file, target)
    said = str(caught.value)
    assert "\n" not in said and said.endswith(".") and str(file) in said
    assert dict.fromkeys(os.listdir(file.parent)) == before
    return said


def test_the_same_programs_do_run_in_an_unsafe_reader(tmp_path):
    """The proof that the pickles above are what they are said to be."""
    for kind in ("os.system", "eval", "a numpy array of objects"):
        canary = tmp_path / kind.replace(" ", "")
        pickle.loads(pickle.dumps(evils(canary)[kind][0], protocol=2))  # noqa: S301 - just that is to be seen
        assert canary.exists()


def test_every_protocol_of_pickle_is_seen_through(tmp_path):
    canary = tmp_path / "canary"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        evil = [{"a": "posix"}, "system", Call(os.system, f"touch {canary}")]
        for is_archive in (True, False):
            file = tmp_path / "evil.ckpt"
            torch.save({"a": torch.ones(1), "evil": evil}, file, pickle_protocol=protocol, _use_new_zipfile_serialization=is_archive)
            assert "posix.system" in refusal(file)
        file.write_bytes(pickle.dumps(evil, protocol=protocol))  # no checkpoint at all
        assert "posix.system" in refusal(file)
    assert not canary.exists()


def test_tricks_with_the_pickle_itself(tmp_path):
    canary = tmp_path / "canary"
    good = saved({"weight": torch.ones(2)}, tmp_path / "good.ckpt").read_bytes()
    evil = pickle.dumps(Call(os.system, f"touch {canary}"), protocol=2)
    call = f"(S'touch {canary}'\n".encode()
    tricks = {
        "old instance": (call + b"iposix\nsystem\n.", "posix.system"),
        "old object": (b"(cposix\nsystem\n" + call[1:] + b"o.", "posix.system"),
        "an extension": (b"\x82\x01.", "copyreg extension 1"),
        "name in pieces": (b"\x8c\x05posix\x94\x8c\x06system\x940h\x00h\x01\x93" + call + b"tR.", "posix.system"),
        "cut off behind the call": (evil[:-1], "posix.system"),
        "nonsense behind the call": (evil[:-1] + b"\xff.", "posix.system"),
        "like a callback": (b"\x80\x02cpytorch_lightning.callbacks\nos.system\n" + call + b"tR.", "pytorch_lightning.callbacks.os.system"),
        "like numpy": (b"\x80\x02cnumpy.core.multiarray\nos.system\n" + call + b"tR.", "numpy.core.multiarray.os.system"),
    }
    for content, name in tricks.values():
        (tmp_path / "trick.ckpt").write_bytes(good)
        said = refusal(replaced(tmp_path / "trick.ckpt", "ROOT/data.pkl", content))
        assert name in said and "may be malicious" in said, said
    assert not canary.exists()


def test_a_stand_in_calls_nothing_however_it_is_used(tmp_path):
    """A name that is known, but called with anything: the call goes nowhere."""
    canary = tmp_path / "canary"
    (tmp_path / "trick.ckpt").write_bytes(saved({"weight": torch.ones(2)}, tmp_path / "good.ckpt").read_bytes())
    text = b"X" + struct.pack("<I", len(str(canary))) + str(canary).encode()
    for name in (b"numpy\ndtype", b"omegaconf.nodes\nAnyNode", b"collections\ndefaultdict", b"torch.nn.modules.container\nParameterDict"):
        called = b"\x80\x02c" + name + b"\n" + text + text + b"\x86R}(X\x04\x00\x00\x00_fooK\x01ub."
        assert "holds no weights" in refusal(replaced(tmp_path / "trick.ckpt", "ROOT/data.pkl", called))
    assert not canary.exists()


@pytest.mark.parametrize(
    "record",
    ["ROOT/sub/data.pkl", "ROOT/../../data.pkl", "../data.pkl", "other/data.pkl", "ROOT/data/../evil.pkl", "ROOT/.data/serialization_id",
     "ROOT/evil.py", "ROOT/data/evil", "/data.pkl"],
)  # fmt: skip
def test_pickles_in_other_places_of_the_archive_are_refused_by_name(tmp_path, record):
    canary = tmp_path / "canary"
    file = saved({"weight": torch.ones(2)}, tmp_path / "evil.ckpt")
    said = refusal(replaced(file, record, pickle.dumps(Call(os.system, f"touch {canary}"), protocol=2)))
    assert "may be malicious" in said and record.replace("ROOT", "evil") in said, said
    assert not canary.exists()


def test_two_pickles_of_one_name_are_refused(tmp_path):
    canary = tmp_path / "canary"
    file = saved({"weight": torch.ones(2)}, tmp_path / "twice.ckpt")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(file, "a") as archive:
        archive.writestr("twice/data.pkl", pickle.dumps(Call(os.system, f"touch {canary}"), protocol=2))
    assert "twice/data.pkl" in refusal(file)
    assert not canary.exists()


def test_torchs_own_reader_is_the_second_lock(tmp_path, monkeypatch):
    """Were the look at the pickle blind, nothing would run either, and the name would still be said."""
    canary = tmp_path / "canary"
    monkeypatch.setattr("nosnja_gui.engine.conversion._named", lambda file, is_archive: [])
    for evil, _ in evils(canary).values():
        file = saved({"weight": torch.ones(2), "evil": evil}, tmp_path / "evil.ckpt")
        said = refusal(file)
        assert "would run" in said or "cannot be read safely" in said, said
    assert not canary.exists()


def test_other_files_and_damaged_ones_are_told_apart(tmp_path):
    good = saved({"weight": torch.ones(4000)}, tmp_path / "good.ckpt").read_bytes()
    old = saved({"weight": torch.ones(4000)}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False).read_bytes()
    with tarfile.open(tmp_path / "old.tar", "w") as archive:
        archive.add(tmp_path / "good.ckpt", "storages")
    with zipfile.ZipFile(tmp_path / "inside.zip", "w") as archive:
        archive.writestr("model.ckpt", good)
    with zipfile.ZipFile(tmp_path / "packed.zip", "w", zipfile.ZIP_DEFLATED) as archive, zipfile.ZipFile(tmp_path / "good.ckpt") as source:
        for record in source.infolist():
            archive.writestr(record.filename, source.read(record))
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.zip")
    convert(tmp_path / "good.ckpt", tmp_path / "right.safetensors")
    files = {
        "web page": b"\n<!DOCTYPE html><html><body>Sign in</body></html>",
        "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4265380512\n",
        "tar archive": (tmp_path / "old.tar").read_bytes(),
        "cut off": good[: len(good) // 2],
        "damaged": old[: len(old) // 2],
        "no checkpoint of PyTorch": b"\0" * 5000,
        "no checkpoint": (tmp_path / "inside.zip").read_bytes(),
        "packed anew": (tmp_path / "packed.zip").read_bytes(),
        "TorchScript": (tmp_path / "script.zip").read_bytes(),
        "needs no conversion": (tmp_path / "right.safetensors").read_bytes(),
        "no checkpoint of PyTorch, or": b"",
        "holds no weights": saved([torch.ones(2)], tmp_path / "list.pt").read_bytes(),
        "holds no weights by name": saved({"model_ema.a": torch.ones(2)}, tmp_path / "ema.pt").read_bytes(),
        "damaged or": pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + b"\x80\x02M\xe9\x03." * 3,
    }
    for expected, content in files.items():
        (tmp_path / "file.ckpt").write_bytes(content)
        assert expected in refusal(tmp_path / "file.ckpt")
    assert "no file" in refusal(tmp_path / "nowhere.ckpt")
    (tmp_path / "folder.ckpt").mkdir()
    assert "folder" in refusal(tmp_path / "folder.ckpt")
    with pytest.raises(UserError, match="ends with"):
        convert(tmp_path / "good.ckpt", tmp_path / "good.bin")


def test_lies_about_sizes_are_noticed(tmp_path):
    """A storage that is said to be larger than it lies there, or than the file."""
    file = saved({"weight": torch.ones(1000)}, tmp_path / "lie.ckpt")
    with zipfile.ZipFile(file) as archive:
        pickled = archive.read("lie/data.pkl")
    assert pickled.count(b"M\xe8\x03") == 2  # 1000 numbers in the storage and in the shape
    assert "damaged" in refusal(replaced(file, "ROOT/data.pkl", pickled.replace(b"M\xe8\x03", b"J\0\0\0\x10")))


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    file = saved({"weight": torch.ones(100_000)}, tmp_path / "model.ckpt")
    monkeypatch.setattr("nosnja_gui.weights.free_bytes", lambda folder: 1000)
    with pytest.raises(UserError, match="too full"):
        convert(file, tmp_path / "model.safetensors")
    assert os.listdir(tmp_path) == ["model.ckpt"]


# On the command line


def test_the_command_converts_a_checkpoint_of_the_workspace(checkpoint, tmp_path, capsys):
    models = tmp_path / "models"
    models.mkdir()
    saved({"state_dict": checkpoint[1], "epoch": 1}, models / "sd15.ckpt")
    words = ["model", "convert", "sd15.ckpt", "--workspace", str(tmp_path)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert str(models / "sd15.safetensors") in shown and "a Stable Diffusion 1.x model" in shown and "epoch" in shown
    assert same(checkpoint[1], models / "sd15.safetensors")
    assert main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert main([*words, "--output", str(tmp_path / "elsewhere" / "other.safetensors")]) == 0
    assert same(checkpoint[1], tmp_path / "elsewhere" / "other.safetensors")
    assert len(list(models.iterdir())) == 2


def test_the_commands_of_the_page_on_models_work(checkpoint, tmp_path, monkeypatch, capsys):
    page = (pathlib.Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert len(commands) >= 2 and all(words[:4] == ["bash", "launch.sh", "model", "convert"] for words in commands)
    monkeypatch.setenv("NOSNJA_WORKSPACE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    vae = vae_of(checkpoint[1])
    saved(checkpoint[1], tmp_path / "models" / "sd15.ckpt")
    saved(vae, tmp_path / "models" / "better.vae.pt")
    for words in commands:
        assert main(words[2:]) == 0, capsys.readouterr().err
    assert same(checkpoint[1], tmp_path / "models" / "sd15.safetensors") and same(vae, tmp_path / "better-vae.safetensors")
