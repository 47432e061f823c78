# shellcheck shell=bash
# Reads files and commands from the documentation, so that a test runs what people read.

# block FILE LABEL [HEADING]: the indented lines below each line of FILE that ends with LABEL, or only those of the
# section under HEADING.
block() {
    awk -v label="$2" -v heading="${3-}" '
        /^##/ && heading { elsewhere = $0 != heading }
        elsewhere { next }
        /^    / { if (on) { printf "%s", gap; print substr($0, 5); gap = ""; inside = found = 1 } next }
        /^$/ { if (inside) gap = gap "\n"; next }
        {
            gap = ""
            inside = 0
            start = length($0) - length(label)
            on = start >= 0 && substr($0, start + 1) == label
        }
        END { exit !found }' elsewhere="${3:+1}" "$1" || { echo "no lines below '$2' in $1" >&2; return 1; }
}
