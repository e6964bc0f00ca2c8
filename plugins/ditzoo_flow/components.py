"""diffusers' flow scheduler as a schedule and a sampler, and back."""

from __future__ import annotations

import json
from pathlib import Path

from ditzoo.layouts import Component, Data
from ditzoo.model_spec import ModelSpec
from ditzoo_flow.spec import EvenSpec, FlowSpec

TRAINED = 1000  # steps, the smallest of which is the last noisy time that is walked
# what our schedule and euler have one value of
FIXED: Data = {
    "use_dynamic_shifting": False,
    "invert_sigmas": False,
    "shift_terminal": None,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "stochastic_sampling": False,
}


def least(shift: float) -> float:
    """Return the smallest trained time under a shift; where walked, it is shifted once more, as the scheduler does."""
    return shift / TRAINED / (1 + (shift - 1) / TRAINED)


class FlowSchedulers(Component):
    """`FlowMatchEulerDiscreteScheduler` with a fixed shift: schedule `flow`, walked evenly, and sampler `euler`."""

    classes = frozenset({"FlowMatchEulerDiscreteScheduler"})
    folder = "scheduler"
    config = "scheduler_config.json"

    def read(self, name: str, config: Data, source: Data) -> dict[str, Data | str]:
        odd = [f"{field}={config[field]!r}" for field, value in FIXED.items() if config.get(field, value) != value]
        if config.get("num_train_timesteps", TRAINED) != TRAINED:
            odd.append(f"num_train_timesteps={config['num_train_timesteps']}")
        if odd:
            told = f"no {{slot}} here is that of {name} with {', '.join(odd)}; say {{slot}}.kind=KIND"
            return {slot: told.format(slot=slot) for slot in ("schedule", "sampler")}
        shift = float(config.get("shift", 1.0))
        return {
            "schedule": {"kind": "flow", "prediction": "velocity", "shift": shift, "spacing": {"kind": "even", "least": least(shift)}},
            "sampler": {"kind": "euler"},
        }

    def write(self, spec: ModelSpec, folder: Path | None) -> str | None:
        schedule = spec.schedule
        if not isinstance(schedule, FlowSpec):
            return f"schedule '{schedule.kind}' has no scheduler among diffusers' for flow; set schedule.kind=flow"
        if (schedule.prediction, schedule.time_scale, schedule.time_reversed) != ("velocity", float(TRAINED), False):
            return "diffusers' flow schedulers feed the time times 1000 and want the velocity; this schedule does otherwise"
        if (
            schedule.shift_cells is not None
            or not isinstance(schedule.spacing, EvenSpec)
            or schedule.spacing.least != least(schedule.shift)
        ):
            due = f"{{kind='even', least={least(schedule.shift)}}}"
            return f"diffusers' flow scheduler walks other times; set schedule.spacing={due}, and schedule.shift_cells away"
        if spec.sampler.kind != "euler" or spec.sampler.model_dump(exclude_defaults=True):
            return f"sampler '{spec.sampler.kind}' as it is set is not what FlowMatchEulerDiscreteScheduler does; set sampler=euler"
        if folder is not None:
            config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": TRAINED, "shift": schedule.shift}
            (folder / self.config).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        return None
