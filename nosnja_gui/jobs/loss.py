"""What the training counts as an error, and the noise that it is asked to find."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from nosnja_gui import timesteps
from nosnja_gui.dataset.masks import MaskSource
from nosnja_gui.settings import Settings, Shown, Slider

LossKind = Literal["mse", "l1", "huber", "smooth_l1"]
KIND_TITLES = {"mse": "Mean square (MSE)", "l1": "Absolute (L1)", "huber": "Huber", "smooth_l1": "Smooth L1"}
WEIGHTING_TITLES = {"none": "All alike", "min_snr": "Min-SNR", "debiased": "Debiased", "p2": "P2"}
HUBER_TITLES = {"constant": "Constant", "exponential": "Exponential", "snr": "By SNR"}
DISTRIBUTION_TITLES = {
    "auto": "As the model was trained",
    "uniform": "All alike",
    "logit_normal": "Logit-normal (middle)",
    "sigmoid": "Sigmoid (rising)",
    "beta": "Beta (middle)",
    "style": "Style (much noise)",
    "content": "Content (little noise)",
}
MASK_TITLES = {"off": "No mask", "auto": "Mask picture, else transparency", "file": "Mask pictures", "alpha": "Transparency"}
HUBER_KINDS = ("huber", "smooth_l1")


class LossSettings(Settings):
    weighting: Annotated[timesteps.Weighting, Field(title="Weighting of the timesteps"), Shown(titles=WEIGHTING_TITLES)] = "min_snr"
    """How much each noise level counts: Min-SNR learns faster and steadier, Debiased stresses much noise, P2 holds back little noise."""
    min_snr_gamma: Annotated[float, Field(gt=0, title="Min-SNR gamma"), Slider(1, 20, 0.5)] = 5.0
    """Where Min-SNR caps the weight (Hang et al. 2023): 5 is the paper's value, less stresses much noise."""
    p2_gamma: Annotated[float, Field(ge=0, le=10, title="P2 gamma"), Slider(0, 2, 0.1)] = 1.0
    """How much P2 (Choi et al. 2022) holds back the timesteps with little noise: 0.5 or 1; 0 does nothing."""
    p2_k: Annotated[float, Field(gt=0, le=100, title="P2 k"), Slider(0.1, 10, 0.1)] = 1.0
    """Keeps P2's weights from growing without end where there is only noise: 1 in the paper."""
    kind: Annotated[LossKind, Field(title="Loss"), Shown(titles=KIND_TITLES)] = "mse"
    """How an error counts: by its square, or where it is large (outliers, JPEG blocks) by its size alone, as Huber and Smooth L1 do."""
    huber_c: Annotated[float, Field(gt=0, le=10, title="Huber threshold"), Slider(0.01, 1, 0.01)] = 0.1
    """From this error on it counts by its size alone; 0.1 is usual."""
    huber_schedule: Annotated[timesteps.HuberSchedule, Shown(titles=HUBER_TITLES)] = "snr"
    """The threshold over the noise levels: by SNR and exponential it is 1 where there is no noise and falls to the one above."""

    noise_offset: Annotated[float, Field(ge=0, le=1), Slider(0, 0.2, 0.01)] = 0.0
    """Also shifts whole colour planes of the noise, so that very dark and very bright pictures are learnt: 0.03 to 0.1."""
    noise_offset_adaptive: Annotated[float, Field(ge=-10, le=10, title="Adaptive noise offset"), Slider(0, 0.1, 0.005)] = 0.0
    """Raises the noise offset for dark and bright pictures: times the mean of the picture's latents; 0.005 is usual."""
    pyramid_iterations: Annotated[int, Field(ge=0, le=64, title="Pyramid noise, levels"), Slider(0, 10, 1)] = 0
    """Adds coarser and coarser noise, which teaches large shapes and light: 6 to 10 levels, 0 for none."""
    pyramid_discount: Annotated[float, Field(ge=0, le=1, title="Pyramid noise, discount"), Slider(0.05, 0.9, 0.05)] = 0.3
    """How much fainter each coarser level is: 0.3 is usual, 0.8 is strong."""
    input_perturbation: Annotated[float, Field(ge=0, le=1), Slider(0, 0.2, 0.01)] = 0.0
    """Noise that is shown to the model but not asked of it (Ning et al. 2023), against overfitting: 0.1 in the paper."""
    random_strength: Annotated[bool, Field(title="Draw the strength, too")] = False
    """Noise offset and input perturbation get another strength for each picture, between 0 and the one above."""
    zero_terminal_snr: Annotated[bool, Field(title="Noise to the very end (zero terminal SNR)")] = False
    """Trains down to pure noise (Lin et al. 2023), for truly dark and bright pictures: for models that predict v only."""

    distribution: Annotated[timesteps.Distribution, Field(title="Timesteps drawn"), Shown(titles=DISTRIBUTION_TITLES)] = "auto"
    """Which noise levels are trained most: style stresses colour and layout, content stresses fine detail."""
    timestep_bias: Annotated[float, Field(ge=-6, le=6), Slider(-3, 3, 0.1)] = 0.0
    """Moves the distribution: above 0 towards much noise, below 0 towards little."""
    timestep_focus: Annotated[float, Field(ge=0.05, le=20), Slider(0.1, 5, 0.1)] = 1.0
    """How narrow the distribution is: 1 is usual, more is narrower."""
    min_timestep: Annotated[int, Field(ge=0, lt=timesteps.COUNT, title="First timestep"), Slider(0, 999, 1)] = 0
    """Noise levels below this one are not trained; 0 trains fine detail, too."""
    max_timestep: Annotated[int, Field(ge=1, le=timesteps.COUNT, title="Timesteps end"), Slider(1, 1000, 1)] = timesteps.COUNT
    """Noise levels from this one on are not trained; 1000 trains all."""
    stratified: Annotated[bool, Field(title="Spread over each batch")] = False
    """Each batch gets timesteps spread evenly over the distribution (Kingma et al. 2021): a steadier loss where batches are large."""

    masked: Annotated[MaskSource, Field(title="Masks"), Shown(titles=MASK_TITLES)] = "off"
    """What is learnt of each picture: what is white in its mask picture (NAME-mask.png) or not transparent in the picture itself."""
    unmasked_weight: Annotated[float, Field(ge=0, le=1, title="Weight outside the mask"), Slider(0, 1, 0.05)] = 0.1
    """How much the rest still counts: 0.1 keeps it from falling apart, 0 leaves it alone, 1 undoes the mask."""
    face_weight: Annotated[float, Field(ge=0, le=100, title="Weight of faces"), Slider(1, 5, 0.5)] = 1.0
    """How much the faces count that are marked beside a picture (NAME.faces.json): 2 to 3 sharpens them, 1 is off."""
    normalise_area: Annotated[bool, Field(title="Pictures count alike whatever their mask")] = False
    """Makes up for small masks: each picture counts as much as one without a mask."""

    @field_validator("max_timestep")
    @classmethod
    def _after_the_first(cls, end: int, info: ValidationInfo) -> int:
        first = info.data.get("min_timestep")
        if first is not None and end <= first:
            raise ValueError(f"must be above the first timestep, {first}")
        return end

    @property
    def weighs_places(self) -> bool:
        """Whether parts of a picture count differently."""
        return self.masked != "off" or self.face_weight != 1

    def shares(self, flow: bool = False, count: int = timesteps.COUNT) -> list[float] | None:
        """The probability of each of so many timesteps; None where all are drawn as the model was trained, which needs no table.

        First and end are of 1000 timesteps, whatever the model's number is.
        """
        usual = "logit_normal" if flow else "uniform"
        own = (self.distribution, self.timestep_bias, self.timestep_focus)
        distribution, bias, focus = (usual, 0.0, 1.0) if self.distribution == "auto" else own
        everything = self.min_timestep == 0 and self.max_timestep == timesteps.COUNT and not self.stratified
        if everything and distribution == usual and self.distribution in ("auto", "uniform"):
            return None
        first, end = (round(place * count / timesteps.COUNT) for place in (self.min_timestep, self.max_timestep))
        first = min(first, count - 1)
        return timesteps.shares(distribution, bias, focus, first, max(first + 1, end), count)

    def weights(self, snr: Sequence[float], prediction: timesteps.Prediction) -> list[float]:
        """The factor of each timestep's loss."""
        return timesteps.weights(self.weighting, snr, prediction, self.min_snr_gamma, self.p2_gamma, self.p2_k)

    def without_effect(self) -> list[str]:
        """Settings of this group that change nothing as the others stand."""
        shaped = self.distribution not in ("auto", "uniform")
        idle = {
            "min_snr_gamma": self.weighting != "min_snr",
            "p2_gamma": self.weighting != "p2",
            "p2_k": self.weighting != "p2",
            "huber_c": self.kind not in HUBER_KINDS,
            "huber_schedule": self.kind not in HUBER_KINDS,
            "noise_offset_adaptive": not self.noise_offset,
            "pyramid_discount": not self.pyramid_iterations,
            "random_strength": not (self.noise_offset or self.input_perturbation),
            "timestep_bias": not shaped or self.distribution in ("style", "content"),
            "timestep_focus": not shaped,
            "unmasked_weight": self.masked == "off",
            "normalise_area": not self.weighs_places,
        }
        return [name for name, off in idle.items() if off]
