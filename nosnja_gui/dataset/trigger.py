"""The trigger word: putting it into captions, taking it out, renaming it, and finding what is wrong with it.

The way of the folk-costume LoRA: the trigger stands first, and it replaces the noun that the captioner used for the
thing, so that what is left of the caption describes only what may vary. Text in, text out; nothing is written.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

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
    kind: Literal["tokens", "ordinary", "misspelt", "missing", "class_noun", "too_long", "prompts"]
    warning: bool
    """False where it is only good to know."""
    message: str


Nouns = str | Sequence[str] | None


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


def insert(caption: str, trigger: str, class_noun: Nouns = None, absorb: Sequence[str] = ()) -> str:
    """The caption with the trigger first and in the place of the class noun (one, or several alternatives).

    insert("a girl in a folk costume standing", "nosnjaoutfit", "folk costume") is
    "nosnjaoutfit, a girl in a nosnjaoutfit standing". Words of `absorb` directly before the noun go with it.
    Doing it again changes nothing.
    """
    trigger = clean_word(trigger)
    body = _without_leading(caption, trigger)
    # Longest first: "folk costume" must be looked for before "costume".
    nouns = sorted(_nouns(class_noun), key=len, reverse=True)
    things = "|".join([_exactly(trigger), *map(_singular_or_plural, nouns)])
    body = _substitute(body, f"{_adjectives(absorb)}(?:{things})", trigger)
    return f"{trigger}, {body}" if body and body.lower() != trigger.lower() else trigger


def rename(caption: str, old: str, new: str) -> str:
    """The caption with every `old` written as `new`, and "a" or "an" put right."""
    return _substitute(caption, _exactly(clean_word(old)), clean_word(new))


def remove(caption: str, trigger: str, class_noun: Nouns = None) -> str:
    """The caption without the leading trigger, and with the class noun (the first of several) where the trigger stood.

    Without a class noun the trigger goes with the words that led to it: "a girl in a traditional T standing" is
    "a girl standing".
    """
    trigger = clean_word(trigger)
    body = _without_leading(caption, trigger)
    nouns = _nouns(class_noun)
    if nouns:
        return _substitute(body, _exactly(trigger), nouns[0])
    leading = r"(?:,?[ \t]*\b(?:in|with|wearing|of)[ \t]+)?(?:\b(?:an?|the|her|his)[ \t]+)?"
    described = rf",?[ \t]*\b(?:in|wearing)[ \t]+(?:(?:an?|the|her|his)[ \t]+)?(?:[\w-]+[ \t]+){{1,2}}{_exactly(trigger)}"
    body = re.sub(f"{described}|{leading}{_exactly(trigger)}", "", body, flags=re.IGNORECASE)
    return re.sub(r"[ \t]{2,}", " ", body).strip(" \t,")


def plan(dataset: Dataset, trigger: str, class_noun: Nouns = None, absorb: Sequence[str] = ()) -> list[Change]:
    """What inserting the trigger would change, for a preview. Pictures without a caption get the trigger alone."""
    return plan_edit(dataset, lambda caption: insert(caption, trigger, class_noun, absorb))


def plan_edit(dataset: Dataset, edit: Callable[[str], str]) -> list[Change]:
    """What any edit of captions would change: `plan_edit(dataset, lambda caption: rename(caption, old, new))`."""
    changes = [Change(picture.name, picture.caption or "", edit(picture.caption or "")) for picture in dataset.pictures]
    return [change for change in changes if change.after != change.before]


def captions_after(changes: Iterable[Change]) -> dict[str, str]:
    """What `write_captions` takes."""
    return {change.name: change.after for change in changes}


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
) -> list[Remark]:
    """What is good to know about a trigger word and what is wrong with its use, warnings first.

    `tokenizer` gives the CLIP tokens of a text, without start and end; `captions` are by picture name or in order.
    """
    word = clean_word(word)
    named = dict(captions) if isinstance(captions, Mapping) else {f"caption {n}": text for n, text in enumerate(captions, 1)}
    remarks = [
        *_lint_tokens(word, tokenizer),
        *_lint_spelling(word, tokenizer, named, prompts),
        *_lint_captions(word, tokenizer, named, _nouns(class_noun)),
    ]
    if prompts and not any(_has(word, prompt) for prompt in prompts):
        remarks.append(Remark("prompts", True, f"No prompt holds '{word}': nothing will show what was learnt."))
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
    remarks = [Remark("tokens", len(pieces) > 8, f"'{word}' is {count} of 75 in every caption: {shown}.")]
    if all(len(tokenizer(part)) == 1 for part in word.split()):
        known = "is a word" if len(word.split()) == 1 else "is made of words"
        message = f"'{word}' {known} the model knows already and has its own idea of: a made-up word is learnt more cleanly."
        remarks.append(Remark("ordinary", True, message))
    return remarks


def _lint_spelling(word: str, tokenizer: Callable[[str], list[str]], named: Mapping[str, str], prompts: Sequence[str]) -> list[Remark]:
    texts = [(name, text) for name, text in named.items()] + [(f"prompt {n}", text) for n, text in enumerate(prompts, 1)]
    places: dict[str, list[str]] = {}
    for name, text in texts:
        for found in dict.fromkeys(_misspellings(word, text)):
            places.setdefault(found, []).append(name)
    return [
        Remark("misspelt", True, f"'{found}' looks like '{word}' misspelt, in {_listed(names)}.")
        for found, names in places.items()
        if len(tokenizer(found)) > 1  # a word of the model's own vocabulary is no misspelling
    ]


def _misspellings(word: str, text: str) -> Iterable[str]:
    """Runs of as many words as the trigger has that are 1 or 2 edits from it, or the trigger written apart or together."""
    target, solid = word.lower(), re.sub(r"[\s_-]", "", word.lower())
    allowed = 0 if len(solid) < 4 else 1 if len(solid) < 8 else 2
    words = re.findall(r"[\w'-]+", text.lower())
    length = len(target.split())
    for size in {length, length + 1, max(1, length - 1)}:
        for start in range(len(words) - size + 1):
            found = " ".join(words[start : start + size]).removesuffix("'s")
            if found == target or abs(len(found) - len(target)) > max(2, allowed):
                continue
            apart = re.sub(r"[\s_-]", "", found) == solid
            if apart or (size == length and target not in words[start : start + size] and distance(found, target) <= allowed):
                yield found


def _lint_captions(word: str, tokenizer: Callable[[str], list[str]], named: Mapping[str, str], nouns: list[str]) -> list[Remark]:
    remarks = []
    without = [name for name, caption in named.items() if not _has(word, caption)]
    if without:
        remarks.append(Remark("missing", True, f"{len(without)} of {len(named)} captions lack '{word}': {_listed(without)}."))
    elsewhere = [name for name, caption in named.items() if _has(word, caption) and not re.match(rf"\s*{_exactly(word)}", caption, re.I)]
    if elsewhere:
        message = f"{len(elsewhere)} of {len(named)} captions hold '{word}', but not at their beginning: {_listed(elsewhere)}."
        remarks.append(Remark("ordinary", True, message))
    for noun in nouns:
        pattern = re.compile(_singular_or_plural(noun), re.IGNORECASE)
        still = [name for name, caption in named.items() if pattern.search(re.sub(_exactly(word), "", caption, flags=re.IGNORECASE))]
        if still:
            remarks.append(Remark("class_noun", True, f"{len(still)} of {len(named)} captions still say '{noun}': {_listed(still)}."))
    # A token is at least one letter, so a short caption need not be counted.
    long = [name for name, caption in named.items() if len(caption) > 75 and len(tokenizer(caption)) > 75]
    if long:
        remarks.append(Remark("too_long", True, f"{len(long)} captions are longer than 75 tokens and lose their end: {_listed(long)}."))
    return remarks


def _has(word: str, text: str) -> bool:
    return re.search(_exactly(word), text, re.IGNORECASE) is not None


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


def _substitute(text: str, pattern: str, word: str) -> str:
    """Every match of the pattern becomes the word, and an indefinite article before it becomes the right one."""

    def with_article(found: re.Match[str]) -> str:
        article = found["article"]
        if not article:
            return word
        right = _article(word)
        return (right.capitalize() if article[0] == "A" else right) + found["gap"] + word

    return re.sub(rf"(?:(?<![\w-])(?P<article>an?)(?P<gap>[ \t]+))?(?:{pattern})", with_article, text, flags=re.IGNORECASE)


def _article(word: str) -> str:
    sounds_like_you = re.match(r"(?:uni|use|usu|eu|one)", word.lower())
    return "an" if word[0].lower() in "aeiou" and not sounds_like_you else "a"


def _without_leading(caption: str, trigger: str) -> str:
    return re.sub(rf"^(?:\s*{_exactly(trigger)}\s*(?:,|$))+\s*", "", caption.strip(), flags=re.IGNORECASE)


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
