"""The trigger word: putting it into captions, taking it out, renaming it, and finding what is wrong with it.

The way of the folk-costume LoRA: the trigger stands first, and it replaces the noun that the captioner used for the
thing, so that what is left of the caption describes only what may vary. Text in, text out; nothing is written.
"""

import difflib
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nosnja_gui.dataset.identifiers import explain
from nosnja_gui.dataset.reading import Dataset
from nosnja_gui.settings import UserError


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


COLOURS = _words(
    "red orange yellow green blue purple pink brown black white gray grey gold golden silver beige turquoise violet "
    "colorful colourful multicolored"
)
PATTERNS = _words("striped dotted checkered plaid floral embroidered patterned ornate decorated")
"""Adjectives that a trigger for clothes usually absorbs, for `absorb`."""

_SHADES = _words("light dark bright pale deep")

PLACES = _words(
    "front back background middle field room street beach snow park city forest garden grass house kitchen picture photo water "
    "sky night air day woods yard desert store shop building window bed chair car mountains"
)
"""What "in a" leads to without being clothes."""

_WORDS_AFTER_A_THING = _words(
    "a an the and or of in on at with without by near next behind under over while is are was were that which who to for from as into "
    "wearing standing sitting walking posing holding poses holds stands sits looks hanging looking"
)
_UNCHANGED_PLURALS = _words("clothes trousers jeans pants glasses shorts overalls pyjamas pajamas tights")

_ADJECTIVE_JOINT = r"(?:[ \t]*,[ \t]*(?:and[ \t]+)?|[ \t]+(?:and[ \t]+)?)"


@dataclass(frozen=True)
class Change:
    """What a picture's caption would become."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Remark:
    kind: Literal[
        "tokens", "ordinary", "rare", "meant", "ends_in_word", "noun_inside", "misspelt", "missing", "not_first", "class_noun",
        "too_long", "prompts",
    ]  # fmt: skip
    warning: bool
    """False where it is only good to know."""
    message: str
    values: dict[str, Any] = field(default_factory=dict)
    """What the message is made of, for those who say it in another language."""


Nouns = str | Sequence[str] | None
Place = Literal["both", "front", "noun"]
"""Where the trigger goes: in front and instead of the class noun, only in front, or only instead of the class noun."""


@dataclass(frozen=True)
class Edit:
    """What is to be done to captions: calling it with one gives the new one."""

    action: Literal["insert", "rename", "remove"]
    word: str
    old: str = ""
    """The trigger that is renamed."""
    nouns: tuple[str, ...] = ()
    absorb: tuple[str, ...] = ()
    place: Place = "both"

    def __call__(self, caption: str) -> str:
        match self.action:
            case "rename":
                return rename(caption, self.old, self.word)
            case "remove":
                return remove(caption, self.word, self.nouns)
        return insert(caption, self.word, self.nouns, self.absorb, self.place)

    def check(self) -> None:
        """Raises UserError for a word that can't work."""
        clean_word(self.word)
        if self.action == "rename":
            clean_word(self.old)

    @property
    def note(self) -> str:
        """What the version is called that an undo goes back from."""
        match self.action:
            case "rename":
                return f"Trigger word {self.old} renamed to {self.word}"
            case "remove":
                return f"Trigger word {self.word} taken out"
        return f"Trigger word {self.word}" + (f" for {', '.join(self.nouns)}" if self.nouns and self.place != "front" else "")


def clean_word(word: str) -> str:
    """The trigger without outer blanks. Raises UserError for one that can't work in a caption."""
    word = " ".join(word.split())
    if not word:
        raise UserError("The trigger word is empty: give a made-up word, such as 'nosnjaoutfit'.")
    if re.search(r"[,()\[\]<>:|\\]", word):
        raise UserError(f"The trigger word '{word}' may not hold commas, brackets, colons or backslashes: prompts use them otherwise.")
    if len(word) > 60:
        raise UserError(f"The trigger word has {len(word)} letters: give one of at most 60.")
    return word


