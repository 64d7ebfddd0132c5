"""Write what the commands print now into the README's console blocks. A test compares them."""

import contextlib
import io
import re
import shlex
from pathlib import Path

from kvperf.cli import run

README = Path(__file__).parents[1] / "README.md"


def printed(command: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run(shlex.split(command)[1:])
    return out.getvalue()


def shown(block: re.Match[str]) -> str:
    return f"```console\n$ {block[1]}\n{printed(block[1])}```"


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    fresh = re.sub(r"^```console\n\$ (kvperf .*)\n(?:(?!```).*\n)*```", shown, text, flags=re.MULTILINE)
    README.write_text(fresh, encoding="utf-8")
