# What `canasta host add --ssh` runs on the new host, started by cli/src/ssh.rs. $1 is this text itself, for the run as root.
# It is quoted as one word for whatever shell the user has: no single quotes in here, no exclamation marks, no double
# backslashes. It tells what the machine is, then does what it reads: a line with a length, and as many bytes.
# Every line of its own begins with a word that no login message has. Nothing of it comes from a person.
set -u
umask 022
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
LC_ALL=C
export PATH LC_ALL
join=/etc/canasta/join.toml

say() { printf "canasta-ssh: %s\n" "$*"; }
say_lines() { while IFS= read -r line; do say "$1 $line"; done; }
has() { command -v "$1" >/dev/null 2>&1; }

# As root all of it runs once more, and this one is gone.
refused=
if [ "$(id -u)" -ne 0 ]; then
    if has sudo; then
        if refused=$(sudo -n sh -c : 2>&1 </dev/null); then exec sudo -n sh -c "$1" sh "$1"; fi
        say "no-sudo $(printf "%s" "$refused" | tr "\n" " ")"
    else
        say "no-sudo sudo is not installed"
    fi
fi

say hello 1
for file in /etc/os-release /usr/lib/os-release; do
    if [ -r "$file" ]; then
        grep -E "^(ID|ID_LIKE|PRETTY_NAME)=" "$file" | say_lines os
        break
    fi
done
say "machine $(uname -m)"
if has dpkg; then say "dpkg $(dpkg --print-architecture)"; fi
if has rpm; then say "rpm $(uname -m)"; fi
if [ -d /run/systemd/system ]; then say systemd; fi
if has dpkg-query; then
    found=$(dpkg-query -W -f "\${db:Status-Status} \${Version}" canasta-agent 2>/dev/null)
    case $found in "installed "*) say "$found" ;; esac
fi
if has rpm && found=$(rpm -q --qf "installed %{VERSION}-%{RELEASE}" canasta-agent 2>/dev/null); then say "$found"; fi
say_status() {
    status=$(canasta-agent status --output json 2>/dev/null </dev/null) && say "status $status"
}
# One that is installed and does not run may be a member of a fleet all the same: it is asked once it runs.
if say_status; then :; elif has canasta-agent && [ -d /run/systemd/system ]; then
    systemctl start canasta-agent.service >/dev/null 2>&1 </dev/null
    say_status
fi
say ready

scratch=
clean() {
    if [ -n "$scratch" ]; then rm -rf "$scratch"; fi
    rm -f "$join.new"
}
trap clean EXIT
# Of a connection that breaks off, the first that is heard is that nobody takes what is said.
trap "exit 1" HUP INT TERM PIPE

# take SIZE FILE: so many bytes of what comes in.
take() {
    head -c "$1" >"$2" && [ "$(wc -c <"$2")" -eq "$1" ]
}

install_deb() {
    if has apt-get; then
        # It brings what the package needs, and waits for others who install.
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends --allow-downgrades \
            -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confold "$1"
    else
        dpkg --install --force-confold "$1"
    fi
}
install_rpm() { rpm --upgrade --oldpackage --replacepkgs "$1"; }

install_package() {
    scratch=$(mktemp -d) || return 1
    if take "$2" "$scratch/canasta-agent.$1"; then
        if "install_$1" "$scratch/canasta-agent.$1" >"$scratch/log" 2>&1 </dev/null; then
            say ok
            return 0
        fi
        tail -n 20 "$scratch/log" | say_lines log
    fi
    say failed
    return 1
}

# The service reads the file once and deletes it when it is of no more use: then it has joined, or never will with it.
join_fleet() {
    mkdir -p /etc/canasta
    rm -f "$join.new"
    if (umask 077 && take "$1" "$join.new") && mv -f "$join.new" "$join"; then :; else
        say "log $join could not be written"
        say failed
        return 1
    fi
    begin=$(date +%s)
    if why=$(systemctl restart canasta-agent.service 2>&1 </dev/null); then :; else
        rm -f "$join"
        printf "%s\n" "$why" | say_lines log
        say "log canasta-agent.service does not start"
        say failed
        return 1
    fi
    while [ -e "$join" ] && [ "$(date +%s)" -lt $((begin + 30)) ]; do sleep 0.2; done
    say_status
    if [ -e "$join" ]; then say trying; fi
    if has journalctl; then
        journalctl --quiet --unit canasta-agent.service --since "@$begin" --lines 40 --output cat \
            --output-fields MESSAGE,F_ERROR,F_HINT --no-pager 2>/dev/null | say_lines log
    fi
    say ok
}

# rejoin CONTROLLER SIZE: an agent that is a member already takes a new certificate with the token that follows.
rejoin() {
    scratch=$(mktemp -d) || return 1
    if (umask 077 && take "$2" "$scratch/token") &&
        canasta-agent join --controller "$1" --token-file "$scratch/token" >"$scratch/log" 2>&1 </dev/null; then
        rm -f "$scratch/token"
        say_status
        say ok
        return 0
    fi
    rm -f "$scratch/token"
    if [ -e "$scratch/log" ]; then tail -n 20 "$scratch/log" | say_lines log; fi
    say failed
    return 1
}

while read -r what how size; do
    case $what in
    install) install_package "$how" "$size" || exit 1 ;;
    join) join_fleet "$size" || exit 1 ;;
    rejoin) rejoin "$how" "$size" || exit 1 ;;
    *) exit 0 ;;
    esac
done
