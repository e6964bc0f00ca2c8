"""diffusers' schedulers with a table of betas as a schedule and a sampler, and back: DDIM and DDPM as ours, others as they are."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import ClassVar

from ditzoo.layouts import Component, Data
from ditzoo.model_spec import ModelSpec
from ditzoo_diffusion.borrowed_spec import KNOWN, BorrowedSpec
from ditzoo_diffusion.schedules import CosineSpec, LinearSpec, ScaledLinearSpec, VPSpec
from ditzoo_diffusion.specs import DDIMSpec, DDPMSpec

BETAS: dict[str, type[VPSpec]] = {"linear": LinearSpec, "scaled_linear": ScaledLinearSpec, "squaredcos_cap_v2": CosineSpec}
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCES = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large", "learned_range": "learned"}
SPACINGS = {"use_karras_sigmas": "karras", "use_beta_sigmas": "beta"}
# What our samplers have one value of; another one is told, and left out only if the sampler is named.
FIXED: Data = {"thresholding": False, "steps_offset": 0, "set_alpha_to_one": True}
SAMPLED = ("DDIMScheduler", "DDPMScheduler")
SCHEDULED = (
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
# those that `diffusers:NAME` walks as a pipeline does, whatever their config
BORROWED = tuple(name for name in SCHEDULED if name in KNOWN and name != "PNDMScheduler")
# what a schedule says, and a borrowed scheduler is told by it
SCHEDULE = frozenset(
    {
        "beta_end",
        "beta_schedule",
        "beta_start",
        "clip_sample",
        "num_train_timesteps",
        "prediction_type",
        "rescale_betas_zero_snr",
        "timestep_spacing",
        "trained_betas",
    }
)


class Schedulers(Component):
    """`DDIMScheduler` and `DDPMScheduler` as ours; others of diffusers' as the sampler `diffusers:NAME`, and where that has none the
    schedule alone.
    """

    classes = frozenset({*SAMPLED, *SCHEDULED})
    folder = "scheduler"
    config = "scheduler_config.json"
    noisy: ClassVar[str] = "DDPMScheduler"

    def read(self, name: str, config: Data, source: Data) -> dict[str, Data | str]:
        curve, prediction = config.get("beta_schedule", "linear"), config.get("prediction_type", "epsilon")
        changed = [f"{field}" for field in ("trained_betas", "use_flow_sigmas", "use_exponential_sigmas") if config.get(field)]
        if curve not in BETAS or prediction not in PREDICTIONS or changed:
            told = f"{name} with beta_schedule '{curve}', prediction_type '{prediction}'" + "".join(f" and {field}" for field in changed)
            return {slot: f"no {slot} here is that of {told}; say {slot}.kind=KIND" for slot in ("schedule", "sampler")}
        spacing = "linspace" if name in BORROWED else "leading"  # what diffusers has where a config does not say
        schedule: Data = {
            "kind": BETAS[curve].model_fields["kind"].default,
            "prediction": PREDICTIONS[prediction],
            "train_steps": config.get("num_train_timesteps", 1000),
            "spacing": next((kind for field, kind in SPACINGS.items() if config.get(field)), config.get("timestep_spacing", spacing)),
            "zero_snr": bool(config.get("rescale_betas_zero_snr")),
        }
        schedule |= {
            field: config.get(field, default)
            for field, default in (("beta_start", 1e-4), ("beta_end", 0.02))
            if field in BETAS[curve].model_fields
        }
        return {"schedule": schedule, "sampler": self._sampler(name, config)}

    def _sampler(self, name: str, config: Data) -> Data | str:
        if name in BORROWED:
            told = {field: value for field, value in config.items() if field not in SCHEDULE and field[0] != "_" and _finite(value)}
            return {"kind": "diffusers", "scheduler": name} | ({"config": told} if told else {})
        odd = [f"{field}={config[field]!r}" for field, value in FIXED.items() if config.get(field, value) != value]
        if name in SCHEDULED or odd:
            return f"{name}{' with ' if odd else ''}{', '.join(odd)} is no sampler here; say which to use: sampler.kind=ddim"
        clip = config.get("clip_sample_range", 1.0) if config.get("clip_sample", True) else None
        if name != self.noisy:
            return {"kind": "ddim", "clip": clip, "keep_eps": clip is not None}
        variance = VARIANCES.get(config.get("variance_type", "fixed_small"))
        if variance is None:
            return f"no ddpm here has variance_type '{config['variance_type']}'; say which to use: sampler.kind=ddpm"
        return {"kind": "ddpm", "variance": variance, "clip": clip}

    def write(self, spec: ModelSpec, folder: Path | None) -> str | None:
        schedule, sampler = spec.schedule, spec.sampler
        curve = next((curve for curve, cls in BETAS.items() if type(schedule) is cls), None)
        if curve is None or not isinstance(schedule, VPSpec):
            return f"schedule '{schedule.kind}' has no scheduler among DDIM and DDPM; set schedule.kind to one of {', '.join(_kinds())}"
        if isinstance(schedule, CosineSpec) and (schedule.offset, schedule.max_beta) != (0.008, 0.999):
            return f"diffusers' cosine has offset 0.008 and max_beta 0.999, not {schedule.offset:g} and {schedule.max_beta:g}"
        if schedule.spacing.kind not in ("linspace", "leading", "trailing"):
            return (
                f"diffusers' DDIM and DDPM have no spacing '{schedule.spacing.kind}'; set schedule.spacing to linspace, leading or trailing"
            )
        config: Data = {
            "num_train_timesteps": schedule.train_steps,
            "beta_schedule": curve,
            "beta_start": getattr(schedule, "beta_start", 1e-4),
            "beta_end": getattr(schedule, "beta_end", 0.02),
            "prediction_type": next(theirs for theirs, ours in PREDICTIONS.items() if ours == schedule.prediction),
            "timestep_spacing": schedule.spacing.kind,
            "rescale_betas_zero_snr": schedule.zero_snr,
            "steps_offset": 0,
            "trained_betas": None,
        }
        if isinstance(sampler, BorrowedSpec):
            if folder is not None:
                self._write(folder, config | sampler.config | {"_class_name": sampler.scheduler})
            return None
        if isinstance(sampler, DDIMSpec) and sampler.clip is not None and not sampler.keep_eps:
            return "diffusers' DDIM clips x_0 and keeps eps; set sampler.keep_eps=true, or sampler.clip away"
        if isinstance(sampler, DDIMSpec) and sampler.eta == 0:
            config |= {"_class_name": "DDIMScheduler", "set_alpha_to_one": True}
        elif isinstance(sampler, DDPMSpec) and sampler.variance != "learned":
            config |= {"_class_name": self.noisy, "variance_type": f"fixed_{sampler.variance}"}
        else:
            return (
                f"sampler '{sampler.kind}' as it is set is not what a diffusers pipeline does with its scheduler alone; "
                f"set sampler.kind=ddim, or ddpm with a fixed variance"
            )
        config |= {"clip_sample": sampler.clip is not None, "clip_sample_range": sampler.clip or 1.0}
        if folder is not None:
            self._write(folder, config)
        return None

    def _write(self, folder: Path, config: Data) -> None:
        (folder / self.config).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _finite(value: object) -> bool:
    """Say whether a value can stand in a spec; what is none or without end is what a scheduler has where it is not told."""
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _kinds() -> list[str]:
    return [cls.model_fields["kind"].default for cls in BETAS.values()]
