"""Prior preservation: class pictures that keep the model's idea of everything else as it was."""

from typing import Annotated

from pydantic import Field

from nosnja_gui.settings import Settings, Shown, Slider


class PriorSettings(Settings):
    images: Annotated[int, Field(ge=0, le=10_000, title="Class pictures"), Slider(0, 400, 10)] = 0
    """Painted by the base model before the training and shown beside yours, so that the class stays as it was; 100 is usual, 0 for none."""
    class_prompts: Annotated[list[str], Field(title="Class prompts"), Shown(lines=2)] = []
    """What is painted, such as "a photo of a dog"; one a line, in turn. Empty: your captions, the class noun for the trigger."""
    class_noun: Annotated[str, Field(title="Class noun")] = ""
    """Stands for the trigger word in captions that become class prompts, such as "dress"; empty just leaves the trigger out."""
    folder: Annotated[str, Field(title="Own class pictures")] = ""
    """A dataset of captioned class pictures to take instead of painted ones, by path or by its name; usually empty."""
    weight: Annotated[float, Field(ge=0, le=10, title="Prior loss weight"), Slider(0, 2, 0.1)] = 1.0
    """How much class pictures count beside yours: 1 is the paper's, less lets the class drift a little."""
    steps: Annotated[int, Field(ge=1, le=1000, title="Denoising steps"), Slider(5, 50, 1)] = 25
    """Denoising steps per class picture."""
    cfg_scale: Annotated[float, Field(ge=1, le=50, title="CFG scale"), Slider(1, 15, 0.5)] = 7.0
    """How strictly class pictures follow their prompt."""

    @property
    def wanted(self) -> bool:
        return bool(self.images or self.own)

    @property
    def own(self) -> bool:
        """Whether they are the user's; then none are painted."""
        return bool(self.folder.strip())

    @property
    def painted(self) -> bool:
        return bool(self.images) and not self.own
