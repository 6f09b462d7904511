"""How often each timestep is drawn and how much it counts, as plain numbers, for the training and for its picture in the window. No torch.

Timestep 0 is the clean end and the last one pure noise. A share is a probability; SNR is alpha_bar / (1 - alpha_bar).
"""

import functools
import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from statistics import NormalDist
from typing import Literal

Distribution = Literal["auto", "uniform", "logit_normal", "sigmoid", "beta", "style", "content"]
Weighting = Literal["none", "min_snr", "debiased", "p2"]
HuberSchedule = Literal["constant", "exponential", "snr"]
Prediction = Literal["epsilon", "v_prediction", "flow"]

COUNT = 1000
"""Timesteps of Stable Diffusion's schedule."""
LEAST_SNR, MOST_SNR = 1e-3, 1e3
"""Debiased weights are finite between these. The upper one is sd-scripts' (library/custom_train_functions.py); a schedule that is not
rescaled ends at 0.0047."""
SIGMOID_STEEPNESS = 10.0
"""Of the distribution "sigmoid" at focus 1: it rises from 1 % to 99 % of its height."""


# How often each timestep is drawn


def shares(
    distribution: Distribution, bias: float = 0.0, focus: float = 1.0, first: int = 0, end: int = COUNT, count: int = COUNT
) -> list[float]:
    """The probability of each of `count` timesteps, in all 1; the distribution is stretched over first <= timestep < end.

    `bias` above 0 draws more of the noisy timesteps, below 0 more of the clean ones, in logits of the place x between 0 and 1;
    `focus` (above 0) says how narrow the distribution is. By its place x in the range a timestep is drawn

    - "logit_normal": as sigmoid(N(bias, 1 / focus)) (Esser et al. 2024, Eq. 19; theirs for SD3 is bias 0, focus 1);
    - "sigmoid": proportionally to sigmoid(10 focus (x - sigmoid(bias))), more often the noisier it is;
    - "beta": as Beta(4 focus sigmoid(bias), 4 focus sigmoid(-bias)) (Zheng et al. 2024, "Beta-Tuned Timestep Diffusion Model"):
      focus 1 is a hill over the middle, 0.5 is uniform;
    - "content": as u^(1 + 2 focus) for a uniform u, "style" as 1 minus that: at focus 1 the cubic sampling of Mou et al. 2023,
      Section 3.4, which favours one of the ends.

    "auto" is taken for "uniform": what it means depends on the model.
    """
    assert 0 <= first < end <= count and focus > 0
    size = end - first
    edges = [place / size for place in range(size + 1)]
    middles = [(place + 0.5) / size for place in range(size)]
    match distribution:
        case "logit_normal":
            normal = NormalDist(bias, 1 / focus)
            parts = _differences([0.0, *(normal.cdf(_logit(edge)) for edge in edges[1:-1]), 1.0])
        case "sigmoid":
            parts = [_sigmoid(SIGMOID_STEEPNESS * focus * (middle - _sigmoid(bias))) for middle in middles]
        case "beta":
            a, b = 4 * focus * _sigmoid(bias), 4 * focus * _sigmoid(-bias)
            logs = [(a - 1) * math.log(middle) + (b - 1) * math.log(1 - middle) for middle in middles]
            highest = max(logs)
            parts = [math.exp(log - highest) for log in logs]
        case "content" | "style":
            power = 1 / (1 + 2 * focus)
            parts = _differences([edge**power for edge in edges])
            parts = parts if distribution == "content" else parts[::-1]
        case _:
            parts = [1.0] * size
    total = math.fsum(parts)
    return [0.0] * first + [part / total for part in parts] + [0.0] * (count - end)


def cumulative(shares: Sequence[float]) -> list[float]:
    """The share of the timesteps up to and including each; exactly 1 from the last one on that is drawn at all."""
    sums = list(accumulate(shares))
    return [min(1.0, part / sums[-1]) for part in sums]


