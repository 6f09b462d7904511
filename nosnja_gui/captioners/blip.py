"""BLIP (Li et al. 2022): short sentences such as "a girl in a red dress standing on a set of stairs".

Reads a folder in the layout of Salesforce/blip-image-captioning-base (or -large).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nosnja_gui.settings import UserError

if TYPE_CHECKING:
    import torch
    from PIL import Image

BEAMS = 3
MAXIMUM_NEW_TOKENS = 40
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


class Blip:
    name = "blip"
    title = "BLIP"
    default_model = "Salesforce/blip-image-captioning-base"

    def recognises(self, model: Path) -> bool:
        """By config.json alone; BLIPs that answer questions or compare are other models."""
        return "BlipForConditionalGeneration" in _architectures(model)

    def load(self, model: Path, device: torch.device, dtype: torch.dtype) -> LoadedBlip:
        """Load from a local folder. Raises UserError for a missing, other or damaged model."""
        _check_files(model)
        from transformers.models.bert.tokenization_bert import BertTokenizer
        from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
        from transformers.models.blip.modeling_blip import BlipForConditionalGeneration
        from transformers.utils import logging

        logging.disable_progress_bar()  # it would be drawn across our own
        try:
            # Without torchvision only the Pil class of the image processors works in transformers 5.
            processor = BlipImageProcessorPil.from_pretrained(model, local_files_only=True)
            tokenizer = BertTokenizer.from_pretrained(model, local_files_only=True)
            network, info = BlipForConditionalGeneration.from_pretrained(
                model,
                local_files_only=True,
                dtype=dtype,
                use_safetensors=(model / WEIGHTS[0]).is_file() or (model / WEIGHTS[1]).is_file(),
                weights_only=True,
                output_loading_info=True,
            )
        except Exception as error:  # a damaged file raises whatever its reader raises
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise UserError(f"The BLIP model in {model} is damaged ({first}): copy or download it again.") from None
        missing = sorted(name for name in info["missing_keys"] if not name.endswith("position_ids"))
        odd = missing + [str(item[0] if isinstance(item, tuple) else item) for item in info["mismatched_keys"]]
        if odd:
            raise UserError(f"The BLIP model in {model} lacks {len(odd)} weights (the first is {odd[0]}): copy or download it again.")
        return LoadedBlip(network.eval().requires_grad_(False).to(device), processor, tokenizer)


@dataclass
class LoadedBlip:
    network: Any
    processor: Any
    tokenizer: Any

    def caption(self, pictures: list[Image.Image], prompt: str = "") -> list[str]:
        """A caption per RGB picture, by beam search: the same picture always gets the same one."""
        import torch

        if not pictures:
            return []
        pixels = self.processor(images=pictures, return_tensors="pt")["pixel_values"]  # (batch, 3, side, side)
        beginning = {}
        if prompt.strip():
            text = self.tokenizer([prompt.strip()] * len(pictures), return_tensors="pt")
            beginning = {key: text[key].to(self.network.device) for key in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            tokens = self.network.generate(
                pixel_values=pixels.to(self.network.device, self.network.dtype),
                num_beams=BEAMS,
                do_sample=False,
                max_new_tokens=MAXIMUM_NEW_TOKENS,
                **beginning,
            )
        # The first token is BLIP's own [DEC], which its tokenizer may not know as special.
        return [" ".join(text.split()) for text in self.tokenizer.batch_decode(tokens[:, 1:], skip_special_tokens=True)]


def _architectures(model: Path) -> list[str]:
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    architectures = config.get("architectures") if isinstance(config, dict) else None
    return architectures if isinstance(architectures, list) else []


def _check_files(model: Path) -> None:
    if not model.is_dir():
        raise UserError(f"There is no BLIP model {model}: give the folder of Salesforce/blip-image-captioning-base.")
    if not (model / "config.json").is_file():
        raise UserError(f"{model} is not a BLIP model (it has no config.json): give the folder of Salesforce/blip-image-captioning-base.")
    if not ENTRY.recognises(model):
        kind = ", ".join(map(str, _architectures(model))) or "something else"
        raise UserError(f"{model} is not a BLIP captioner but {kind}: give the folder of Salesforce/blip-image-captioning-base.")
    lacking = [
        names[0]
        for names in (("preprocessor_config.json", "processor_config.json"), ("tokenizer.json", "vocab.txt"), WEIGHTS)
        if not any((model / name).is_file() for name in names)
    ]
    if lacking:
        raise UserError(f"The BLIP model in {model} is incomplete, it lacks {', '.join(lacking)}: copy or download it again.")


ENTRY = Blip()
