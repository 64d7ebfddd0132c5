"""Which layout, batch and formats serve a load within its targets: all evaluated, the best kept, the rest counted."""

from kvperf.plan.load import checked_load
from kvperf.plan.record import Load, Plan, Rejected, Serving
from kvperf.plan.search import plan

__all__ = ["Load", "Plan", "Rejected", "Serving", "checked_load", "plan"]
