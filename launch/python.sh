# shellcheck shell=bash
# Sourced on a rented machine before environment.sh: if its Python is older than 3.11, as on Cloud TPU images, uv
# installs a newer one for this user.
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    python3 -m pip install --quiet --user uv || return 1
    PATH="$HOME/.local/bin:$PATH"
    uv python install --quiet 3.12 || return 1
    PYTHON=$(uv python find 3.12) || return 1
    export PYTHON
fi
