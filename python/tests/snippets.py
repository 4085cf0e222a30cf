"""Prints the Python program of a page whose first line is `# <name>`:  snippets.py <page.md>
<name>"""

import re
import sys
from pathlib import Path


def snippet(page, name):
    found = [
        code
        for code in re.findall(
            r"^```python\n(.*?)^```$", Path(page).read_text(encoding="utf-8"), re.M | re.S
        )
        if code.startswith(f"# {name}")
    ]
    if len(found) != 1:
        raise SystemExit(f"{page} has {len(found)} programs that begin with '# {name}'; expected 1")
    return found[0]


if __name__ == "__main__":
    print(snippet(*sys.argv[1:]), end="")
