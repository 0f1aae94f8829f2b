# Sourced by the scripts of this folder: goes to the root of the repository; use_environment makes .venv ready.
# shellcheck shell=bash

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Prints a Python that is new enough and can make virtual environments.
find_python() {
  local candidate
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

make_venv() {
  local python
  rm -rf .venv
  if python=$(find_python); then
    "$python" -m venv .venv
  elif command -v uv >/dev/null; then
    uv venv --quiet --python '>=3.11' .venv
  else
    echo "No Python 3.11 or newer with its venv module was found (and no uv)." >&2
    echo "Install one, on Debian or Ubuntu: apt install python3 python3-venv" >&2
    return 1
  fi
}

# install_into_venv [GROUP]: this package, editable, and a dependency group of pyproject.toml.
install_into_venv() {
  local wanted=(--editable .)
  if [[ -n "${1:-}" ]]; then wanted+=(--group "$1"); fi
  if [[ ! -x .venv/bin/pip ]]; then
    uv pip install --quiet --python .venv/bin/python "${wanted[@]}"
    return
  fi
  # pip knows dependency groups since 25.1.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "${wanted[@]}"
}

# use_environment [GROUP]: makes .venv and installs, unless that was done since pyproject.toml changed; activates it.
use_environment() {
  local mark=".venv/installed-${1:-alone}" checksum
  checksum=$(cksum <pyproject.toml)
  if ! .venv/bin/python -c '' 2>/dev/null; then make_venv; fi
  if [[ "$(cat "$mark" 2>/dev/null)" != "$checksum" ]]; then
    echo "Installing into .venv with $(.venv/bin/python --version), once; this takes about half a minute." >&2
    install_into_venv "${1:-}"
    echo "$checksum" >"$mark"
  fi
  export VIRTUAL_ENV="$PWD/.venv" PATH="$PWD/.venv/bin:$PATH"
}
