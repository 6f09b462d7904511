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


PLACED = [
    ("a girl in a red dress standing", "front", f"{WORD}, a girl in a dress standing"),
    ("a girl in an orange dress", "front", f"{WORD}, a girl in a dress"),
    ("a girl in a red coat", "front", f"{WORD}, a girl in a red coat"),
    ("a girl in a red dress standing", "noun", f"a girl in a {WORD} standing"),
    ("a girl in a coat", "noun", "a girl in a coat"),
    ("dress, a girl", "noun", f"{WORD}, a girl"),
    ("dress, a girl in a dress", "noun", f"a girl in a {WORD}"),
    ("", "noun", ""),
    ("", "front", WORD),
]


@pytest.mark.parametrize(("caption", "place", "expected"), PLACED)
def test_the_place_in_the_caption_can_be_chosen(caption, place, expected):
    inserted = trigger.insert(caption, WORD, "dress", ("red", "orange"), place)
    assert inserted == expected
    assert trigger.insert(inserted, WORD, "dress", ("red", "orange"), place) == inserted


def test_another_place_can_be_chosen_afterwards():
    both = trigger.insert("a girl in a red dress", WORD, "dress", ("red",))
    assert trigger.insert(both, WORD, "dress", ("red",), "noun") == f"a girl in a {WORD}"
    front = trigger.insert("a girl in a red dress", WORD, "dress", (), "front")
    assert trigger.insert(front, WORD, "dress", ("red",), "both") == both


def test_an_edit_does_what_it_says_and_has_a_name():
    insert = trigger.Edit("insert", WORD, nouns=("dress", "coat"), absorb=("red",))
    assert insert("a red dress") == f"{WORD}, a {WORD}" and insert.note == f"Trigger word {WORD} for dress, coat"
    rename = trigger.Edit("rename", "obuka", old=WORD)
    assert rename(f"{WORD}, a {WORD}") == "obuka, an obuka" and rename.note == f"Trigger word {WORD} renamed to obuka"
    remove = trigger.Edit("remove", WORD, nouns=("dress",))
    assert remove(f"{WORD}, a {WORD}") == "a dress" and remove.note == f"Trigger word {WORD} taken out"
    for wrong in (trigger.Edit("insert", "a, b"), trigger.Edit("rename", WORD, old="<x>")):
        with pytest.raises(UserError):
            wrong.check()


def test_a_difference_names_the_words_that_come_and_go():
    before, after = "a girl in a red dress standing", f"{WORD}, a girl in a {WORD} standing"
    parts = trigger.difference(before, after)
    assert parts == [
        ("in", f"{WORD},"),
        ("same", " a girl in a"),
        ("out", " red dress"),
        ("in", f" {WORD}"),
        ("same", " standing"),
    ]
    assert "".join(text for kind, text in parts if kind != "out") == after
    assert trigger.difference("", WORD) == [("in", WORD)] and trigger.difference(WORD, "") == [("out", WORD)]
    assert trigger.difference("a", "a") == [("same", "a")] and trigger.difference("", "") == []


def test_the_trigger_that_captions_have_is_found():
    assert trigger.leading_word([f"{WORD}, a girl", f"{WORD}, a boy", "a dog"]) == WORD
    assert trigger.leading_word(["a girl, a boy", "a dog, a cat"]) is None
    assert trigger.leading_word([f"{WORD}, a girl", "a boy", "a dog"]) is None and trigger.leading_word([]) is None


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


@pytest.mark.parametrize(
    ("word", "tokens", "noun", "warned"),
    [
        (WORD, ["no", "sn", "ja", "outfit</w>"], "outfit", True),
        (WORD, ["no", "sn", "ja", "outfit</w>"], "folk outfit", True),
        (WORD, ["no", "sn", "ja", "outfit</w>"], "outfits", True),
        (WORD, ["no", "sn", "ja", "outfit</w>"], "dress", False),
        ("outfitnosnja", ["outfit", "nosn", "ja</w>"], "outfit", True),
        ("nosnjaoutfit", ["nosnjaout", "fit</w>"], "outfit", False),
        ("outfit", ["outfit</w>"], "outfit", False),
    ],
)
def test_a_trigger_that_holds_the_class_noun_as_a_token_is_warned_of(word, tokens, noun, warned):
    remarks = trigger.lint(word, lambda text: tokens if text == word else [text], [f"{word}, a girl"], class_noun=noun)
    assert ("noun_inside" in kinds(remarks)) == warned
    if warned:
        remark = next(remark for remark in remarks if remark.kind == "noun_inside")
        assert remark.warning and "-".join(tokens).replace("</w>", "") in remark.message


def test_the_place_decides_what_captions_lack():
    named = {"a.png": f"a girl in a {WORD}", "b.png": f"{WORD}, a girl in a dress"}
    assert {"not_first", "class_noun"} <= set(kinds(trigger.lint(WORD, pieces, named, class_noun="dress")))
    assert "not_first" not in kinds(trigger.lint(WORD, pieces, named, class_noun="dress", place="noun"))
    assert "class_noun" not in kinds(trigger.lint(WORD, pieces, named, class_noun="dress", place="front"))


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
    assert [remark.message for remark in remarks if remark.kind == "not_first"] == [
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
    from nosnja_gui.tokens import clip_tokenizer
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
