"""A dataset: a folder of pictures and their captions. Reads, checks, edits and undoes; knows nothing of models or training."""

from nosnja_gui.dataset.history import Version, undo, versions, write_captions
from nosnja_gui.dataset.reading import Dataset, Picture, Problem, read

__all__ = ["Dataset", "Picture", "Problem", "Version", "read", "undo", "versions", "write_captions"]
