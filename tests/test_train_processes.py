import subprocess
import sys
from pathlib import Path

import torch

from nosnja_gui import events
from tests.small_training import job, make_workspace, run_of, said

RANK = """
import os, sys
import torch
torch.set_num_threads(1)
from pathlib import Path
from nosnja_gui.engine import train as training
from nosnja_gui.runs import RunFolder
from nosnja_gui.workspace import Workspace
run, workspace = RunFolder(Path(sys.argv[1])), Workspace(Path(sys.argv[2]))
original = training.begin
def begin(*arguments, **named):
    kept.append(original(*arguments, **named))
    return kept[0]
kept, training.begin = [], begin
update, rates = training.update, []
def count(state):
    rates.append(state.optimizer.param_groups[0]["base_rate"])
    if len(rates) == 2 and os.environ["RANK"] == "0":
        run.request_rate(3e-3)
    return update(state)
training.update = count
file = training.train(run.job(), run, workspace)
print(file)
state = {"parameters": [p.detach() for p in kept[0].parameters], "rates": rates}
torch.save(state, Path(sys.argv[2]) / f"rank-{os.environ['RANK']}.pt")
"""


def test_two_processes_train_the_same_weights_on_twice_the_batch(tmp_path):
    """Six pictures at two repeats: 12 exposures, of which a process takes half of every batch."""
    workspace = make_workspace(tmp_path)
    wanted = job(training__batch_size=2, training__epochs=2, saving__every_epochs=1)
    run = run_of(workspace, "two-processes", wanted)
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script), str(run.path)]
    root = Path(__file__).resolve().parents[1]
    environment = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run([*command, str(workspace.root)], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    states = [torch.load(workspace.root / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]
    first, second = (state["parameters"] for state in states)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert any(parameter.abs().sum() > 0 for parameter in first)
    started = said(run, events.Started)
    # 4 wide exposures and 8 square ones in batches of 4: 1 + 2 steps an epoch, where one process needs 2 + 4
    assert [event.steps_per_epoch for event in started] == [3]
    assert len(said(run, events.Finished)) == 1
    # A new learning rate is asked of the first process, between the second and the third step, and holds for both.
    assert states[0]["rates"] == states[1]["rates"] == [1e-2] * 2 + [3e-3] * 4
    assert [(event.step, event.learning_rate) for event in said(run, events.RateChanged)] == [(2, 3e-3)]
    assert sorted(file.stem for file in run.weights.iterdir()) == ["coat", "coat-epoch-01", "coat-epoch-02"]
