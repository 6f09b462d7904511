import pytest

from nosnja_gui import dataset
from nosnja_gui.dataset import trigger
from nosnja_gui.settings import UserError

WORD = "nosnjaoutfit"

INSERTED = [
    ("a girl in a folk costume standing on a set of stairs", "folk costume", (), "a girl in a nosnjaoutfit standing on a set of stairs"),
    ("a girl in a red dress standing", "dress", ("red",), "a girl in a nosnjaoutfit standing"),
    ("a girl in a red dress standing", "dress", (), "a girl in a red nosnjaoutfit standing"),
    ("a woman in a red and light blue dress", ["costume", "dress"], trigger.COLOURS, "a woman in a nosnjaoutfit"),
    ("a girl in a colorful, striped dress", "dress", trigger.COLOURS + trigger.PATTERNS, "a girl in a nosnjaoutfit"),
    ("an embroidered dress on a rack", "dress", trigger.PATTERNS, "a nosnjaoutfit on a rack"),
    ("two girls in traditional costumes", "costume", (), "two girls in traditional nosnjaoutfit"),
    ("two ladies by a tree", "lady", (), "two nosnjaoutfit by a tree"),
    ("a Folk  Costume", ["costume", "folk costume"], (), "a nosnjaoutfit"),
    ("a dressing table, a dress-up and an address", "dress", (), "a dressing table, a dress-up and an address"),
    ("a girl in a red coat", "dress", ("red",), "a girl in a red coat"),
    ("a girl's dress with flowers", "dress", (), "a girl's nosnjaoutfit with flowers"),
    ("first line\na dress", "dress", (), "first line\na nosnjaoutfit"),
    ("a girl", None, (), "a girl"),
]


@pytest.mark.parametrize(("caption", "noun", "absorb", "expected"), INSERTED)
def test_the_trigger_comes_first_and_replaces_the_class_noun(caption, noun, absorb, expected):
    inserted = trigger.insert(caption, WORD, noun, absorb)
    assert inserted == f"{WORD}, {expected}"
    assert trigger.insert(inserted, WORD, noun, absorb) == inserted


def test_a_trigger_that_holds_the_noun_or_odd_signs_goes_in_once():
    once = trigger.insert("a girl in a dress", "nosnja dress", "dress")
    assert once == "nosnja dress, a girl in a nosnja dress" == trigger.insert(once, "nosnja dress", "dress")
    once = trigger.insert("a dress", r"x+*", "dress")
    assert once == "x+*, a x+*" == trigger.insert(once, "x+*", "dress")


def test_articles_follow_the_new_word():
    assert trigger.insert("A girl in a dress. An old dress", "obuka", "dress") == "obuka, A girl in an obuka. An old obuka"
    assert trigger.insert("an outfit", "unikat", "outfit") == "unikat, a unikat"


def test_a_caption_that_is_empty_or_begins_with_the_trigger():
    assert trigger.insert("", WORD) == WORD == trigger.insert(WORD, WORD)
    assert trigger.insert(f"{WORD.upper()}, {WORD}, a girl", WORD) == f"{WORD}, a girl"


def test_unusable_words_are_refused():
    for word in ("", "  ", "a, b", "<lora:x:1>", "x" * 61):
        with pytest.raises(UserError):
            trigger.insert("a girl", word)


def test_rename_and_remove():
    caption = f"{WORD}, a girl in a traditional {WORD} standing"
    assert trigger.rename(caption, WORD, "obuka") == "obuka, a girl in a traditional obuka standing"
    assert trigger.rename("a nosnja", "nosnja", "obuka") == "an obuka"
    assert trigger.remove(caption, WORD, "costume") == "a girl in a traditional costume standing"
    assert trigger.remove(f"{WORD}, a girl in a {WORD}", WORD, "evening dress") == "a girl in an evening dress"
    assert trigger.remove(caption, WORD, ["coat", "folk costume"]) == "a girl in a traditional coat standing"
    assert trigger.remove(caption, WORD) == "a girl standing"
    assert trigger.remove(f"{WORD}, a girl in a {WORD} by a tree", WORD) == "a girl by a tree"
    for plain in ("a girl in a costume by a tree", "a costume", "a girl"):
        assert trigger.remove(trigger.insert(plain, WORD, "costume"), WORD, "costume") == plain


def test_a_plan_writes_nothing_and_shows_only_what_changes(tmp_path):
    pictures = tuple(
        dataset.Picture(tmp_path / f"{n}.png", caption, 64, 64) for n, caption in enumerate(["a dress", WORD + ", a cat", None])
    )
    changes = trigger.plan(dataset.Dataset(tmp_path, pictures, (), "txt"), WORD, "dress")
    assert changes == [
        trigger.Change("0.png", "a dress", f"{WORD}, a {WORD}"),
        trigger.Change("2.png", "", WORD),
    ]
    assert list(tmp_path.iterdir()) == []
    assert trigger.captions_after(changes) == {"0.png": f"{WORD}, a {WORD}", "2.png": WORD}


COSTUME = [
    "a girl in a folk costume standing on a set of stairs",
    "a woman in a folk costume in a field",
    "a girl wearing a red folk costume",
    "two girls in traditional costumes posing for a picture",
    "a girl in a dress in front of a tree",
    "a folk costume in a room",
]


