"""One check, its outcome, and the failures that a part declares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

Checks = Mapping[str, Callable[[], None]]


@dataclass(frozen=True)
class Finding:
    """`part` is `slot kind`, with its example's name; `told` says what went wrong, or why a failure is expected."""

    part: str
    check: str
    ok: bool
    told: str = ""


class NotApplicableError(Exception):
    """A check that says nothing of this part; its text says why."""


def outcomes(part: str, checks: Checks, expected: Mapping[str, str]) -> Iterator[Finding]:
    """Run checks, each an argument-less function that raises where it fails.

    A failure that the part declares (`expected_failures`, by the check's name, with the reason) is in order; one that is declared
    and does not come is not, and neither is a declaration of a check that there is none of.
    """
    for name in expected:
        if name not in checks:
            yield Finding(
                part, name, ok=False, told=f"declared as an expected failure, and no such check is run (checks: {', '.join(checks)})"
            )
    for name, check in checks.items():
        told = ""
        try:
            check()
        except NotApplicableError:
            continue
        except Exception as error:  # of whatever a stranger's part does: told, and the next check goes on
            told = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            told = told or "failed"
        if name in expected:
            yield Finding(part, name, ok=bool(told), told=f"expected: {expected[name]}" if told else "declared to fail, and it holds")
        else:
            yield Finding(part, name, ok=not told, told=told)


def hold(condition: object, told: str) -> None:
    """Raise `AssertionError` with a sentence unless the condition holds."""
    if not condition:
        raise AssertionError(told)
