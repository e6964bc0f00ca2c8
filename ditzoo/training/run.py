"""The steps of a run: draw, predict, step, average; and between them the log, checkpoints, validation, samples."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from ditzoo.assemble import Model, build
from ditzoo.errors import TrainingError
from ditzoo.grid import save_grid
from ditzoo.interfaces import Dataset
from ditzoo.packing import Pack
from ditzoo.sampling import sample
from ditzoo.training.checkpoint import Window, save_checkpoint
from ditzoo.training.data import Batch, Clips
from ditzoo.training.ema import EMA
from ditzoo.training.feed import FEEDS, Portion
from ditzoo.training.log import Log
from ditzoo.training.loss import diffusion_loss
from ditzoo.training.meter import Meter
from ditzoo.training.recipe import Recipe
from ditzoo.training.sharding import is_sharded, whole
from ditzoo.training.stopping import Stop
from ditzoo.training.trainee import Trainee
from ditzoo.training.validation import by_level, note


class Run:
    """The parts of one run, and its steps."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        accelerator: Accelerator,
        wrapped: Any,
        trainee: Trainee,
        optimizer: Any,
        ema: EMA,
        dataset: Dataset,
        held_out: Dataset | None,
    ) -> None:
        self.recipe, self.out, self.accelerator = recipe, out, accelerator
        self.wrapped, self.trainee, self.optimizer, self.ema = wrapped, trainee, optimizer, ema
        self.sharded = is_sharded(trainee)
        self.dataset, self.held_out = dataset, held_out
        self.schedule, self.codec = recipe.model.schedule.build(), recipe.model.codec.build()
        self.feed = FEEDS[recipe.mixing.kind if recipe.mixing else None](recipe, dataset, self.codec, trainee.model.backbone, accelerator)
        self.main = accelerator.is_main_process
        self.columns = ["loss", *(f"loss_{loss.kind}" for loss in recipe.losses)]
        self.done, self.losses, self.skipped, self.in_a_row = 0, list[Tensor](), 0, 0  # losses: a row of `columns` a step

    def resume(self, step: int, window: Window) -> None:
        """Go on after a step, with what came since the last row of the log; other processes than wrote the losses share their mean."""
        self.done, self.skipped = step, window.skipped
        if len(window.losses) == self.accelerator.num_processes:
            own = window.losses[self.accelerator.process_index]
        else:
            own = torch.tensor(window.losses).mean(0).tolist()
        self.losses = [torch.tensor(row, device=self.accelerator.device) for row in own]

    def batches(self) -> Iterator[Any]:
        """Yield the batches of the steps that are left, this process' rows."""
        return self.feed.batches(self.done)

    def follow(self, *, quiet: bool) -> None:
        """Make the steps that are left. SIGTERM ends the run after a step with a checkpoint, as `SystemExit(0)`."""
        length, output = self.recipe.length, self.recipe.output
        log = None
        if self.main:
            log = Log(self.out, self.columns, step=self.done, steps=length.steps, tensorboard=output.tensorboard, quiet=quiet)
        meter = Meter(self.recipe, self.accelerator) if self.main else None
        with log or nullcontext(), Stop(self.accelerator) as stop:
            for batch in self.batches():
                norm, lr = self.step(self.done, batch)
                self.done += 1
                if meter is not None:
                    meter.items += self.feed.items(batch)
                ended, stopped = self.done == length.steps, stop.asked()
                if log is not None:
                    log.bar.update()
                if self.done % output.log_every == 0 or ended:
                    means = self.means()
                    if log is not None and meter is not None:
                        epoch = self.feed.seen(self.done, batch) / len(self.dataset)
                        beside = {"lr": lr, "grad_norm": norm, "skipped": self.skipped}
                        log.write(self.done, {"epoch": epoch} | means | beside | meter.read())
                    self.losses, self.skipped = [], 0
                if (self.done % output.checkpoint_every == 0 or ended or stopped) and not self.in_a_row:
                    self.checkpoint()  # while steps are left out the weights may be past saving, and the last checkpoint is not
                if self.recipe.validation and (self.done % self.recipe.validation.every == 0 or ended):
                    self.validate()
                if output.sample_every and (self.done % output.sample_every == 0 or ended):
                    self.draw()
                if stopped and not ended:
                    if self.main:
                        print(f"told to stop after step {self.done}; go on with --resume", file=sys.stderr)
                    self.accelerator.wait_for_everyone()
                    raise SystemExit(0)

    def step(self, step: int, batch: Batch | Clips) -> tuple[float, float]:
        """Make one optimiser step from this process' rows; return gradient norm and learning rate.

        A step whose gradient is not finite, or above `skip_above`, changes nothing but the count of those left out.
        """
        recipe, accelerator = self.recipe, self.accelerator
        lr = recipe.optimizer.lr * recipe.optimizer.factor(step, recipe.length.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        portions = self.feed.portions(step, batch)
        totals = torch.zeros(len(self.columns), device=accelerator.device)
        for portion in portions:
            with self.apart(final=portion is portions[-1]), accelerator.autocast():
                losses = self.losses_of(portion) / portion.divisor
            accelerator.backward(losses[0])
            totals += losses.detach()
        norm = float(whole(accelerator.clip_grad_norm_(self.wrapped.parameters(), recipe.optimizer.clip_norm or float("inf"))))
        if math.isfinite(norm) and norm <= (recipe.optimizer.skip_above or float("inf")):
            self.optimizer.step()
            self.ema.update(self.trainee.model, step + 1)
            self.losses.append(totals)
            self.in_a_row = 0
        elif accelerator.scaler is not None:  # fp16 finds its own scale by steps like this one, and leaves it out itself
            self.optimizer.step()
            self.skipped += 1
        else:
            self.leave_out(step, norm)
        self.optimizer.zero_grad(set_to_none=True)
        return norm, lr

    def losses_of(self, portion: Portion) -> Tensor:
        """Return the mean loss of a portion's items, and after it the terms of the extra losses, which it contains weighed: `columns`."""
        terms: list[Tensor] = []
        latents, items, draws, model = portion.latents, portion.items, portion.draws, self.trainee.model

        def call(x: Tensor | Pack, t: Tensor, asked: Any, target: Tensor, weights: Tensor, counts: Tensor | None) -> Tensor:
            out, found = self.wrapped(x, t, asked, target, weights, portion.pixels, counts)
            terms.extend((x.packing.means(term) if isinstance(x, Pack) else term).mean() for term in found)
            prediction: Tensor = out
            return prediction

        loss = diffusion_loss(model, call, self.schedule, latents, items, draws, self.recipe.objective).mean()
        for spec, term in zip(self.recipe.losses, terms, strict=True):
            loss = loss + spec.weight * term
        return torch.stack([loss, *terms])

    def apart(self, *, final: bool) -> AbstractContextManager[Any]:
        """Keep the gradients of a portion to this process, unless it is the last of its step."""
        if isinstance(self.wrapped, FSDPModule):
            self.wrapped.set_requires_gradient_sync(final)
            return nullcontext()
        return nullcontext() if final else self.accelerator.no_sync(self.wrapped)

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

    def means(self) -> dict[str, float]:
        """Return the mean losses since the last row of the log; NaN if every step was left out."""
        if not self.losses:
            return dict.fromkeys(self.columns, math.nan)
        mean: Any = self.accelerator.reduce(torch.stack(self.losses).mean(0), reduction="mean")
        return dict(zip(self.columns, mean.tolist(), strict=True))

    def checkpoint(self) -> None:
        """Write a checkpoint, with every process' losses since the last row of the log."""
        held: list[list[list[float]]] = [[]] * self.accelerator.num_processes
        if self.losses:
            gathered: Any = self.accelerator.gather(torch.stack(self.losses)[None])
            held = gathered.double().cpu().tolist()
        window = Window(held, self.skipped)
        save_checkpoint(self.out, self.done, self.recipe, self.trainee, self.ema, self.optimizer.optimizer, window, self.accelerator)

    @contextmanager
    def averaged(self) -> Iterator[Model | None]:
        """Lend the model with the averaged weights, in evaluation mode, to the main process; the others get None. All ask for it."""
        model = self.trainee.model
        if self.sharded:  # a model of its own: all shares are gathered, and the shares stay as they are
            averages = {name: whole(average) for name, average in self.ema.average.items()}
            model = build(self.recipe.model, device=self.accelerator.device) if self.main else model
            if self.main:
                model.load_state_dict(averages, strict=False)
            yield model if self.main else None
        elif self.main:
            with self.ema.applied(model.eval()):
                yield model
            model.train()
        else:
            yield None
        self.accelerator.wait_for_everyone()

    def validate(self) -> None:
        """Write the averaged weights' loss on held-out pictures, by noise level."""
        assert self.recipe.validation is not None
        assert self.held_out is not None
        with self.averaged() as model:
            if model is not None:
                losses = by_level(model, self.codec, self.schedule, self.held_out, self.recipe.validation, self.recipe.seed)
                note(self.out / "validation.csv", self.done, losses)

    def draw(self) -> None:
        """Write a grid of samples of the averaged weights."""
        with self.averaged() as model:
            if model is not None:
                drawn = sample(model, num_images=self.recipe.output.samples, seed=self.recipe.seed)
                save_grid(drawn.images, drawn.captions, self.out / "samples" / f"{self.done:08d}.png")