def test_the_class_noun_is_guessed():
    assert trigger.guess_class_noun(COSTUME) == "costume"
    assert trigger.candidate_nouns(COSTUME)[1] == ("dress", 1)
    assert trigger.guess_class_noun(COSTUME[:3]) == "folk costume"
    assert trigger.guess_class_noun(["a woman in a red dress in a room", "a man in a red dress on a street"] * 3) == "dress"
    assert trigger.guess_class_noun(["a dog in a field", "a dog sitting on a bed", "a dog in a room", "a brown dog in snow"]) == "dog"
    assert trigger.guess_class_noun(["a cat", "a car on a road", "the sky", "a tree in snow", "two boats"]) is None
    assert trigger.guess_class_noun([]) is None


def pieces(text: str) -> list[str]:
    """Words of up to six letters are one token, longer ones are spelt in threes."""
    words = text.lower().replace(",", " ,").split()
    return [word[i : i + 3] for word in words if len(word) > 6 for i in range(0, len(word), 3)] + [w for w in words if len(w) <= 6]


def kinds(remarks) -> list[str]:
    return [remark.kind for remark in remarks]


def test_a_good_word_used_well_gets_no_warning():
    remarks = trigger.lint(WORD, pieces, [f"{WORD}, a girl in a {WORD}"], [f"{WORD} on a beach", "a girl"], "dress")
    assert kinds(remarks) == ["tokens"] and "4 tokens" in remarks[0].message and not remarks[0].warning


def test_ordinary_words_are_recognised_by_the_tokenizer():
    assert "ordinary" in kinds(trigger.lint("dress", pieces, ["dress, a girl"]))
    assert "ordinary" in kinds(trigger.lint("red dress", pieces, ["red dress, a girl"]))


@pytest.mark.parametrize("wrong", ["nosnjaoutift", "nosnjaoutfits", "nosnajoutfit", "nosnja outfit", "nosnja-outfit", "Nosnjautfit"])
def test_misspellings_are_found_with_their_places(wrong):
    captions = {"a.png": f"{WORD}, a girl", "b.png": f"{WORD}, a girl in a {wrong} by a tree"}
    found = [remark for remark in trigger.lint(WORD, pieces, captions, [f"{WORD}, {wrong}"]) if remark.kind == "misspelt"]
    assert len(found) == 1 and f"'{wrong.lower()}'".replace("'", "") in found[0].message
    assert "b.png, prompt 1" in found[0].message and found[0].warning


def test_neighbouring_words_are_no_misspellings():
    captions = [f"{WORD}, a {WORD} in an outfit of {WORD}, {WORD}'s sleeve, a {WORD}"]
    assert "misspelt" not in kinds(trigger.lint(WORD, pieces, captions))
    assert "misspelt" not in kinds(trigger.lint("sks", pieces, ["sks, a dog, as is his"]))
    assert "misspelt" not in kinds(trigger.lint("nosnja outfit", pieces, ["nosnja outfit, a girl in a nosnja outfit by a tree"]))
    assert "misspelt" in kinds(trigger.lint("nosnja outfit", pieces, ["nosnja outfit, a girl in a nosnja outifts"]))


def test_a_word_that_stands_in_captions_otherwise_is_said():
    remarks = trigger.lint("oblak", lambda text: ["ob", "lak"], {"a.png": "oblak, a girl", "b.png": "a girl under an oblak"})
    assert [remark.message for remark in remarks if remark.kind == "ordinary"] == [
        "1 of 2 captions hold 'oblak', but not at their beginning: b.png."
    ]


def test_captions_that_lack_the_word_keep_the_noun_or_are_too_long():
    captions = {"a.png": f"{WORD}, a girl in dresses", "b.png": "a girl", "c.png": f"{WORD}, " + "a girl, " * 40}
    remarks = {remark.kind: remark.message for remark in trigger.lint(WORD, pieces, captions, ["a girl"], "dress")}
    assert remarks["missing"] == f"1 of 3 captions lack '{WORD}': b.png."
    assert remarks["class_noun"] == "1 of 3 captions still say 'dress': a.png."
    assert "c.png" in remarks["too_long"] and "prompts" in remarks


@pytest.mark.parametrize(("left", "right", "edits"), [("", "", 0), ("ab", "ba", 1), ("abc", "abc", 0), ("abc", "", 3), ("ca", "abc", 3)])
def test_distance_is_optimal_string_alignment(left, right, edits):
    assert trigger.distance(left, right) == trigger.distance(right, left) == edits


def test_the_clip_tokenizer_of_a_model(tmp_path):
    from nosnja_gui.engine.tokens import clip_tokenizer
    from tests.tiny import write_tokenizer

    write_tokenizer(tmp_path / "tokenizer")
    tokenize = clip_tokenizer(tmp_path)
    assert tokenize("a girl") == ["a</w>", "girl</w>"]
    assert "".join(tokenize(WORD)) == WORD + "</w>" and len(tokenize(WORD)) > 1
    assert "ordinary" in kinds(trigger.lint("girl", tokenize, ["girl"]))
    with pytest.raises(UserError, match="no CLIP tokenizer"):
        clip_tokenizer(tmp_path / "nothing")
    (tmp_path / "tokenizer" / "vocab.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        clip_tokenizer(tmp_path)
