"""Specs of the runtimes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator

from ditzoo.specs import RuntimeSlot, RuntimeSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Runtime


class EagerSpec(RuntimeSpec):
    """The modules as they are, one operation of torch after another."""

    kind: Literal["eager"] = "eager"

    def build(self) -> Runtime:
        from ditzoo_runtime.eager import Eager

        return Eager()


class FusedSpec(RuntimeSpec):
    """Torch's own products, in fewer operations: queries, keys and values as one, GELU in place. Elsewhere than on a CPU it is eager."""

    kind: Literal["fused"] = "fused"

    def build(self) -> Runtime:
        from ditzoo_runtime.fused import Way
        from ditzoo_runtime.onednn import FewerOperations

        return FewerOperations(Way())


class OneDNNSpec(RuntimeSpec):
    """As `fused`, with products on weights that oneDNN has packed for this CPU; `gelu_within` has it do GELU too.

    On another device, or without the operation, the modules stay as they are.
    """

    kind: Literal["onednn"] = "onednn"
    gelu_within: bool = False

    def build(self) -> Runtime:
        from ditzoo_runtime.fused import Way
        from ditzoo_runtime.onednn import FewerOperations

        return FewerOperations(Way(packed=True, gelu_within=self.gelu_within))


class CompileSpec(RuntimeSpec):
    """Blocks by `torch.compile`: blocks of a kind share one graph, whatever their number, the batch and the step.

    The first call takes the seconds that compiling takes.
    """

    kind: Literal["compile"] = "compile"

    def build(self) -> Runtime:
        from ditzoo_runtime.compiled import Compile

        return Compile()


class Int8DynamicSpec(RuntimeSpec):
    """Attention's and MLP's linear layers in 8 bits: weights by output channel, activations by picture as they come. CPUs alone."""

    kind: Literal["int8-dynamic"] = "int8-dynamic"
    lossy: ClassVar[str | None] = "the linear layers of attention and MLP are computed in 8-bit integers"

    def build(self) -> Runtime:
        from ditzoo_runtime.quantized import Int8Dynamic

        return Int8Dynamic()


class AroundSpec(RuntimeSpec):
    """What another runtime prepares, shared out: it loses what that one loses."""

    inner: RuntimeSlot

    @property
    def lossy(self) -> str | None:  # type: ignore[override]
        return self.inner.lossy


class ByRowsSpec(AroundSpec):
    """The rows of a batch shared out among a CPU's cores, a thread each, under another runtime: `inner`.

    Where there are fewer rows than cores, or little to do for each, they are run together.
    """

    kind: Literal["by-rows"] = "by-rows"

    def build(self) -> Runtime:
        from ditzoo_runtime.rows import ByRows

        return ByRows(self.inner.build())

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {"inner": "fused"}}


class ByTokensSpec(AroundSpec):
    """The tokens of each row shared out among the processes that a launcher started, under another runtime: `inner`. For long clips.

    Every process draws the same samples, and has a part of the activations. Where blocks do not allow it, it is refused.
    """

    kind: Literal["by-tokens"] = "by-tokens"
    inner: RuntimeSlot = FusedSpec()

    @model_validator(mode="after")
    def _in_turn(self) -> ByTokensSpec:
        if self.inner.kind in ("by-tokens", "by-rows", "auto"):
            raise ValueError(
                f"inner='{self.inner.kind}' may share rows out among threads, whose exchanges would meet; take fused, onednn or eager"
            )
        return self

    def build(self) -> Runtime:
        from ditzoo_runtime.tokens import ByTokens

        return ByTokens(self.inner.build())


class GraphsSpec(AroundSpec):
    """The kernels of a run of blocks recorded as a CUDA graph and sent at once, under another runtime: `inner`. For GPUs.

    The second time that a size and a batch come they are recorded. Elsewhere than on a CUDA device it is what is inside.
    """

    kind: Literal["cuda-graphs"] = "cuda-graphs"
    inner: RuntimeSlot = EagerSpec()

    @model_validator(mode="after")
    def _recordable(self) -> GraphsSpec:
        if self.inner.kind in ("by-tokens", "by-rows", "cuda-graphs"):
            raise ValueError(f"inner='{self.inner.kind}' cannot be recorded; take eager or compile")
        return self

    def build(self) -> Runtime:
        from ditzoo_runtime.graphs import Graphs

        return Graphs(self.inner.build())


class AutoSpec(RuntimeSpec):
    """The exact runtime that is measured to be the fastest here, of those that need no compiling: once a machine and width of layer."""

    kind: Literal["auto"] = "auto"
    default: ClassVar[bool] = True

    def build(self) -> Runtime:
        from ditzoo_runtime.choice import Auto

        return Auto()
