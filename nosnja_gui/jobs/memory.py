"""What a training does with less memory: the frozen model in a small number format, gradients that don't wait for each other."""

from typing import Annotated, Literal

from pydantic import Field

from nosnja_gui.settings import Settings, Shown

BasePrecision = Literal["as_model", "fp8", "int8", "nf4"]
BASE_PRECISION_TITLES = {"as_model": "As the model", "fp8": "fp8 (8 bits)", "int8": "int8 (8 bits)", "nf4": "nf4 (4 and 8 bits)"}


class MemorySettings(Settings):
    base_precision: Annotated[BasePrecision, Field(title="Format of the frozen model"), Shown(titles=BASE_PRECISION_TITLES)] = "as_model"
    """Number format of the model below a LoRA: int8 and fp8 halve its memory, nf4 saves more and rounds more; steps take longer."""
    fused_backward: Annotated[bool, Field(title="Fused backward pass")] = False
    """Updates each weight as soon as its gradient is there, so that gradients never exist all at once: saves 4 bytes a trained weight."""
