"""What a recipe says of items of several sizes: packed in rows of so many tokens, or a step of each size. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ditzoo.specs import DatasetSpec, Positive, Spec, shape

if TYPE_CHECKING:
    from ditzoo.training.recipe import Recipe


class Mixing(Spec):
    """How items of several sizes are trained on together.

    `packed`: rows of whole items, one after another, of `tokens` tokens at most; a step has `length.batch_size` rows, and every item of it
    weighs the same. `one-size`: the items of a step are `length.batch_size` of one size; or, where `tokens` is said, as many times that as
    have no more tokens together.
    """

    kind: Literal["packed", "one-size"]
    tokens: Positive | None = None

    def problem(self, recipe: Recipe) -> str | None:
        """Say why this recipe's items cannot be mixed so and what to do, or return None if they can."""
        return {"packed": self._packed, "one-size": self._one_size}[self.kind](recipe)

    def _one_size(self, recipe: Recipe) -> str | None:
        most, size = _largest(recipe)
        if self.tokens is not None and self.tokens < most * recipe.length.batch_size:
            return (
                f"mixing.tokens is {self.tokens}, and length.batch_size={recipe.length.batch_size} items of the largest size, "
                f"{shape(size)}, have {most * recipe.length.batch_size}; set it to that at least, or lower length.batch_size"
            )
        return None

    def _packed(self, recipe: Recipe) -> str | None:
        model = recipe.model
        for part in (model.backbone, model.conditioning, *recipe.losses):
            if "packs" not in part.provides_now:
                return f"{part.slot} '{part.kind}' takes batches of one size alone, no packed rows; set mixing={{kind='one-size'}}"
        if recipe.length.accumulate > 1:
            return (
                f"each packed row is a portion of its own, and length.accumulate is {recipe.length.accumulate}; "
                f"set it to 1, and lower mixing.tokens for less memory"
            )
        most, size = _largest(recipe)
        if self.tokens is None or self.tokens < most:
            told = "is missing" if self.tokens is None else f"is {self.tokens}"
            return f"mixing.tokens {told}, and the largest item, {shape(size)}, has {most}; set mixing.tokens={4 * most}, say"
        return None


def tokens_of(recipe: Recipe, size: tuple[int, ...]) -> int:
    """Return how many tokens an item of a size (of pixels) has."""
    return recipe.model.backbone.tokens_of(recipe.model.codec.latent_size(size))


def _largest(recipe: Recipe) -> tuple[int, tuple[int, ...]]:
    return max((tokens_of(recipe, size), size) for size in recipe.data.item_sizes)


def unmixed(name: str, data: DatasetSpec) -> str | None:
    """Say that data has items of several sizes where batches have one, or return None if it has not."""
    sizes = sorted(data.item_sizes)
    if len(sizes) == 1:
        return None
    return f"{name} '{data.kind}' has items of {len(sizes)} sizes, from {shape(sizes[0])} to {shape(sizes[-1])}, and a batch has one"
