# shellcheck shell=bash disable=SC2154  # what lib.sh sets
# What the demonstrations share: what they say before they begin, how they make what they need, and how commands and answers
# look. Sourced after lib.sh.

# announce WORDS: what it will install, fetch and compile, and how long that takes on two processors; without that it takes as
# long as WORDS say.
announce() {
    local packages fresh=()
    child "$vm_dir/prepare" missing >"$work/missing"
    child "$top/tests/prepare" --missing deb >>"$work/missing"
    packages=$(xargs <"$work/missing")
    [[ ! $packages ]] || fresh+=("installs these Debian packages here: $packages")
    [[ -x $vhost_root/bin/vhost-device-vsock ]] || fresh+=("compiles the guest's vsock device, vhost-device-vsock of crates.io")
    [[ -d $image && -d $user_mode_root ]] || fresh+=("fetches 200 MB from Debian's archive and makes a guest of them")
    [[ -e ${VM_PACKAGES:-$top/target/deb/made-from} ]] || fresh+=("compiles vsock-bridge with its crates, as a Debian package in target/deb")
    if ((${#fresh[@]})); then
        explain "The first time takes several minutes more than later ones, which take $1. It now"
        printf -- '- %s\n' "${fresh[@]}" "keeps what guests are made of below $cache" | fold -sw 100
    else
        explain "This takes $1."
    fi
    echo
}

# What takes minutes the first time, beside each other.
make_all() {
    local -A making=()
    local pid status
    [[ ${VM_PACKAGES-} ]] || DIST_LEVEL=1 make_one package "$top/packaging/deb"
    make_one device "$vm_dir/prepare" device
    make_one kernel "$vm_dir/prepare" kernel
    make_one guest "$vm_dir/image"
    begin_to_tell 'still making'
    while ((${#making[@]})); do
        status=0
        wait -n -p pid "${!making[@]}" || status=$?
        ((status == 0)) || die "${making[$pid]}: $(cat "$work/${making[$pid]}.log")"
        rm "$work/${making[$pid]}.made"
        unset "making[$pid]"
    done
    end_of_telling
    VM_PACKAGES=${VM_PACKAGES:-$(<"$work/package.out")}
}

# make_one NAME COMMAND…
make_one() {
    local name=$1
    shift
    touch "$work/$name.made"
    "$@" >"$work/$name.out" 2>"$work/$name.log" </dev/null &
    making[$!]=$name
    children+=($!)
}

# begin_to_tell WORDS: what is not made yet, every 15 s, behind these words.
begin_to_tell() {
    tell_progress "$SECONDS" "$1" &
    children+=($!)
}

tell_progress() {
    local made names
    while sleep 15; do
        names=()
        for made in "$work"/*.made; do names+=("$(basename "$made" .made)"); done
        say "$(printf '%3d s: %s %s' $((SECONDS - $1)) "$2" "${names[*]}")"
    done
}

end_of_telling() {
    # shellcheck disable=SC2034  # of end_tree
    local ended=()
    end_tree "${children[-1]}"
    unset 'children[-1]'
}

# ---- what it looks like -------------------------------------------------------------------------------------------

choose_colours() {
    bold='' dim='' green='' blue='' plain=''
    if [[ -t 1 && -z ${NO_COLOR-} && ${TERM-dumb} != dumb ]]; then
        bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' blue=$'\e[34m' plain=$'\e[0m'
    fi
}

title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

explain() { printf '\n%s\n' "$*" | fold -sw 100; }

# shown WHERE COMMAND: the prompt and what was typed.
shown() {
    local colour=$green
    [[ $1 == here ]] || colour=$blue
    printf '  %s%5s$%s %s\n' "$colour" "$1" "$plain" "${2//"$work"/\~}"
}

# Output indented and grey, of lines that were written over the last state; and the end of the demo when a command has not ended
# as it should.
answer() {
    sed "s|$work|~|g; s|.*\r\(.\)|\1|; s|.*|        $dim&$plain|" "$work/answer"
    is_as_expected "$1" || die "that should not have ended so (status $1)"
}

# Set by `refused` for one command. 124 and 125 are no answer of a guest.
expected=success
is_as_expected() { if [[ $expected == success ]]; then (($1 == 0)); else (($1 != 0 && $1 != 124 && $1 != 125)); fi; }

# refused COMMAND…: what it shows has to fail.
refused() {
    local expected=failure
    "$@"
}

here() {
    local status=0
    shown here "$1"
    child env PATH="$programs:$PATH" bash -c "$1" >"$work/answer" 2>&1 </dev/null || status=$?
    answer "$status"
}

# in_machine NAME COMMAND [SECONDS]: a line for the root shell of the guest; the name is what is shown of it.
in_machine() {
    local status=0
    shown "$1" "$2"
    guest "${3:-90}" "$2" >"$work/answer" || status=$?
    answer "$status"
}
