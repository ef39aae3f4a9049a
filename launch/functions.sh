# shellcheck shell=bash
# Sourced by the other scripts. The user's values are passed as arguments, never as parts of a command line that a shell
# parses; where another machine's shell must parse them, `quoted` makes each of them a single word.

# run COMMAND...: runs it or, if dry_run is set, prints it ready to be pasted into a shell.
run() {
    if [ -n "${dry_run:-}" ]; then quoted "$@"; echo; else "$@"; fi
}

# quoted WORD...: prints the words on one line, quoted for a shell.
quoted() {
    local word line=
    for word in "$@"; do
        if [[ "$word" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then line+="$word "; else line+="$(printf '%q' "$word") "; fi
    done
    printf '%s' "${line% }"
}

# usage SCRIPT: prints the comment at its head to stderr and exits with the code of a user error.
usage() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1" >&2
    exit 2
}

# require_name WHAT VALUE: exits unless the value is a valid name of a cloud resource.
require_name() {
    if ! [[ "$2" =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]]; then
        echo "error: $1 is '$2', but it must be lower-case letters, digits and hyphens, with a letter first" >&2
        exit 2
    fi
}
