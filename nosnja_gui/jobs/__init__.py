"""The typed configuration of every long job, a file for each group of settings that belong together.

What a field is for stands under it: that is the user's help, too.
"""

from pathlib import Path

from nosnja_gui.jobs.caption import CaptionJob
from nosnja_gui.jobs.dataset import DatasetSettings
from nosnja_gui.jobs.demo import DEMO_METHODS, DemoJob
from nosnja_gui.jobs.download import DownloadJob
from nosnja_gui.jobs.grid import AxisSettings, GridJob
from nosnja_gui.jobs.loss import LossSettings
from nosnja_gui.jobs.optimizer import OPTIMIZER_TITLES, SCHEDULE_TITLES, OptimizerSettings, Schedule, ScheduleSettings
from nosnja_gui.jobs.shared import PRECISION_TITLES, ModelSettings, Precision, Sampler
from nosnja_gui.jobs.train import LAYOUT_TITLES, PreviewSettings, SavingSettings, TrainingSettings, TrainJob, ValidationSettings

__all__ = [
    "DEMO_METHODS",
    "LAYOUT_TITLES",
    "OPTIMIZER_TITLES",
    "PRECISION_TITLES",
    "SCHEDULE_TITLES",
    "AxisSettings",
    "CaptionJob",
    "DatasetSettings",
    "DemoJob",
    "DownloadJob",
    "GridJob",
    "Job",
    "LossSettings",
    "ModelSettings",
    "OptimizerSettings",
    "Precision",
    "PreviewSettings",
    "Sampler",
    "SavingSettings",
    "Schedule",
    "ScheduleSettings",
    "TrainJob",
    "TrainingSettings",
    "ValidationSettings",
    "workspace_path",
]

Job = TrainJob | CaptionJob | GridJob | DemoJob | DownloadJob


def workspace_path(text: str, folder: Path) -> Path:
    """A path as given if it exists, else the entry of that name in `folder`."""
    given = Path(text).expanduser()
    return given if given.exists() or given.is_absolute() else (folder / text if (folder / text).exists() else given)
