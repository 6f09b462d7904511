"""What a training does with less memory: the frozen model in a small number format, gradients that don't wait for each other."""

from typing import Annotated, Literal

from pydantic import Field

from nosnja_gui.settings import Settings, Shown

BasePrecision = Literal["as_model", "fp8", "int8", "nf4"]
BASE_PRECISION_TITLES = {"as_model": "As the model", "fp8": "fp8 (8 bits)", "int8": "int8 (8 bits)", "nf4": "nf4 (4 and 8 bits)"}


class MemorySettings(Settings):
    base_precision: Annotated[
        BasePrecision, Field(title="Number format of the frozen base model"), Shown(titles=BASE_PRECISION_TITLES)
    ] = "as_model"
    """Keeps the model below a LoRA smaller, each step takes longer: int8 and fp8 halve it, nf4 saves most and rounds most; int8 is usual."""
    fused_backward: Annotated[bool, Field(title="Fused backward pass")] = False
    """Updates each weight as soon as its gradient is there, so that gradients never exist all at once: saves 4 bytes a trained weight."""
