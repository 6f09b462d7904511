"""Every test is offline, quiet and in a workspace of its own; torch gets one thread, as tiny models are slower with more."""

import os
import signal
import sys

import pytest

os.environ.update(HF_HUB_OFFLINE="1", GRADIO_ANALYTICS_ENABLED="False", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

# A shell that puts the tests into the background lets them ignore Ctrl-C, which some of them are about.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_workspace(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NOSNJA_WORKSPACE", str(tmp_path_factory.mktemp("workspace")))


@pytest.fixture(autouse=True)
def _no_other_programs(monkeypatch, tmp_path_factory):
    """What ComfyUI and its like keep on this machine is listed nowhere; a test adds folders of its own."""
    from nosnja_gui import models, places

    nowhere = tmp_path_factory.getbasetemp() / "no-home"
    monkeypatch.setattr(models, "find_places", lambda workspace: places.find(workspace, nowhere, {}))


@pytest.fixture(autouse=True)
def _one_thread():
    # Not imported here: most tests don't need torch, and some check that nothing loads it.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
