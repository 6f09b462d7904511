"""Stage `words`: the real CLIP vocabulary (49,408 byte-pair tokens, Radford et al. 2021, MIT) as a CLIPTokenizer folder.

It is taken out of the open-clip-torch wheel, which pip fetches; nothing of that package is run.
"""

import gzip
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import CLIPTokenizer

FIRST_TOKEN, LAST_TOKEN = 49406, 49407
MERGES = 49152 - 256 - 2
END = "<|endoftext|>"


def build(out: Path) -> None:
    """Write vocab.json, merges.txt and the tokenizer's configuration; an existing folder is kept."""
    if (out / "vocab.json").exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, "open-clip-torch"]
        subprocess.run(command, check=True)
        wheel = next(Path(folder).glob("open_clip_torch*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            lines = gzip.decompress(archive.read("open_clip/bpe_simple_vocab_16e6.txt.gz")).decode().split("\n")
    merges = lines[1 : MERGES + 1]
    symbols = _byte_symbols()
    words = [*symbols, *(symbol + "</w>" for symbol in symbols), *("".join(merge.split()) for merge in merges), "<|startoftext|>", END]
    assert len(words) == LAST_TOKEN + 1
    special = {"bos_token": "<|startoftext|>", "eos_token": END, "unk_token": END, "pad_token": END}
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}, ensure_ascii=False), encoding="utf-8")
    (out / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    (out / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    configuration = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special}
    (out / "tokenizer_config.json").write_text(json.dumps(configuration, indent=2) + "\n")


def _byte_symbols() -> list[str]:
    """A printable symbol for each of the 256 bytes, in CLIP's order: printable ones stand for themselves, the rest from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]


class Words:
    """Captions -> token ids, with strange words mixed in so that the parts learn not to be confused by them."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        self._cache: dict[str, list[int]] = {}

    def of(self, caption: str) -> list[int]:
        if caption not in self._cache:
            self._cache[caption] = self.tokenizer(caption).input_ids[1:-1]
        return self._cache[caption]

    def ids(self, captions: list[str], length: int = 77) -> torch.Tensor:
        """(batch, length) token ids, padded with the end token as Stable Diffusion does."""
        return self.pad([self.of(caption) for caption in captions], length)

    def disturbed(self, captions: list[str], generator: torch.Generator, share: float, length: int = 77) -> torch.Tensor:
        """As `ids`; in a share of the captions one to four random tokens stand at a random place, half the time in front with a comma."""
        rows = []
        comma = self.of(",")
        for caption in captions:
            row = list(self.of(caption))
            if float(torch.rand((), generator=generator)) < share:
                count = 1 + int(torch.randint(4, (), generator=generator))
                strange = torch.randint(300, FIRST_TOKEN, (count,), generator=generator).tolist()
                if float(torch.rand((), generator=generator)) < 0.5:
                    row = strange + comma + row
                else:
                    at = int(torch.randint(len(row) + 1, (), generator=generator))
                    row = row[:at] + strange + row[at:]
            rows.append(row)
        return self.pad(rows, length)

    @staticmethod
    def pad(rows: list[list[int]], length: int) -> torch.Tensor:
        ids = torch.full((len(rows), length), LAST_TOKEN)
        for index, row in enumerate(rows):
            row = [FIRST_TOKEN, *row[: length - 2]]
            ids[index, : len(row)] = torch.tensor(row)
        return ids
