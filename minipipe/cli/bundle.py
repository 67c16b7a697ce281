"""``minipipe export`` and ``import``: runs as one file."""

from __future__ import annotations

from pathlib import Path

import click

from minipipe import __version__
from minipipe.cli import files, output
from minipipe.cli.meter import Meter
from minipipe.cli.output import Output
from minipipe.store import bundle, bundle_reading, lookup, unbundle


@click.command()
@click.argument("names", metavar="RUN...", nargs=-1, required=True)
@click.option("-o", "--output", "path", metavar="F.zip", help="Where to; default minipipe-NAME-ID.zip here.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@output.pass_output
def export(out: Output, names: tuple[str, ...], path: str | None, force: bool) -> None:
    """Write runs to one file that another store can take in.

    It holds their steps, parameters, metrics, plots, models, artifacts, logs and captured code; runs that served their cached
    steps come along. A script's own task goes as a run does. Look at it with any zip program.

    \b
    Examples:
      minipipe export @last
      minipipe export dry-lake calm-otter -o both.zip
    """
    store = out.open_store()
    runs = [lookup.find_task(store, name) for name in names]
    target = Path(path if path is not None else files.name_of(runs[0], "zip"))
    with Meter("exporting") as meter:
        done = bundle.export(store, [run["id"] for run in runs], target, force, meter.tell, __version__)
    if out.json:
        document = {
            "path": str(done.path),
            "runs": list(done.runs),
            "along": list(done.along),
            "bytes": done.size,
            "pickles": done.pickles,
        }
        output.print_json(document, line=out.format == "jsonl")
        return
    output.write(output.escape(done.path))
    if out.quiet:
        return
    if done.along:
        several = len(done.along) > 1
        them = ", ".join(uid[:8] for uid in done.along[:5]) + (" …" if len(done.along) > 5 else "")
        output.note(f"{them} came along: cached steps were served from {'them' if several else 'it'}")
    if done.pickles:
        many = "values" if done.pickles > 1 else "value"
        output.note(f"{done.pickles} pickled {many}: whoever imports it has to say --trust-pickle")


@click.command("import")
@click.argument("path", metavar="F.zip")
@click.option("--trust-pickle", is_flag=True, help="Accept values that run code when they are loaded.")
@output.pass_output
def import_(out: Output, path: str, trust_pickle: bool) -> None:
    """Take in the runs of a file that export wrote.

    All of it or nothing; a run that is here already stays as it is. Loading a pickled value runs code of whoever wrote it, so a
    file that has some is refused without --trust-pickle. What came without it never serves the cache.

    \b
    Examples:
      minipipe import minipipe-dry-lake-8b0e44d1.zip
      minipipe import from-a-colleague.zip --trust-pickle
    """
    with Meter("importing") as meter:
        content = bundle_reading.read(Path(path), trust_pickle, meter.tell)  # first: what is refused makes no store
        runs = unbundle.take_in(out.open_store(create=True), content, meter.tell)
    if out.json:
        documents = [{"id": run.uid, "name": run.name, "new": run.new} for run in runs]
        output.print_json({"runs": documents}, line=out.format == "jsonl")
        return
    for run in runs:
        if out.quiet:
            output.write(run.uid)
        else:
            what = "imported" if run.new else "already here, nothing changed"
            output.write(f"{run.uid[:8]} {output.escape(run.name)}, {what}")
