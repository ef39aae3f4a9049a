# shellcheck shell=bash
# Sourced by scripts that start from nothing: makes .venv with the pinned packages and puts it on PATH.
#   . launch/environment.sh [EXTRA...]     extras of pyproject.toml to install, for example: features dev
# PYTHON names the interpreter to use, instead of the first of python3, python3.13, python3.12 and python3.11 that is
# new enough.

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: Python 3.11 or newer is needed and was not found; install it, or set PYTHON to its path" >&2
    return 1
}

# Each step reports its own failure, since `set -e` may be off where this is sourced on another machine.
make_environment() {
    local extras python wanted started=$SECONDS
    extras=$(IFS=,; echo "$*")
    python=$(find_python) || return 1
    wanted="$(cat pyproject.toml launch/constraints.txt) $("$python" -V) ${extras}"
    if [ "$(cat .venv/installed 2>/dev/null)" != "$wanted" ]; then
        if [ "$(.venv/bin/python -V 2>/dev/null)" != "$("$python" -V)" ]; then rm -rf .venv; fi
        # Python compiles what it imports; pip would compile everything, which takes longer than the rest.
        local installer=pip install=(.venv/bin/python -m pip --disable-pip-version-check --quiet install --no-compile)
        if command -v uv >/dev/null; then installer=uv install=(uv pip install --quiet --python .venv/bin/python); fi
        echo "installing into .venv with $("$python" -V) and $installer${extras:+, for $extras} ..."
        "$python" -m venv .venv || { echo "error: the module venv is missing; on Debian: apt install python3-venv" >&2; return 1; }
        "${install[@]}" -c launch/constraints.txt -e ".${extras:+[$extras]}" || return 1
        echo "$wanted" > .venv/installed
        echo "installed in $((SECONDS - started)) s"
    fi
    PATH="$PWD/.venv/bin:$PATH"
}

make_environment "$@" || return 1

# Large pages for large arrays, which make steps on CPUs faster (glibc only).
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