def _differences(values: Sequence[float]) -> list[float]:
    return [max(0.0, after - before) for before, after in pairwise(values)]


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else 1 - 1 / (1 + math.exp(value))


# How much each timestep counts


def weights(
    weighting: Weighting, snr: Sequence[float], prediction: Prediction, gamma: float = 5.0, p2_gamma: float = 1.0, p2_k: float = 1.0
) -> list[float]:
    """The factor of each timestep's loss. Those of "epsilon" are, with S for the SNR,

    - "min_snr": min(S, gamma) / S (Hang et al. 2023, Eq. 7);
    - "debiased": 1 / sqrt(S) (Yu et al. 2024, "Unmasking Bias in Diffusion Model Training"), for S between 0.001 and 1000;
    - "p2": 1 / (k + S)^gamma (Choi et al. 2022, "Perception Prioritized Training of Diffusion Models").

    An error of v is (S + 1) / S times as large as the same one of epsilon, so its weights are those times S / (S + 1), which gives
    Hang et al.'s min(S, gamma) / (S + 1) in Section 3.4. Flow matching has its weighting in what it draws: there all are 1.
    """
    if weighting == "none" or prediction == "flow":
        return [1.0] * len(snr)
    of_v = prediction == "v_prediction"
    match weighting:
        case "min_snr":
            # At SNR 0 (zero-terminal schedules) the first is its limit, 1.
            return [min(s, gamma) / (s + 1) if of_v else min(s, gamma) / s if s > 0 else 1.0 for s in snr]
        case "debiased":
            of_epsilon = [min(max(s, LEAST_SNR), MOST_SNR) ** -0.5 for s in snr]
        case "p2":
            of_epsilon = [(p2_k + s) ** -p2_gamma for s in snr]
    return [weight * s / (s + 1) if of_v else weight for weight, s in zip(of_epsilon, snr, strict=True)]


def huber_thresholds(schedule: HuberSchedule, c: float, signal: Sequence[float], noise: Sequence[float]) -> list[float]:
    """The error of each timestep from which on a Huber loss grows no longer by the square (Khrapov et al. 2024, as in kohya-ss/sd-scripts,
    library/train_util.py, `get_huber_threshold_if_needed`): "constant" c; "exponential" c^(t / timesteps), from 1 down to c;
    "snr" (1 - c) / (1 + sigma)^2 + c with sigma = noise / signal.
    """
    match schedule:
        case "constant":
            return [c] * len(signal)
        case "exponential":
            return [c ** (place / len(signal)) for place in range(len(signal))]
    return [(1 - c) * (s / (s + n)) ** 2 + c for s, n in zip(signal, noise, strict=True)]


# Stable Diffusion's schedule, and pictures


@functools.cache
def standard_snr(zero_terminal: bool = False) -> tuple[float, ...]:
    """SNR of the schedule that SD 1.x, 2.x and XL were trained with: betas linear in their square root, 0.00085 to 0.012.

    With `zero_terminal` shifted and scaled to end at exactly 0 (Lin et al. 2023, Algorithm 1).
    """
    low, high = 0.00085**0.5, 0.012**0.5
    betas = ((low + (high - low) * place / (COUNT - 1)) ** 2 for place in range(COUNT))
    roots = [alpha_bar**0.5 for alpha_bar in accumulate((1 - beta for beta in betas), lambda product, alpha: product * alpha)]
    if zero_terminal:
        roots = [(root - roots[-1]) * roots[0] / (roots[0] - roots[-1]) for root in roots]
    return tuple(root**2 / (1 - root**2) for root in roots)


def bins(values: Sequence[float], count: int = 60) -> list[float]:
    """The mean of each of `count` equal parts of the timesteps, over the mean of all: 1 where a timestep gets what all get on average."""
    mean = math.fsum(values) / len(values)
    cuts = [round(place * len(values) / count) for place in range(count + 1)]
    return [math.fsum(values[start:stop]) / (stop - start) / mean if mean else 0.0 for start, stop in pairwise(cuts)]