def insert(caption: str, trigger: str, class_noun: Nouns = None, absorb: Sequence[str] = (), place: Place = "both") -> str:
    """The caption with the trigger first and in the place of the class noun (one, or several alternatives).

    insert("a girl in a folk costume standing", "nosnjaoutfit", "folk costume") is
    "nosnjaoutfit, a girl in a nosnjaoutfit standing". Words of `absorb` directly before the noun go with it.
    With `place` "front" the noun stays; with "noun" nothing stands in front, unless that is the caption's only trigger,
    and a caption without the noun stays as it is. Doing it again changes nothing.
    """
    trigger, nouns = clean_word(trigger), tuple(_nouns(class_noun))
    if place == "noun":
        replaced = _substitute(caption.strip(), _thing(trigger, nouns, tuple(absorb)), trigger)
        body = _without_leading(replaced, trigger)
        return body if body == replaced or _has(trigger, body) else _led_by(trigger, body)
    body = _without_leading(caption, trigger)
    if place == "both":
        body = _substitute(body, _thing(trigger, nouns, tuple(absorb)), trigger)
    elif nouns and absorb:
        body = _substitute(body, _described_thing(nouns, tuple(absorb)), None)
    return _led_by(trigger, body)


def _led_by(trigger: str, body: str) -> str:
    return f"{trigger}, {body}" if body and body.lower() != trigger.lower() else trigger


def rename(caption: str, old: str, new: str) -> str:
    """The caption with every `old` written as `new`, and "a" or "an" put right."""
    return _substitute(caption, _word_pattern(clean_word(old)), clean_word(new))


def remove(caption: str, trigger: str, class_noun: Nouns = None) -> str:
    """The caption without the leading trigger, and with the class noun (the first of several) where the trigger stood.

    Without a class noun the trigger goes with the words that led to it: "a girl in a traditional T standing" is
    "a girl standing".
    """
    trigger = clean_word(trigger)
    body = _without_leading(caption, trigger)
    nouns = _nouns(class_noun)
    if nouns:
        return _substitute(body, _word_pattern(trigger), nouns[0])
    leading = r"(?:,?[ \t]*\b(?:in|with|wearing|of)[ \t]+)?(?:\b(?:an?|the|her|his)[ \t]+)?"
    described = rf",?[ \t]*\b(?:in|wearing)[ \t]+(?:(?:an?|the|her|his)[ \t]+)?(?:[\w-]+[ \t]+){{1,2}}{_exactly(trigger)}"
    body = re.sub(f"{described}|{leading}{_exactly(trigger)}", "", body, flags=re.IGNORECASE)
    return re.sub(r"[ \t]{2,}", " ", body).strip(" \t,")


def plan(dataset: Dataset, trigger: str, class_noun: Nouns = None, absorb: Sequence[str] = (), place: Place = "both") -> list[Change]:
    """What inserting the trigger would change, for a preview. Pictures without a caption get the trigger alone, if it goes in front."""
    return plan_edit(dataset, lambda caption: insert(caption, trigger, class_noun, absorb, place))


def plan_edit(dataset: Dataset, edit: Callable[[str], str]) -> list[Change]:
    """What any edit of captions would change: `plan_edit(dataset, lambda caption: rename(caption, old, new))`."""
    changes = [Change(picture.name, picture.caption or "", edit(picture.caption or "")) for picture in dataset.pictures]
    return [change for change in changes if change.after != change.before]


def captions_after(changes: Iterable[Change]) -> dict[str, str]:
    """What `write_captions` takes."""
    return {change.name: change.after for change in changes}


def difference(before: str, after: str) -> list[tuple[Literal["same", "out", "in"], str]]:
    """The words that stay, go out and come in, in order: "same" and "out" together say `before` but for blanks, "same" and "in" `after`."""
    old, new = (re.findall(r"\s*[\w'-]+|\s*[^\w\s]|\s+$", text) for text in (before, after))
    parts: list[tuple[Literal["same", "out", "in"], str]] = []
    # A word at the very beginning has no blank before it, which makes it no other word.
    words = [[word.strip() for word in side] for side in (old, new)]
    for kind, a, b, c, d in difflib.SequenceMatcher(None, *words, autojunk=False).get_opcodes():
        if kind == "equal":
            parts.append(("same", "".join(new[c:d])))
            continue
        if a < b:
            parts.append(("out", "".join(old[a:b])))
        if c < d:
            parts.append(("in", "".join(new[c:d])))
    return parts


