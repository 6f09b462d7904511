"""Builds the demo kit: trains a tiny Stable Diffusion, BLIP, CLIP and a probe on the drawn world, one module a stage."""
