"""Conformance checks for plugin authors: what every part of a slot has to hold, run on tiny examples and exact oracles.

`check_package(zoo, "my-plugin")` checks all that a plugin registers; `ditzoo check my-plugin` prints it, and in a test of the package

    from ditzoo.testing import assert_conforms

    def test_it_conforms():
        assert_conforms("my-plugin")
"""

from __future__ import annotations

from ditzoo.testing.findings import Finding
from ditzoo.testing.package import assert_conforms, check_package, check_part

__all__ = ["Finding", "assert_conforms", "check_package", "check_part"]