def leading_word(captions: Iterable[str]) -> str | None:
    """The trigger that captions have already: what stands alone before the first comma in half of them or more."""
    captions = [caption for caption in captions if caption.strip()]
    heads = Counter(head.strip() for head, comma, _ in (caption.partition(",") for caption in captions) if comma and len(head.split()) == 1)
    if not heads:
        return None
    word, count = heads.most_common(1)[0]
    return word if count >= max(2, 0.5 * len(captions)) else None


def guess_class_noun(captions: Iterable[str]) -> str | None:
    """The word the captioner used for the thing: the commonest clothes, else the commonest subject; None if nothing recurs."""
    candidates = candidate_nouns(captions)
    return candidates[0][0] if candidates else None


def candidate_nouns(captions: Iterable[str]) -> list[tuple[str, int]]:
    """Nouns that may be the class noun with the number of captions they are in, the likeliest first.

    A heuristic for captions as BLIP writes them. Clothes are the head of the phrase after "wearing" or "dressed in",
    or after the first "in", places aside; the subject is the head of the caption's first phrase. Clothes count
    if one of them is in 30 % of the captions, else subjects that are. A word that stands before the noun in four of
    five cases belongs to it ("folk costume"), colours and patterns don't.
    """
    captions = [caption.lower() for caption in captions if caption.strip()]
    for phrases_of in (_clothes_phrases, _subject_phrases):
        phrases = [phrase for caption in captions for phrase in phrases_of(caption)]
        heads = Counter(_singular(phrase[-1]) for phrase in phrases)
        least = max(1 if len(captions) < 4 else 2, 0.3 * len(captions))
        if heads and heads.most_common(1)[0][1] >= least:
            worthwhile = max(1, 0.05 * len(captions))
            return [(_with_modifier(head, phrases), count) for head, count in heads.most_common() if count >= worthwhile]
    return []


def lint(
    word: str,
    tokenizer: Callable[[str], list[str]],
    captions: Mapping[str, str] | Sequence[str],
    prompts: Sequence[str] = (),
    class_noun: Nouns = None,
    place: Place = "both",
) -> list[Remark]:
    """What is good to know about a trigger word and what is wrong with its use, warnings first.

    `tokenizer` gives the CLIP tokens of a text, without start and end; `captions` are by picture name or in order. `place` is
    where the trigger was meant to go.
    """
    word = clean_word(word)
    named = dict(captions) if isinstance(captions, Mapping) else {f"caption {n}": text for n, text in enumerate(captions, 1)}
    remarks = [
        *_lint_tokens(word, tokenizer),
        *_lint_noun_inside(word, tokenizer, _nouns(class_noun)),
        *_lint_spelling(word, tokenizer, named, prompts),
        *_lint_captions(word, tokenizer, named, _nouns(class_noun), place),
    ]
    if any(remark.kind == "noun_inside" for remark in remarks):  # which says the same of the very noun
        remarks = [remark for remark in remarks if remark.kind != "ends_in_word"]
    if prompts and not any(_has(word, prompt) for prompt in prompts):
        remarks.append(Remark("prompts", True, f"No prompt holds '{word}': nothing will show what was learnt.", {"word": word}))
    return sorted(remarks, key=lambda remark: not remark.warning)


