"""The steps of a run: draw, predict, step, average; and between them the log, checkpoints, validation, samples."""

from __future__ import annotations

import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ditzoo.assemble import Model
from ditzoo.errors import TrainingError
from ditzoo.grid import save_grid
from ditzoo.interfaces import Dataset
from ditzoo.noise import generator
from ditzoo.sampling import sample
from ditzoo.training.checkpoint import Window, save_checkpoint
from ditzoo.training.data import Order, batches
from ditzoo.training.ema import EMA
from ditzoo.training.log import Log
from ditzoo.training.loss import Draws, diffusion_loss
from ditzoo.training.meter import Meter
from ditzoo.training.objective import drawn_times
from ditzoo.training.recipe import Recipe
from ditzoo.training.stopping import Stop
from ditzoo.training.validation import by_level, note


class Run:
    """The parts of one run, and its steps."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        accelerator: Accelerator,
        model: Any,
        module: Model,
        optimizer: Any,
        ema: EMA,
        dataset: Dataset,
        held_out: Dataset | None,
    ) -> None:
        self.recipe, self.out, self.accelerator = recipe, out, accelerator
        self.model, self.module, self.optimizer, self.ema = model, module, optimizer, ema
        self.dataset, self.held_out = dataset, held_out
        self.schedule, self.codec = recipe.model.schedule.build(), recipe.model.codec.build()
        self.portion = recipe.length.batch_size // accelerator.num_processes
        self.main, self.coded = accelerator.is_main_process, getattr(dataset, "coded", False)
        self.done, self.losses, self.skipped, self.in_a_row = 0, list[Tensor](), 0, 0

    def resume(self, step: int, window: Window) -> None:
        """Go on after a step, with what came since the last row of the log; other processes than wrote the losses share their mean."""
        self.done, self.skipped = step, window.skipped
        if len(window.losses) == self.accelerator.num_processes:
            own = window.losses[self.accelerator.process_index]
        else:
            own = [sum(losses) / len(losses) for losses in zip(*window.losses, strict=True)]
        self.losses = [torch.tensor(loss, device=self.accelerator.device) for loss in own]

    def batches(self) -> Any:
        """Yield the batches of the steps that are left, this process' rows."""
        length, lo = self.recipe.length, self.accelerator.process_index * self.portion
        order = Order(len(self.dataset), length.batch_size, self.recipe.seed, self.done, length.steps, lo, lo + self.portion)
        return batches(self.dataset, order, length.workers)

    def follow(self, *, quiet: bool) -> None:
        """Make the steps that are left. SIGTERM ends the run after a step with a checkpoint, as `SystemExit(0)`."""
        length, output = self.recipe.length, self.recipe.output
        log = Log(self.out, step=self.done, steps=length.steps, tensorboard=output.tensorboard, quiet=quiet) if self.main else None
        meter = Meter(self.recipe, self.accelerator, self.done) if self.main else None
        with log or nullcontext(), Stop(self.accelerator) as stop:
            for pixels, items in self.batches():
                norm, lr = self.step(self.done, pixels, items)
                self.done += 1
                ended, stopped = self.done == length.steps, stop.asked()
                if log is not None:
                    log.bar.update()
                if self.done % output.log_every == 0 or ended:
                    mean = self.mean()
                    if log is not None and meter is not None:
                        epoch = self.done * length.batch_size / len(self.dataset)
                        log.write(
                            self.done,
                            {"epoch": epoch, "loss": mean, "lr": lr, "grad_norm": norm, "skipped": self.skipped} | meter.read(self.done),
                        )
                    self.losses, self.skipped = [], 0
                if (self.done % output.checkpoint_every == 0 or ended or stopped) and not self.in_a_row:
                    self.checkpoint()  # while steps are left out the weights may be past saving, and the last checkpoint is not
                if self.recipe.validation and (self.done % self.recipe.validation.every == 0 or ended):
                    self.validate()
                if self.main and output.sample_every and (self.done % output.sample_every == 0 or ended):
                    self.draw()
                if stopped and not ended:
                    if self.main:
                        print(f"told to stop after step {self.done}; go on with --resume", file=sys.stderr)
                    self.accelerator.wait_for_everyone()
                    raise SystemExit(0)

    def step(self, step: int, pixels: Tensor, items: list[Any]) -> tuple[float, float]:
        """Make one optimiser step from this process' rows; return gradient norm and learning rate.

        A step whose gradient is not finite, or above `skip_above`, changes nothing but the count of those left out.
        """
        recipe, accelerator = self.recipe, self.accelerator
        lr = recipe.optimizer.lr * recipe.optimizer.factor(step, recipe.length.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        latents = pixels.to(accelerator.device)
        if not self.coded:
            latents = self.codec.encode(latents)
        draws = self.draws(step, latents)
        portions = recipe.length.accumulate
        rows = len(latents) // portions
        total = latents.new_zeros(())
        for portion in range(portions):
            part = slice(portion * rows, (portion + 1) * rows)
            final = portion == portions - 1
            with nullcontext() if final else accelerator.no_sync(self.model), accelerator.autocast():
                own = draws.rows(part, latents.device)
                loss = (
                    diffusion_loss(self.module, self.model, self.schedule, latents[part], items[part], own, recipe.objective).mean()
                    / portions
                )
            accelerator.backward(loss)
            total += loss.detach()
        norm = float(accelerator.clip_grad_norm_(self.model.parameters(), recipe.optimizer.clip_norm or float("inf")))
        if math.isfinite(norm) and norm <= (recipe.optimizer.skip_above or float("inf")):
            self.optimizer.step()
            self.ema.update(self.module, step + 1)
            self.losses.append(total)
            self.in_a_row = 0
        elif accelerator.scaler is not None:  # fp16 finds its own scale by steps like this one, and leaves it out itself
            self.optimizer.step()
            self.skipped += 1
        else:
            self.leave_out(step, norm)
        self.optimizer.zero_grad(set_to_none=True)
        return norm, lr

    def leave_out(self, step: int, norm: float) -> None:
        """Count a step that is not made; after too many in a row the run ends. Norms are alike in all processes, and so is this."""
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        settings = self.recipe.optimizer
        if self.in_a_row >= settings.max_skipped:
            raise TrainingError(
                f"{self.in_a_row} steps in a row were left out, up to step {step + 1}: the gradient's norm is {norm:g}; "
                f"the last checkpoint is sound. Lower optimizer.lr={settings.lr:g}, lengthen optimizer.warmup, "
                f"or train without mixed precision, and resume"
            )

    def draws(self, step: int, latents: Tensor) -> Draws:
        """Draw for the whole batch and take this process' rows, so that the number of processes changes nothing."""
        whole = latents.new_empty(self.recipe.length.batch_size, *latents.shape[1:], device="cpu")
        drawn = Draws.of(whole, generator(self.recipe.seed, "draws", step))
        drawn = Draws(drawn.noise, drawn_times(drawn.time, self.recipe.objective), drawn.drop)
        lo = self.accelerator.process_index * self.portion
        return drawn.rows(slice(lo, lo + self.portion), latents.device)

    def mean(self) -> float:
        """Return the mean loss since the last row of the log; NaN if every step was left out."""
        if not self.losses:
            return math.nan
        return float(self.accelerator.reduce(torch.stack(self.losses).mean(), reduction="mean"))

    def checkpoint(self) -> None:
        """Write a checkpoint, with every process' losses since the last row of the log."""
        held: list[list[float]] = [[]] * self.accelerator.num_processes
        if self.losses:
            gathered: Any = self.accelerator.gather(torch.stack(self.losses)[None])
            held = gathered.double().cpu().tolist()
        if self.main:
            save_checkpoint(self.out, self.done, self.recipe, self.module, self.ema, self.optimizer.optimizer, Window(held, self.skipped))

    def validate(self) -> None:
        """Write the averaged weights' loss on held-out pictures, by noise level."""
        assert self.recipe.validation is not None
        assert self.held_out is not None
        if self.main:
            self.module.eval()
            with self.ema.applied(self.module):
                losses = by_level(self.module, self.codec, self.schedule, self.held_out, self.recipe.validation, self.recipe.seed)
            self.module.train()
            note(self.out / "validation.csv", self.done, losses)
        self.accelerator.wait_for_everyone()

    def draw(self) -> None:
        """Write a grid of samples of the averaged weights."""
        self.module.eval()
        with self.ema.applied(self.module):
            drawn = sample(self.module, num_images=self.recipe.output.samples, seed=self.recipe.seed)
        self.module.train()
        save_grid(drawn.images, drawn.captions, self.out / "samples" / f"{self.done:08d}.png")
