# shellcheck shell=bash
# What the cases that run docs/recipes share. Sourced by lib.sh; $page is the recipe of the case.

# In front of the commands of the documentation. The cases are root. They start what would be enabled: "enable" reloads
# systemd, which takes seconds in an emulated guest, and 23-quick-start shows it.
sudo() {
    case "$*" in
    'systemctl enable --now '*) systemctl start "${@:4}" ;;
    'systemctl disable --now '*) systemctl stop "${@:4}" ;;
    '-u '*) runuser --user "$2" -- "${@:3}" ;;
    *) "$@" ;;
    esac
}

# follow LABEL [HEADING [SED]]: runs commands of $page, a recipe, after a change to their text.
follow() {
    local commands
    commands=$(block "/vm/recipes/$page" "$1" "${2-}")
    eval "$(sed "${3-}" <<<"$commands")"
}

# place PATH [SED]: writes a file of $page, for this case, after a change to its text.
place() {
    mkdir -p "$(dirname "$1")"
    at_end "rm -f '$1'"
    block "/vm/recipes/$page" "\`$1\`:" | sed "${2-}" >"$1"
}

# postgresql: the server with the role and the database of its recipe, reached by the bridge on vsock port 5432.
postgresql() {
    local rules page=postgresql.md
    rules=$(echo /etc/postgresql/*/main/pg_hba.conf)
    cp -p "$rules" /tmp/rules
    at_end "cp -p /tmp/rules $rules"
    at_end 'systemctl stop vsock-bridge@5432.{socket,service} postgresql'
    systemctl start postgresql
    wait_for 60 test -S /run/postgresql/.s.PGSQL.5432
    at_end "sudo -u postgres psql -c 'drop database app' -c 'drop role app'"
    place /etc/vsock-bridge/vsock-bridge@5432.conf
    follow 'In the guest:'
    export PGPASSWORD=secret
}