def distance(left: str, right: str) -> int:
    """Edits between two words, a swap of neighbours counted once (Damerau 1964; optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        earlier, before, row = before, row, [i]
        for j, b in enumerate(right, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
    return row[-1]


def _lint_tokens(word: str, tokenizer: Callable[[str], list[str]]) -> list[Remark]:
    pieces = tokenizer(word)
    shown = " ".join(piece.replace("</w>", "") for piece in pieces)
    count = f"{len(pieces)} token{'' if len(pieces) == 1 else 's'}"
    values = {"word": word, "count": len(pieces), "pieces": pieces}
    remarks = [Remark("tokens", len(pieces) > 8, f"'{word}' is {count} of 75 in every caption: {shown}.", values)]
    advice = explain(word, tokenizer)
    if advice.kind == "known":
        remarks.append(Remark("ordinary", True, advice.message, {"word": word}))
    elif advice.kind != "pieces":  # which the number of tokens says already
        remarks.append(Remark(advice.kind, advice.kind == "meant", advice.message, advice.values))
    return remarks


def _lint_noun_inside(word: str, tokenizer: Callable[[str], list[str]], nouns: list[str]) -> list[Remark]:
    """A trigger that holds the class noun as a token of its own: the noun's token learns the thing, too."""
    tokens = [piece.lower() for piece in tokenizer(word)]
    pieces = [token.removesuffix("</w>") for token in tokens]
    remarks = []
    for noun in dict.fromkeys(noun.split()[-1].lower() for noun in nouns):
        forms = {noun, _singular(noun)}
        if forms.isdisjoint(pieces) or word.lower() in forms:
            continue
        where = "ends with" if pieces[-1] in forms else "holds"
        split = "-".join(pieces)
        message = (
            f"'{word}' {where} the class noun: the model reads {split}, so that '{noun}' alone brings what was learnt, too. "
            "Take a word without it to keep the two apart."
        )
        remarks.append(Remark("noun_inside", True, message, {"word": word, "noun": noun, "pieces": split}))
    return remarks


def _lint_spelling(word: str, tokenizer: Callable[[str], list[str]], named: Mapping[str, str], prompts: Sequence[str]) -> list[Remark]:
    texts = [(name, text) for name, text in named.items()] + [(f"prompt {n}", text) for n, text in enumerate(prompts, 1)]
    misspelt = _Misspellings(word)
    places: dict[str, list[str]] = {}
    for name, text in texts:
        for found in dict.fromkeys(misspelt.found_in(text)):
            places.setdefault(found, []).append(name)
    return [
        Remark(
            "misspelt",
            True,
            f"'{found}' looks like '{word}' misspelt, in {_listed(names)}.",
            {"found": found, "word": word, "names": names},
        )
        for found, names in places.items()
        if len(tokenizer(found)) > 1  # a word of the model's own vocabulary is no misspelling
    ]


class _Misspellings:
    """Runs of as many words as the trigger has that are 1 or 2 edits from it, or the trigger written apart or together."""

    def __init__(self, word: str) -> None:
        self.target, self.solid = word.lower(), re.sub(r"[\s_-]", "", word.lower())
        self.allowed = 0 if len(self.solid) < 4 else 1 if len(self.solid) < 8 else 2
        self.length = len(self.target.split())
        # Captions of a set repeat their words: every run of them is judged once.
        self._close = functools.cache(lambda run: distance(run, self.target) <= self.allowed)
        self._apart = functools.cache(lambda run: re.sub(r"[\s_-]", "", run) == self.solid)

    def found_in(self, text: str) -> Iterable[str]:
        words = [found.removesuffix("'s") for found in re.findall(r"[\w'-]+", text.lower())]
        shortest, longest = len(self.target) - max(2, self.allowed), len(self.target) + max(2, self.allowed)
        for size in {self.length, self.length + 1, max(1, self.length - 1)}:
            for start, first in enumerate(words[: len(words) - size + 1]):
                same_length = size == self.length
                # Nearly every run is ruled out here; what is written apart begins as the trigger does.
                if not same_length and first[:1] != self.target[:1]:
                    continue
                run = first if size == 1 else " ".join(words[start : start + size])
                if not shortest <= len(run) <= longest or run == self.target:
                    continue
                near = same_length and self.target not in words[start : start + size] and self._close(run)
                if near or self._apart(run):
                    yield run


