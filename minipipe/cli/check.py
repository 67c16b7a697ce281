"""``minipipe check``: would a script run on a real ClearML agent?"""

from __future__ import annotations

import dataclasses
import tokenize
from collections.abc import Sequence
from pathlib import Path

import click

from minipipe import errors, portable, portable_names, portable_uses
from minipipe.cli import output


@click.command()
@click.argument("scripts", nargs=-1, required=True, metavar="SCRIPT...")
@click.option("--select", "wanted", multiple=True, metavar="CODE", help="Only these codes: MP101, or MP101,MP103.")
@click.option("--ignore", "unwanted", multiple=True, metavar="CODE", help="All but these codes.")
@output.pass_output
def check(out: output.Output, scripts: tuple[str, ...], wanted: tuple[str, ...], unwanted: tuple[str, ...]) -> int:
    """Say what would fail on a real ClearML agent.

    \b
    Examples:
      minipipe check flow.py                   all findings
      minipipe check *.py --ignore MP102       some codes are no concern
      minipipe check flow.py --json            for programs

    Only the text is read: nothing is executed or imported. A comment silences its line: # minipipe: ok MP101
    """
    chosen, left_out = _codes(wanted) or set(portable.CODES), _codes(unwanted)
    found = [
        finding for script in scripts for finding in _findings(script) if finding.code in chosen and finding.code not in left_out
    ]
    bad = sum(not finding.remark for finding in found)
    if out.json:
        output.print_json({"findings": [dataclasses.asdict(finding) for finding in found], "count": bad}, out.format == "jsonl")
    else:
        for one in found:
            word = "remark: " if one.remark else ""
            output.write(output.escape(f"{one.file}:{one.line}:{one.column}: {one.code} {word}{one.message}"))
        if not bad:
            output.note("nothing found that would fail on an agent")
    return 1 if bad else 0


def _codes(given: Sequence[str]) -> set[str]:
    codes = {code.strip().upper() for text in given for code in text.split(",") if code.strip()}
    unknown = sorted(codes - portable.CODES.keys())
    if unknown:
        raise errors.UsageError(f"{unknown[0]!r} is no code", f"known are {', '.join(portable.CODES)}")
    return codes


def _findings(name: str) -> list[portable.Finding]:
    path = Path(name)
    if path.is_dir():
        raise errors.UsageError(f"{name} is a folder", hint=f"minipipe check {name.rstrip('/')}/*.py")
    try:
        with tokenize.open(path) as file:
            source = file.read()
    except FileNotFoundError:
        raise errors.NotFound(f"there is no script {name}") from None
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise errors.UsageError(f"{name} cannot be read", str(error)) from None
    script = portable.read(source, name, path.parent)
    quiet = portable.silenced(source)
    found = sorted({*portable_names.check(script), *portable_uses.check(script)})
    return [
        one for one in found if one.line not in quiet or (quiet[one.line] is not None and one.code not in (quiet[one.line] or ()))
    ]
