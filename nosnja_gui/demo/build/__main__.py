"""python -m nosnja_gui.demo.build: train the kit's parts, stage by stage, and say how good they are.

Stages that are done are skipped and a killed one goes on from its last saved state. One thread a stage: on two cores,
run `--stages clip probe blip` beside `--stages vae decoder`.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from nosnja_gui.demo.run import KIT

STAGES = ("words", "vae", "clip", "probe", "latents", "unet", "decoder", "blip", "quality")


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nosnja_gui.demo.build", description=__doc__)
    parser.add_argument("--out", type=Path, default=KIT, help="where the kit goes (the package's own by default)")
    parser.add_argument("--state", type=Path, default=Path("workspace/kit-state"), help="where unfinished stages keep their state")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="which stages to run (all, in order, by default)")
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets of what the kit paints")
    arguments = parser.parse_args(words)
    good = True
    for stage in [stage for stage in STAGES if stage in arguments.stages]:
        done = arguments.state / f"{stage}.done"
        if done.exists() and stage != "quality":
            print(f"{stage}: done before")
            continue
        began = time.monotonic()
        good = run(stage, arguments) is not False
        for file in arguments.out.rglob("*.safetensors"):
            file.chmod(0o644)  # written as private by safetensors
        arguments.state.mkdir(parents=True, exist_ok=True)
        done.write_text(f"{time.monotonic() - began:.0f} s\n")
        print(f"{stage}: {time.monotonic() - began:.0f} s", flush=True)
    return 0 if good else 1


def run(stage: str, arguments: argparse.Namespace) -> bool | None:
    from nosnja_gui.demo.build import blip, clip, probe, quality, unet, vae, words

    state, out = arguments.state, arguments.out
    sd = out / "sd"
    if stage == "words":
        words.build(sd / "tokenizer")
    elif stage == "vae":
        vae.build(state, sd / "vae")
    elif stage == "decoder":
        vae.build_decoder(state, sd / "vae")
    elif stage == "clip":
        clip.build(state, out / "clip", sd / "tokenizer", sd / "text_encoder")
    elif stage == "probe":
        probe.build(state, out)
    elif stage == "latents":
        unet.build_latents(state, sd)
    elif stage == "unet":
        unet.build(state, sd)
    elif stage == "blip":
        blip.build(state, out / "blip")
    else:
        return quality.report(quality.measure(out, arguments.sheets), out / "quality.json")
    return None


if __name__ == "__main__":
    raise SystemExit(main())
