"""The real run folder that is audited is also the one that is reported."""

from __future__ import annotations

from tests.unit.audit.conftest import made, run

__all__ = ["made", "run"]