def _lint_captions(
    word: str, tokenizer: Callable[[str], list[str]], named: Mapping[str, str], nouns: list[str], place: Place
) -> list[Remark]:
    remarks = []
    holds, leads = _word_pattern(word), re.compile(rf"\s*{_exactly(word)}", re.IGNORECASE)
    without = [name for name, caption in named.items() if not holds.search(caption)]
    if without:
        values = {"count": len(without), "total": len(named), "word": word, "names": without}
        remarks.append(Remark("missing", True, f"{len(without)} of {len(named)} captions lack '{word}': {_listed(without)}.", values))
    elsewhere = [name for name, caption in named.items() if holds.search(caption) and not leads.match(caption)] if place != "noun" else []
    if elsewhere:
        message = f"{len(elsewhere)} of {len(named)} captions hold '{word}', but not at their beginning: {_listed(elsewhere)}."
        values = {"count": len(elsewhere), "total": len(named), "word": word, "names": elsewhere}
        remarks.append(Remark("not_first", True, message, values))
    for noun in nouns if place != "front" else ():
        pattern = re.compile(_singular_or_plural(noun), re.IGNORECASE)
        still = [name for name, caption in named.items() if pattern.search(caption) and pattern.search(holds.sub("", caption))]
        if still:
            values = {"count": len(still), "total": len(named), "noun": noun, "names": still}
            message = f"{len(still)} of {len(named)} captions still say '{noun}': {_listed(still)}."
            remarks.append(Remark("class_noun", True, message, values))
    # Tokens never cross a blank, and words recur: each is counted once. A token is at least one letter, so a short caption need not be.
    count = functools.cache(lambda part: len(tokenizer(part)))
    long = [name for name, caption in named.items() if len(caption) > 75 and sum(map(count, caption.split())) > 75]
    if long:
        message = f"{len(long)} captions are longer than 75 tokens and lose their end: {_listed(long)}."
        remarks.append(Remark("too_long", True, message, {"count": len(long), "names": long}))
    return remarks


def _has(word: str, text: str) -> bool:
    return _word_pattern(word).search(text) is not None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _nouns(class_noun: Nouns) -> list[str]:
    """The alternatives given, without blanks and empty ones."""
    given = [class_noun] if isinstance(class_noun, str) else list(class_noun or ())
    return [noun for noun in (" ".join(noun.split()) for noun in given) if noun]


def _exactly(word: str) -> str:
    r"""Pattern of a word or phrase that stands alone; hyphens count as letters, any blanks between its words."""
    return r"(?<![\w-])" + r"[ \t]+".join(map(re.escape, word.split())) + r"(?![\w-])"


def _singular_or_plural(noun: str) -> str:
    escaped = r"[ \t]+".join(map(re.escape, noun.split()))
    if re.search(r"[^aeiou]y$", noun, re.IGNORECASE):
        return rf"(?<![\w-]){escaped[:-1]}(?:y|ies)(?![\w-])"
    return rf"(?<![\w-]){escaped}(?:e?s)?(?![\w-])"


def _adjectives(absorb: Sequence[str]) -> str:
    words = "|".join(re.escape(word.strip()) for word in sorted(absorb, key=len, reverse=True) if word.strip())
    if not words:
        return ""
    return rf"(?:(?<![\w-])(?:(?:{'|'.join(_SHADES)})[ \t-])?(?:{words})(?![\w-]){_ADJECTIVE_JOINT})*"


_PATTERNS_KEPT = 64
"""Patterns are the same for a whole set of captions, and long."""


@functools.lru_cache(_PATTERNS_KEPT)
def _thing(trigger: str, nouns: tuple[str, ...], absorb: tuple[str, ...]) -> re.Pattern[str]:
    """The trigger or a noun, with what it absorbs and with its article."""
    return _with_article(f"{_adjectives(absorb)}(?:{'|'.join([_exactly(trigger), *_longest_first(nouns)])})")


@functools.lru_cache(_PATTERNS_KEPT)
def _described_thing(nouns: tuple[str, ...], absorb: tuple[str, ...]) -> re.Pattern[str]:
    """What a noun absorbs, and its article; the noun itself is the group `noun`."""
    return _with_article(f"{_adjectives(absorb)}(?P<noun>{'|'.join(_longest_first(nouns))})")


