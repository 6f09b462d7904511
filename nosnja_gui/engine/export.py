"""What is written into a trained file beside its weights: an allowlist. Never captions, paths, user or host names."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from nosnja_gui.families import Family, Parts
from nosnja_gui.jobs import LossSettings, TrainJob
from nosnja_gui.jobs.loss import HUBER_KINDS
from nosnja_gui.methods import METHODS


def metadata(
    job: TrainJob,
    family: Family,
    parts: Parts,
    steps: int,
    epoch: int,
    started_at: float,
    dataset_summary: Mapping[str, int],
    caption_version: str = "",
) -> dict[str, str]:
    """kohya's `ss_` keys, which A1111 and ComfyUI show, the modelspec keys and our own.

    `dataset_summary` holds counts: pictures, held_out, steps_per_epoch, total_steps, warmup_steps, resolution (those that are known).
    `caption_version` is a hash of the captions or the number of their version, never a caption; `started_at` in seconds since 1970.
    """
    counts = {name: int(value) for name, value in dataset_summary.items()}
    resolution = counts.get("resolution") or job.dataset.resolution
    text_rate = job.optimizer.text_encoder_learning_rate or None
    training, dataset, optimizer = job.training, job.dataset, job.optimizer
    values: dict[str, Any] = {
        "ss_output_name": _last_name(job.name),
        "ss_training_started_at": started_at,
        "nosnja_method": job.method,
        **METHODS[job.method].about(job.recipe()),
        "ss_base_model_version": family.kohya_version,
        "ss_v2": family.kohya_version == "sd_v2",
        "ss_sd_model_name": _last_name(parts.base_name),
        "ss_sd_model_hash": parts.base_hash,
        "ss_learning_rate": optimizer.learning_rate,
        "ss_unet_lr": optimizer.learning_rate,
        "ss_text_encoder_lr": text_rate,
        "ss_optimizer": optimizer.name,
        "ss_max_grad_norm": optimizer.max_grad_norm,
        "ss_lr_scheduler": job.schedule.name,
        "ss_lr_warmup_steps": counts.get("warmup_steps"),
        "ss_num_epochs": training.epochs,
        "ss_epoch": epoch,
        "ss_steps": steps,
        "ss_max_train_steps": counts.get("total_steps") or training.max_steps,
        "ss_num_train_images": counts["pictures"] * dataset.repeats if "pictures" in counts else None,
        "ss_num_batches_per_epoch": counts.get("steps_per_epoch"),
        "ss_batch_size_per_device": training.batch_size,
        "ss_total_batch_size": training.batch_size * training.gradient_accumulation,
        "ss_gradient_accumulation_steps": training.gradient_accumulation,
        "ss_gradient_checkpointing": training.gradient_checkpointing,
        "ss_mixed_precision": {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[str(parts.dtype).removeprefix("torch.")],
        **_loss(job.loss),
        "ss_clip_skip": job.model.clip_skip,
        "ss_seed": training.seed,
        "ss_resolution": f"({resolution}, {resolution})" if resolution else None,
        "ss_enable_bucket": dataset.buckets,
        "ss_flip_aug": dataset.flip,
        "ss_caption_dropout_rate": dataset.caption_dropout,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": family.modelspec(parts) + METHODS[job.method].modelspec,
        "modelspec.title": _last_name(job.name),
        "modelspec.date": datetime.datetime.fromtimestamp(started_at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "modelspec.prediction_type": {"v_prediction": "v"}.get(parts.prediction_type, parts.prediction_type),
        "modelspec.resolution": f"{resolution}x{resolution}" if resolution else None,
        "modelspec.trigger_phrase": job.word or None,
        "nosnja_trigger": job.word or None,
        "nosnja_pictures": counts.get("pictures"),
        "nosnja_repeats": dataset.repeats,
        "nosnja_caption_version": caption_version or None,
    }
    told_when_off = {"ss_text_encoder_lr", "ss_min_snr_gamma"}
    return {key: str(value) for key, value in values.items() if value is not None or key in told_when_off}


def _loss(loss: LossSettings) -> dict[str, Any]:
    """Under the names of kohya-ss/sd-scripts (train_network.py), and our own where there are none. What is off is not told."""
    off: dict[str, Any] = {
        "ss_noise_offset": loss.noise_offset or None,
        "ss_noise_offset_random_strength": loss.random_strength if loss.noise_offset else None,
        "ss_adaptive_noise_scale": loss.noise_offset_adaptive or None if loss.noise_offset else None,
        "ss_multires_noise_iterations": loss.pyramid_iterations or None,
        "ss_multires_noise_discount": loss.pyramid_discount if loss.pyramid_iterations else None,
        "ss_ip_noise_gamma": loss.input_perturbation or None,
        "ss_ip_noise_gamma_random_strength": loss.random_strength if loss.input_perturbation else None,
        "ss_zero_terminal_snr": loss.zero_terminal_snr or None,
        "ss_debiased_estimation": loss.weighting == "debiased" or None,
        "ss_huber_schedule": loss.huber_schedule if loss.kind in HUBER_KINDS else None,
        "ss_huber_c": loss.huber_c if loss.kind in HUBER_KINDS else None,
        "nosnja_timesteps": loss.distribution if loss.distribution != "auto" else None,
        "nosnja_masks": loss.masked if loss.masked != "off" else None,
    }
    gamma = loss.min_snr_gamma if loss.weighting == "min_snr" else None
    return {"ss_min_snr_gamma": gamma, "ss_loss_type": "l2" if loss.kind == "mse" else loss.kind, **off}


def _last_name(name: str) -> str:
    """A name without the folders that a user may have put before it, on either kind of system."""
    return PureWindowsPath(PurePosixPath(name).name).name
