"""The training loop on accelerate: one process, several, or under `accelerate launch`.

A step's result depends on the weights, the optimiser and (seed, step) alone: batches, noise, times and dropped labels are
drawn from generators seeded by these, for the whole batch, of which each process takes its rows. So a run that is killed
and resumed ends with the weights of an unbroken one.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration
from torch import Tensor

from ditzoo.assemble import Model, build
from ditzoo.errors import DataError, OutputError, TrainingError
from ditzoo.files import writable_folder, write_text
from ditzoo.grid import save_grid
from ditzoo.noise import derived_seed, generator
from ditzoo.sampling import sample
from ditzoo.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from ditzoo.training.data import Order, batches
from ditzoo.training.ema import EMA
from ditzoo.training.log import Log
from ditzoo.training.loss import Draws, diffusion_loss
from ditzoo.training.recipe import Recipe


def train(recipe: Recipe, out: Path, *, resume: bool = False, quiet: bool = False) -> Path:
    """Follow a recipe and return the folder of the finished model (EMA weights), `out/model`.

    With `resume` the run goes on from its last checkpoint, or starts if there is none; without it a folder that holds
    checkpoints is refused.
    """
    writable_folder(out)
    if checkpoints(out) and not resume:
        raise OutputError(f"'{out}' holds a run ({checkpoints(out)[-1].name}); add --resume to go on with it, or choose another --out")
    dataset = recipe.data.build()
    known = recipe.model.prompt.item_classes
    if known is not None and len(dataset.names) > known:
        raise DataError(
            f"data '{recipe.data.kind}' has {len(dataset.names)} classes and prompt.classes is {known}; "
            f"set model.prompt.classes={len(dataset.names)}"
        )
    AcceleratorState._reset_state()  # an earlier run of this process may have had another precision
    accelerator = Accelerator(
        mixed_precision=recipe.length.mixed_precision, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=False)
    )
    share = recipe.length.batch_size // recipe.length.accumulate
    if share % accelerator.num_processes:
        raise TrainingError(
            f"batch_size={recipe.length.batch_size} in {recipe.length.accumulate} portions does not divide among "
            f"{accelerator.num_processes} processes; choose a multiple of {accelerator.num_processes * recipe.length.accumulate}"
        )
    module = build(recipe.model, seed=derived_seed(recipe.seed, "init")).train()
    settings = recipe.optimizer
    optimizer: Any = torch.optim.AdamW(
        module.parameters(), lr=settings.lr, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay
    )
    model, optimizer = accelerator.prepare(module, optimizer)
    module = accelerator.unwrap_model(model)
    ema = EMA(module, recipe.length.ema, warmup=recipe.length.ema_warmup)
    last = checkpoints(out)[-1:]
    first = load_checkpoint(last[0], recipe, module, ema, optimizer.optimizer) if last else 0
    if accelerator.is_main_process:
        write_text(out / "recipe.json", recipe.model_dump_json(indent=2) + "\n")
    run = _Run(recipe, out, accelerator, model, module, optimizer, ema)
    run.follow(dataset, first, quiet=quiet or not accelerator.is_main_process)
    if accelerator.is_main_process:
        with ema.applied(module):
            module.save_pretrained(out / "model")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return out / "model"


class _Run:
    """The parts of one run, and its steps."""

    def __init__(self, recipe: Recipe, out: Path, accelerator: Accelerator, model: Any, module: Model, optimizer: Any, ema: EMA) -> None:
        self.recipe, self.out, self.accelerator = recipe, out, accelerator
        self.model, self.module, self.optimizer, self.ema = model, module, optimizer, ema
        self.schedule, self.codec = recipe.model.schedule.build(), recipe.model.codec.build()
        self.portion = recipe.length.batch_size // accelerator.num_processes

    def follow(self, dataset: Any, first: int, *, quiet: bool) -> None:
        length, output = self.recipe.length, self.recipe.output
        lo = self.accelerator.process_index * self.portion
        order = Order(len(dataset), length.batch_size, self.recipe.seed, first, length.steps, lo, lo + self.portion)
        main = self.accelerator.is_main_process
        with Log(self.out, step=first, steps=length.steps, tensorboard=output.tensorboard, quiet=quiet) if main else nullcontext() as log:
            losses: list[Tensor] = []
            started = time.perf_counter()
            for step, (pixels, items) in enumerate(batches(dataset, order, length.workers), first):
                loss, norm, lr = self.step(step, pixels, items)
                losses.append(loss)
                done = step + 1
                if log is not None:
                    log.bar.update()
                if done % output.log_every == 0 or done == length.steps:
                    mean = self._mean(losses, step)
                    elapsed = time.perf_counter() - started
                    if log is not None:
                        log.seconds += elapsed
                        log.write(
                            done,
                            {
                                "epoch": done * length.batch_size / len(dataset),
                                "loss": mean,
                                "lr": lr,
                                "grad_norm": float(norm),
                                "images_per_second": len(losses) * length.batch_size / elapsed,
                                "seconds": log.seconds,
                            },
                        )
                    losses, started = [], time.perf_counter()
                if done % output.checkpoint_every == 0 or done == length.steps:
                    if losses:
                        self._mean(losses, step)  # a checkpoint is sound, or there is none
                    if main:
                        save_checkpoint(self.out, done, self.recipe, self.module, self.ema, self.optimizer.optimizer)
                if main and output.sample_every and (done % output.sample_every == 0 or done == length.steps):
                    self.draw(done)

    def step(self, step: int, pixels: Tensor, items: list[Any]) -> tuple[Tensor, Tensor, float]:
        """Make one optimiser step from this process' rows; return loss, gradient norm and learning rate."""
        recipe, accelerator = self.recipe, self.accelerator
        lr = recipe.optimizer.lr * recipe.optimizer.factor(step, recipe.length.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        latents = self.codec.encode(pixels.to(accelerator.device))
        draws = self._draws(step, latents)
        portions = recipe.length.accumulate
        rows = len(latents) // portions
        total = latents.new_zeros(())
        for portion in range(portions):
            part = slice(portion * rows, (portion + 1) * rows)
            final = portion == portions - 1
            with nullcontext() if final else accelerator.no_sync(self.model), accelerator.autocast():
                own = draws.rows(part, latents.device)
                loss = diffusion_loss(self.module, self.model, self.schedule, latents[part], items[part], own).mean() / portions
            accelerator.backward(loss)
            total += loss.detach()
        norm = accelerator.clip_grad_norm_(self.model.parameters(), recipe.optimizer.clip_norm or float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.module, step + 1)
        return total, norm, lr

    def _draws(self, step: int, latents: Tensor) -> Draws:
        """Draw for the whole batch and take this process' rows, so that the number of processes changes nothing."""
        whole = latents.new_empty(self.recipe.length.batch_size, *latents.shape[1:], device="cpu")
        drawn = Draws.of(whole, generator(self.recipe.seed, "draws", step))
        lo = self.accelerator.process_index * self.portion
        return drawn.rows(slice(lo, lo + self.portion), latents.device)

    def _mean(self, losses: list[Tensor], step: int) -> float:
        mean = float(self.accelerator.reduce(torch.stack(losses).mean(), reduction="mean"))
        if not math.isfinite(mean):
            raise TrainingError(
                f"the loss is {mean} at step {step + 1}; the last checkpoint is sound. Lower optimizer.lr={self.recipe.optimizer.lr:g}, "
                f"lengthen optimizer.warmup, or train without mixed precision, and resume"
            )
        return mean

    def draw(self, step: int) -> None:
        """Write a grid of samples of the averaged weights."""
        self.module.eval()
        with self.ema.applied(self.module):
            drawn = sample(self.module, num_images=self.recipe.output.samples, seed=self.recipe.seed)
        self.module.train()
        save_grid(drawn.images, drawn.captions, self.out / "samples" / f"{step:08d}.png")