@functools.lru_cache(_PATTERNS_KEPT)
def _word_pattern(word: str) -> re.Pattern[str]:
    return _with_article(_exactly(word))


def _longest_first(nouns: Sequence[str]) -> list[str]:
    """Patterns of the nouns: "folk costume" must be looked for before "costume"."""
    return [_singular_or_plural(noun) for noun in sorted(nouns, key=len, reverse=True)]


def _with_article(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:(?<![\w-])(?P<article>an?)(?P<gap>[ \t]+))?(?:{pattern})", re.IGNORECASE)


def _substitute(text: str, pattern: re.Pattern[str], word: str | None) -> str:
    """Every match becomes the word, or its group `noun` without one, and an indefinite article before it becomes the right one."""

    def with_article(found: re.Match[str]) -> str:
        new = found["noun"] if word is None else word
        article = found["article"]
        if not article or (word is None and found["noun"] == found[0][len(article + found["gap"]) :]):
            return found[0] if article else new
        right = _article(new)
        return (right.capitalize() if article[0] == "A" else right) + found["gap"] + new

    return pattern.sub(with_article, text)


def _article(word: str) -> str:
    sounds_like_you = re.match(r"(?:uni|use|usu|eu|one)", word.lower())
    return "an" if word[0].lower() in "aeiou" and not sounds_like_you else "a"


def _without_leading(caption: str, trigger: str) -> str:
    return _leading(trigger).sub("", caption.strip(), count=1)


@functools.lru_cache(_PATTERNS_KEPT)
def _leading(trigger: str) -> re.Pattern[str]:
    return re.compile(rf"^(?:\s*{_exactly(trigger)}\s*(?:,|$))+\s*", re.IGNORECASE)


def _clothes_phrases(caption: str) -> list[list[str]]:
    wearing = re.findall(r"\b(?:wearing|wears|dressed in)\s+(.*)", caption)
    inside = re.match(r"^(?:[^,]*,\s*)?(?:[\w'-]+\s+){1,4}?in\s+(.*)", caption)
    phrases = [_phrase(rest) for rest in wearing + ([inside[1]] if inside else [])]
    return [phrase for phrase in phrases if phrase and phrase[-1] not in PLACES][:1]


def _subject_phrases(caption: str) -> list[list[str]]:
    rest = re.sub(r"^(?:(?:a|an|the)\s+)?(?:photo|picture|image|drawing|painting|illustration|close up)\s+of\s+", "", caption)
    phrase = _phrase(rest)
    return [phrase] if phrase else []


def _phrase(text: str) -> list[str]:
    """Words of the noun phrase a text begins with, its article left out: "a red and gold dress with flowers" -> red gold dress."""
    words: list[str] = []
    for found in re.finditer(r"[\w'-]+|[^\w\s'-]", text):
        word = found[0]
        if not words and word in ("a", "an", "the", "her", "his", "their", "some", "two", "three"):
            continue
        if word == "and" and words and words[-1] in COLOURS + PATTERNS:
            continue
        if word in _WORDS_AFTER_A_THING or not word[0].isalpha() or len(words) == 5:
            break
        words.append(word)
    return words


def _singular(noun: str) -> str:
    noun = noun.removesuffix("'s")
    if noun in _UNCHANGED_PLURALS or len(noun) < 4 or noun.endswith(("ss", "us", "is")):
        return noun
    if noun.endswith("ies"):
        return noun[:-3] + "y"
    if noun.endswith(("sses", "xes", "ches", "shes")):
        return noun[:-2]
    return noun.removesuffix("s")


def _with_modifier(head: str, phrases: Sequence[Sequence[str]]) -> str:
    own = [phrase for phrase in phrases if _singular(phrase[-1]) == head]
    before = Counter(phrase[-2] for phrase in own if len(phrase) > 1)
    if not before:
        return head
    word, count = before.most_common(1)[0]
    return f"{word} {head}" if count >= 0.8 * len(own) and word not in COLOURS + PATTERNS else head
