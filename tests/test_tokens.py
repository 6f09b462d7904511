"""Counting CLIP tokens without transformers gives exactly its tokens."""

import json
import subprocess
import sys

import pytest
from tiny import write_tokenizer

from nosnja_gui.settings import UserError
from nosnja_gui.tokens import VOCABULARY, WINDOW, clip_tokenizer, cut

NASTY = [
    "", " ", "a", "a girl in a dress", "Žene u nošnji, Đorđe i čamac", "шумадијска ношња Ђ", "한국어 한복 ㄱㄴ", "日本語のテキスト漢字",
    "ا ل عربية", "😀👩‍👩‍👧 emoji🇷🇸x", "1234 5th 2,000.5 ½ ² ٣", "it's I'm DON'T we'll they've he'd o'clock 'S 's''s",
    "a   b\t\tc\n\nd\r\ne  ",
    "UPPER CaSe İstanbul ẞ Ǆ", "x</w> </w>y </w>", "<|endoftext|> a <|startoftext|>b<|ENDOFTEXT|>", "e\u0301 vs é ﬁ Å \u0344",
    "nosnjaoutfit" * 40, " \u200b\u00a0\u3000x\ufeff", "(((red:1.2))), [a|b] <lora:x:0.8> \\(y\\)", "\x00\x01 a\x7f", "___ -- ... !!??",
    "naïve café—dash “quotes”…", "a_b a-b a.b a/b #tag @you", "ſ ŉ ǰ", "\ud7ff\ue000", "𝒜𝓑 𝟙", "🙂" * 100, "word " * 200,
]  # fmt: skip


def test_the_tokens_are_those_of_transformers():
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    theirs, ours = CLIPTokenizer.from_pretrained(VOCABULARY, local_files_only=True), clip_tokenizer()
    for text in NASTY:
        assert ours(text) == theirs.tokenize(text), text


def test_other_vocabularies_and_saved_tokenizers_give_the_tokens_of_transformers(tmp_path):
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    write_tokenizer(tmp_path / "tiny" / "tokenizer")
    theirs = CLIPTokenizer.from_pretrained(tmp_path / "tiny" / "tokenizer", local_files_only=True)
    theirs.save_pretrained(tmp_path / "saved")
    for file in (tmp_path / "saved").iterdir():
        if file.name != "tokenizer.json":
            file.unlink()
    values = json.loads((tmp_path / "saved" / "tokenizer.json").read_text())
    values["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "saved" / "tokenizer.json").write_text(json.dumps(values))
    for folder in (tmp_path / "tiny", tmp_path / "tiny" / "tokenizer", tmp_path / "saved"):
        ours = clip_tokenizer(folder)
        for text in NASTY:
            assert ours(text) == theirs.tokenize(text), text


def test_a_character_cut_in_two_is_no_reason_to_fail():
    assert clip_tokenizer()("a \ud83d b") and cut("\ud83d" * 100, 5) <= 100


@pytest.mark.parametrize("text", NASTY)
def test_what_is_before_the_cut_fits_and_one_word_more_does_not(text):
    tokenize = clip_tokenizer()
    for limit in (0, 1, 3, 10, WINDOW):
        place = cut(text, limit)
        assert 0 <= place <= len(text)
        if len(tokenize(text)) <= limit:
            assert place == len(text)
        elif limit == 0:
            assert place == 0
        else:
            assert text[place:].strip()


def test_a_long_caption_is_cut_between_words():
    text = "a girl in a red dress, " * 20
    place = cut(text)
    assert len(clip_tokenizer()(text[:place])) == WINDOW
    assert text[place:].lstrip() and text[:place].rstrip()[-1:].isalpha() | text[:place].endswith(",")
    # a character of several tokens is beyond as a whole
    assert cut("\u0416\u0416\u0416 한국", 4) <= 4
    assert cut("한국", 2) == 1 and cut("한국", 1) == 0


def test_a_changed_or_missing_vocabulary_is_noticed(tmp_path):
    write_tokenizer(tmp_path / "tokenizer")
    assert clip_tokenizer(tmp_path)("a girl") == ["a</w>", "girl</w>"]
    (tmp_path / "tokenizer" / "vocab.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        clip_tokenizer(tmp_path)
    with pytest.raises(UserError, match="no CLIP tokenizer"):
        cut("a", model=tmp_path / "nothing")


def test_it_loads_fast_and_without_transformers():
    code = (
        "import time, sys, tokenizers\n"
        "from nosnja_gui.tokens import clip_tokenizer\n"
        "began = time.process_time(); clip_tokenizer()('a girl'); took = time.process_time() - began\n"
        "assert 'transformers' not in sys.modules and 'torch' not in sys.modules\n"
        "print(took)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=VOCABULARY.parents[4])
    assert float(answer.stdout) < 0.5
