#!/usr/bin/env bash
# run.sh tests <libarbiter.so>     pytest on the package in this clone
# run.sh install <libarbiter.so>   pip install of this folder into a fresh environment, then docs/python.md's program
# Exits with 77, and says why, where Python lacks what is needed: not tested is not passed.
set -euo pipefail
what=$1
export ARBITER_LIBRARY=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
needed=(numpy)
[[ $what == tests ]] && needed+=(pytest)
[[ $what == install ]] && needed+=(venv ensurepip)

python=
for candidate in ${ARBITER_PYTHON:-} /usr/bin/python3 python3; do
  if "$candidate" -c "import sys, $(IFS=,; printf '%s' "${needed[*]}"); sys.exit(sys.version_info < (3, 9))" 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [[ -z $python ]]; then
  printf 'SKIPPED: no Python of 3.9 or newer here has %s.\n' "${needed[*]}" >&2
  printf '         apt-get install python3-venv python3-numpy python3-pytest, or set ARBITER_PYTHON.\n' >&2
  exit 77
fi

if [[ $what == tests ]]; then
  PYTHONPATH=$here/.. PYTHONDONTWRITEBYTECODE=1 exec "$python" -m pytest -q -rs -p no:cacheprovider "$here"
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
# NumPy is lent from where it is: this must not need the network.
"$python" -c 'import numpy, os; print(os.path.dirname(os.path.dirname(numpy.__file__)))' \
  >"$("$folder/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/lent.pth"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-index "$here/.."
unset ARBITER_LIBRARY PYTHONPATH  # what was installed must do
export ARBITER_CACHE_DIR=$folder/cache
"$python" "$here/snippets.py" "$here/../../docs/python.md" cpu >"$folder/program.py"
cd "$folder"
"$folder/venv/bin/python" program.py | tee output
grep -q '^rank 1 of 2: 3.0$' output
"$folder/venv/bin/python" - <<'END'
import os, sys, arbiter
from arbiter import _library
assert arbiter.__file__.startswith(sys.prefix), arbiter.__file__
assert _library.load()._name.startswith(os.path.dirname(arbiter.__file__)), _library.load()._name
assert os.path.exists(os.path.join(os.path.dirname(arbiter.__file__), "py.typed"))
END
