"""The CLIP tokenizer of a model as a plain function, for counting tokens and checking trigger words."""

from collections.abc import Callable
from pathlib import Path

from nosnja_gui.settings import UserError


def clip_tokenizer(model: Path) -> Callable[[str], list[str]]:
    """text -> its CLIP tokens, without start and end; a token that ends a word ends with "</w>".

    `model` is a diffusers model folder, or a tokenizer folder itself. Raises UserError where there is none.
    """
    folder = model / "tokenizer" if (model / "tokenizer").is_dir() else model
    if not ((folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()) and not (folder / "tokenizer.json").is_file():
        raise UserError(f"There is no CLIP tokenizer in {model}: give the folder of a Stable Diffusion model.")
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a damaged file raises whatever its reader raises
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"The CLIP tokenizer in {folder} is damaged ({first}): copy or download it again.") from None
    return tokenizer.tokenize
