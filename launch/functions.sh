# shellcheck shell=bash
# Sourced by the scripts here. Values of the user are arguments, never parts of a command line that a shell reads; where
# another machine's shell must read them, `quoted` makes each of them one word again.

# run COMMAND...: runs it or, when dry_run is set, prints it as it could be pasted.
run() {
    if [ -n "${dry_run:-}" ]; then quoted "$@"; echo; else "$@"; fi
}

# quoted WORD...: the words on one line, for a shell.
quoted() {
    local word line=
    for word in "$@"; do
        if [[ "$word" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then line+="$word "; else line+="$(printf '%q' "$word") "; fi
    done
    printf '%s' "${line% }"
}

# usage SCRIPT: the comment at its head, as a message; ends with the exit code of a user's error.
usage() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1" >&2
    exit 2
}

# require_name WHAT VALUE: ends unless the value can be the name of a cloud resource.
require_name() {
    if ! [[ "$2" =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]]; then
        echo "error: $1 is '$2': give small letters, digits and hyphens, a letter first" >&2
        exit 2
    fi
}
