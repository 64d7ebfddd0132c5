"""What lint takes out of the tables, rule by rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kvperf.hardware import load_gpu
from kvperf.silicon.catalogue import TABLES, tables
from kvperf.silicon.lint import RULES
from kvperf.silicon.tables import STACKS, SYSTEMS, row_count, versions
from kvperf.validate.record import Dropped

# Rules that rule out single rows, of whose share too much would say that the rule is wrong. The others describe how a
# table was measured.
PHYSICAL = ("faster_than_physics", "lone_spike", "not_a_time")


def drops(gpus: Iterable[str] = tuple(SYSTEMS), stacks: Iterable[str] = STACKS) -> Iterator[Dropped]:
    """Whole tables that a rule rejects, then the rows of the tables that are used."""
    for gpu in gpus:
        load_gpu(gpu)
        for stack in stacks:
            yield from _rejected(gpu, stack)
            for family, table in TABLES.items():
                found = tables(family, gpu, stack)
                for rule, reason, rows in found.drops if found else ():
                    if rows:
                        yield Dropped(table, gpu, stack, rule, reason, rows, found.read if found else 0)


def _rejected(gpu: str, stack: str) -> Iterator[Dropped]:
    for rule in RULES:
        for table in rule.tables:
            for version in versions(gpu, table, stack):
                if rule.column is None and rule.applies(gpu, table, stack, version):
                    rows = row_count(gpu, table, stack, version)
                    yield Dropped(f"{table} {version}", gpu, stack, rule.name, rule.reason, rows, rows)
