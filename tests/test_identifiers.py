"""Words of one rare token are told from words, and what becomes of others is said in a sentence each; all against CLIP's own vocabulary."""

import json
import re

import pytest

from nosnja_gui.dataset import trigger
from nosnja_gui.dataset.identifiers import ENDINGS, RARE, VETTED, explain, proposals
from nosnja_gui.tokens import VOCABULARY, clip_tokenizer, ranks

TOKENS = clip_tokenizer()


def test_the_ranks_are_those_of_the_vocabulary_and_follow_the_order_of_its_merges():
    assert ranks() == json.loads((VOCABULARY / "vocab.json").read_text(encoding="utf-8")) and len(ranks()) == 49408
    merges = (VOCABULARY / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    made = [ranks()[merge.replace(" ", "")] for merge in merges if merge.strip()]
    assert made == sorted(made) and made[0] == 512


@pytest.mark.parametrize("word", VETTED)
def test_what_is_proposed_is_one_rare_token_without_a_vowel_that_reads_as_nothing(word):
    assert TOKENS(word) == [f"{word}</w>"] and ranks()[f"{word}</w>"] >= RARE
    assert re.fullmatch(r"[b-df-hj-np-tv-xz]{3}", word) and len(set(word)) == 3
    advice = explain(word, TOKENS)
    assert (advice.kind, advice.good) == ("rare", True) and advice.message.startswith(f"'{word}' is one rare token")


def test_proposals_are_always_the_same_and_leave_out_what_captions_hold():
    assert proposals() == proposals() == list(VETTED[:6])
    assert len(set(VETTED)) == len(VETTED) >= 8
    assert proposals(["MWF, a girl in nrf-coloured clothes", "a sdnx"], count=3) == ["slv", "sdn", "sng"]


@pytest.mark.parametrize(
    ("word", "kind", "good", "said"),
    [
        ("nosnjaoutfit", "ends_in_word", False, "no + sn + ja + outfit: its last piece 'outfit' is an ordinary word, so 'an outfit'"),
        ("mycoat", "ends_in_word", False, "so 'a coat' without the trigger calls up what was learnt"),
        ("obblouse", "ends_in_word", False, "blouse"),
        ("oblacity", "pieces", True, "acity"),
        ("mwf coat", "ends_in_word", False, "read as mwf + coat"),
        ("nosnja", "pieces", True, "is read as no + sn + ja, and its last piece is no word of its own"),
        ("zxqvment", "pieces", True, "ment"),
        ("outfit", "known", False, "is a word the model knows already"),
        ("red dress", "known", False, "is made of words the model knows already"),
        ("sks", "meant", False, "stands for a rifle"),
        ("Mwf", "rare", True, "one rare token"),
        ("dog", "known", False, "knows already"),
    ],
)  # fmt: skip
def test_every_word_gets_a_sentence(word, kind, good, said):
    advice = explain(word, TOKENS)
    assert (advice.kind, advice.good) == (kind, good), advice
    assert said in advice.message and advice.message.startswith(f"'{word}'") and advice.message.endswith(".") and "\n" not in advice.message
    assert advice.values["word"] == word


def test_endings_are_pieces_that_close_words():
    assert all(f"{ending}</w>" in ranks() for ending in ENDINGS), "others would be of no use"


def test_the_remarks_on_a_trigger_word_hold_the_advice():
    def kinds(word, **more):
        return {remark.kind: remark.warning for remark in trigger.lint(word, TOKENS, [f"{word}, a girl"], **more)}

    assert kinds("mwf") == {"tokens": False, "rare": False}
    assert kinds("sks") == {"meant": True, "tokens": False}
    assert kinds("nosnja") == {"tokens": False}
    assert kinds("nosnjaoutfit") == {"ends_in_word": False, "tokens": False}
    # Of the class noun itself, one remark is enough.
    assert kinds("nosnjaoutfit", class_noun="outfit") == {"noun_inside": True, "tokens": False}
    assert kinds("girl")["ordinary"] is True
