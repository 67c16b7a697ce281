"""``minipipe gc``: remove what nothing needs. The plan comes first; runs go only by a rule, and after a yes."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from minipipe import settings
from minipipe.cli import output
from minipipe.cli.meter import Meter
from minipipe.cli.output import Output
from minipipe.cli.status import span
from minipipe.engine.worker import sweep
from minipipe.store import collect, upkeep, workers
from minipipe.store.retention import Rule


@click.command()
@click.option("--keep-runs", type=click.IntRange(0), metavar="N", help="Remove runs, but the newest N stay.")
@click.option("--older-than", metavar="SPAN", help="Remove runs that ended longer ago than SPAN, such as 30d.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output.pass_output
def gc(out: Output, keep_runs: int | None, older_than: str | None, dry_run: bool, yes: bool) -> None:
    """Remove what nothing needs, and give its room back.

    Without a rule only litter goes: bytes that no run names, files of lost attempts, locks of the dead. With --keep-runs or
    --older-than (with both: what both name) whole runs go; published ones stay, and so does what a run that stays still needs. Safe beside
    working workers, and on a full disk.

    \b
    Examples:
      minipipe gc --dry-run
      minipipe gc --keep-runs 20
      minipipe gc --older-than 30d --yes
    """
    rule = _rule(keep_runs, older_than)
    with upkeep.room(settings.store_home(out.home)):
        store = out.store_or_none()
        if store is None:
            if out.format == "json":
                output.print_json({"runs": [], "deleted": False})
            return
        planned = upkeep.plan(store, rule)
        act = not dry_run and (not planned.going.runs or yes or _agreed(out, planned))
        done = None
        if act:
            found = settings.load_settings()
            workers.reap(store, found.max_crashes, sweep)  # the locks of the dead are litter after that
            with Meter("collecting") as meter:
                done = upkeep.carry_out(store, planned, meter.tell, int(found.log_limit_mb * 1_000_000))
        _report(out, rule, planned, done)
    if done is not None and not done.ballast:
        output.note("the disk is still too full for the store's reserve (4 MB)", "warning")


def _rule(keep_runs: int | None, older_than: str | None) -> Rule:
    found = settings.load_settings(keep_runs=keep_runs, older_than=older_than)
    age = span(found.older_than, "--older-than 30d") if found.older_than else None
    return Rule(found.keep_runs if found.keep_runs >= 0 else None, age)


def _agreed(out: Output, planned: upkeep.Plan) -> bool:
    """Ask on a terminal; elsewhere nobody can say yes."""
    if out.json or not output.is_terminal(sys.stdin) or not output.is_terminal(sys.stderr):
        return False
    return click.confirm(f"{_going(planned)}. Delete?", err=True)


def _going(planned: upkeep.Plan) -> str:
    going = planned.going
    oldest = time.strftime("%Y-%m-%d", time.localtime(going.runs[-1].ended_at)) if going.runs else ""
    parts = [_count(len(going.runs), "run") + (f" (oldest {oldest})" if oldest else "")]
    if planned.logs:
        parts.append(_count(planned.logs, "log"))
    if going.blobs:
        parts.append(f"{output.size(going.blob_bytes)} of blobs")
    stay = [_count(going.kept, "run") + (f", {going.published} of them published" if going.published else "")]
    if going.needed:
        stay.append(f"{going.needed} of them because others need them")
    verb = "goes" if len(parts) == 1 and len(going.runs) == 1 else "go"
    return f"{', '.join(parts)} {verb}; {', '.join(stay)} {'stays' if going.kept == 1 else 'stay'}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


_SINGULAR = {"blobs": "blob", "logs": "log", "temporary files": "temporary file", "lock files": "lock file", "rows": "row"}


def _listed(freed: collect.Freed) -> str:
    shown = [
        f"{number} {_SINGULAR.get(kind, kind.removesuffix('s')) if number == 1 else kind}"
        for kind, number in freed.number.items()
        if number and kind != "rows"
    ]
    return ", ".join(shown)


def _report(out: Output, rule: Rule, planned: upkeep.Plan, done: upkeep.Done | None) -> None:
    going = planned.going
    if out.json:
        output.print_json(_document(rule, planned, done), line=out.format == "jsonl")
        return
    if out.quiet:
        for uid in done.runs if done is not None else [run.uid for run in going.runs]:
            output.write(uid)
        return
    if done is None:
        litter = _listed(planned.litter)
        if rule.given:
            output.write(_going(planned))
        output.write(f"litter: {litter or 'none'}" + (f", {output.size(planned.litter.total)}" if litter else ""))
        if going.runs:
            output.note("nothing was deleted: minipipe gc --yes deletes", kind="")
        return
    went = [_count(len(done.runs), "run")] if done.runs else []
    went += [_listed(done.freed)] if _listed(done.freed) else []
    if done.database:
        went.append(f"{output.size(done.database)} of the database")
    if not went:
        output.write("nothing to collect")
        return
    output.write(f"collected {', '.join(went)}; freed {output.size(done.freed.total + done.database)}")


def _document(rule: Rule, planned: upkeep.Plan, done: upkeep.Done | None) -> dict[str, Any]:
    going = planned.going
    document: dict[str, Any] = {
        "keep_runs": rule.keep_runs,
        "older_than_s": rule.older_than_s,
        "runs": list(done.runs) if done is not None else [run.uid for run in going.runs],
        "kept": going.kept,
        "published": going.published,
        "needed": going.needed,
        "logs": planned.logs,
        "log_bytes": planned.log_bytes,
        "blobs": going.blobs,
        "blob_bytes": going.blob_bytes,
        "litter": dict(planned.litter.number),
        "litter_bytes": planned.litter.total,
        "deleted": done is not None,
    }
    if done is not None:
        document |= {"freed": dict(done.freed.number), "freed_bytes": done.freed.total, "database_bytes": done.database}
    return document
