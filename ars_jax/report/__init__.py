"""One HTML page for one or several runs: curves, tables and overlays. See `ars_jax.report.page`."""

from ars_jax.report.page import write_report

__all__ = ["write_report"]
