"""Captions longer than 75 tokens, and captions and prompts with weighted words."""

import pytest
import torch
from PIL import ImageChops

from nosnja_gui.engine.models import load_model
from nosnja_gui.engine.sampler import ImageRequest, sample
from nosnja_gui.families.stable_diffusion import emphasised, weighted_chunks
from tests.small_training import make_workspace, trained
from tests.tiny import tiny_model

CPU = torch.device("cpu")
LONG = "a girl in a coat " * 25


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("long"))


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def loaded(request, tmp_path_factory):
    torch.set_num_threads(1)
    return load_model(tiny_model(tmp_path_factory.mktemp(request.param) / "model", request.param), CPU, torch.float32)


def test_weights_are_those_of_the_tokens_they_stand_at(loaded):
    _, parts = loaded
    tokenizer = parts.tokenizers[0]
    plain = weighted_chunks(tokenizer, ["a red dress"], 1, 77)
    tokens, counts = weighted_chunks(tokenizer, ["a (red:1.5) dress"], 1, 77, weighted=True)
    assert torch.equal(tokens, plain[0]) and plain[1] is None
    assert counts[0, 0, :6].tolist() == [1.0, 1.0, 1.5, 1.0, 1.0, 1.0] and counts.sum() == 77.5


def test_emphasis_is_what_a1111_does_with_it():
    """EmphasisOriginal: multiplied, and brought back to the mean that there was, worked out here token by token."""
    torch.manual_seed(0)
    hidden, counts = torch.randn(2, 1, 4, 3), torch.tensor([[[1.0, 2.0, 1.0, 0.5]], [[1.0, 1.0, 1.0, 1.0]]])
    found = emphasised(hidden, counts)
    for row in range(2):
        moved = torch.stack([hidden[row, 0, token] * counts[row, 0, token] for token in range(4)])
        assert torch.allclose(found[row, 0], moved * hidden[row].mean() / moved.mean(), rtol=1e-4)
    assert torch.equal(found[1], hidden[1])


def test_a_weighted_word_changes_a_prompt_and_weight_one_does_not(loaded):
    family, parts = loaded
    plain, one, more = (
        family.encode_prompts(parts, [prompt], weighted=True).hidden for prompt in ("a red dress", "a (red:1.0) dress", "a (red:1.4) dress")
    )
    assert torch.equal(plain, one) and not torch.allclose(plain, more)
    assert torch.equal(family.encode_prompts(parts, ["a red dress"]).hidden, plain)
    alone = family.encode_prompts(parts, ["a (red:1.4) dress", "a (dog:3)"], weighted=True).hidden[:1]
    torch.testing.assert_close(alone, more), "whatever stands beside it in the batch"


def test_the_sampler_reads_weights(loaded):
    family, parts = loaded
    size = {"steps": 2, "width": 64, "height": 64, "seed": 3}
    plain, same, other = sample(
        family, parts, [ImageRequest(prompt, **size) for prompt in ("a red dress", "a \\(red\\) dress", "a (red:1.8) dress")]
    )
    assert ImageChops.difference(plain, other).getbbox() and ImageChops.difference(same, other).getbbox()


@pytest.mark.parametrize("tokens, windows", [(75, 1), (150, 2), (225, 3)])
def test_all_captions_get_the_windows_that_were_asked_for(loaded, tokens, windows):
    family, parts = loaded
    text = family.encode_prompts(parts, [LONG, "a girl"], max_chunks=windows, min_chunks=windows).hidden
    assert text.shape[1] == 77 * windows
    short = family.encode_prompts(parts, ["a girl"]).hidden
    torch.testing.assert_close(text[1, :77], short[0])


@pytest.mark.parametrize(
    "changes", [{}, {"dataset__caption_dropout": 0.5}, {"dataset__shuffle_tags": True}, {"optimizer__text_encoder_learning_rate": 1e-3}]
)
def test_what_stands_behind_token_75_is_learned_with_longer_windows_only(workspace, changes):
    """The caption's end is changed: that changes the training where it is read."""
    caption = workspace.datasets / "coats" / "0.txt"
    before = caption.read_text()
    changes = {**changes, "training__max_steps": 2}
    try:
        files = {}
        for tokens in (75, 150):
            for end in ("red", "blue"):
                for number in range(6):
                    (workspace.datasets / "coats" / f"{number}.txt").write_text(f"nosnjaoutfit, {LONG[:370]} {end}")
                name = f"{tokens}-{end}-{len(changes)}-{next(iter(changes))}"
                files[tokens, end] = trained(workspace, name, dataset__caption_tokens=tokens, **changes)[0].read_bytes()[-4000:]
        assert files[75, "red"] == files[75, "blue"]
        assert files[150, "red"] != files[150, "blue"]
    finally:
        for number in range(6):
            (workspace.datasets / "coats" / f"{number}.txt").write_text(before)


def test_weighted_captions_are_read_so_only_when_asked(workspace):
    for number in range(6):
        (workspace.datasets / "coats" / f"{number}.txt").write_text(f"nosnjaoutfit, a girl in a (coat:1.5) {number}")
    on = trained(workspace, "weighted", dataset__weighted_captions=True, training__max_steps=2)[0].read_bytes()[-4000:]
    off = trained(workspace, "unweighted", training__max_steps=2)[0].read_bytes()[-4000:]
    for number in range(6):
        (workspace.datasets / "coats" / f"{number}.txt").write_text(f"nosnjaoutfit, a girl in a coat {number}")
    plain = trained(workspace, "plain", dataset__weighted_captions=True, training__max_steps=2)[0].read_bytes()[-4000:]
    assert len({on, off, plain}) == 3
