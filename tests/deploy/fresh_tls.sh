#!/bin/sh
# On a fresh Debian that is booted, follow README's sections INSTALL and
# ENABLE AND ENCRYPT, and fetch a mail over TLS from another network.
#
# usage: fresh_tls.sh [-r release] [-t tar] folder
#
# As root.  folder, release and tar: see fresh.sh.  The system is booted in
# namespaces: its init is systemd, and its network has one cable, to the
# client's.

set -eu

usage() {
	echo "usage: $0 [-r release] [-t tar] folder" >&2
	exit 64
}

release='' tar=''
while getopts r:t: option; do
	case $option in
	r) release=$OPTARG ;;
	t) tar=$OPTARG ;;
	*) usage ;;
	esac
done
shift $((OPTIND - 1))
[ $# = 1 ] || usage
root=$1
[ ! -e "$root" ] || {
	echo "$root is there already, and so not fresh" >&2
	exit 1
}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
init='' client=''
mkdir "$work/cgroup"
trap cleanup EXIT

cleanup() {
	# shellcheck disable=SC2086	# one of them may not be there yet
	[ -z "$init$client" ] || kill -KILL $init $client
	wait
	mount -t cgroup2 none "$work/cgroup"
	# The last of its processes takes a moment to end.
	tries=0
	while [ -d "$work/cgroup/pop3d-fresh" ] && [ $((tries += 1)) -lt 60 ]
	do
		find "$work/cgroup/pop3d-fresh" -depth -type d \
		    -exec rmdir {} + 2>/dev/null || sleep 1
	done
	umount "$work/cgroup"
	rm -rf --one-file-system "$work"
}

# Lines of README that are indented, after the first line that matches.
block() {
	awk -v intro="$1" 'found && /^\t/ { print substr($0, 2); shown = 1 }
	    shown && !/^\t/ { exit }
	    $0 ~ intro { found = 1 }' "$here/../../README" >"$work/block"
	[ -s "$work/block" ] || {
		echo "README has no lines after $1" >&2
		exit 1
	}
}

# Let the administrator type them.  The network that packages come from is not
# the one that is served.
follow() {
	block "$1"
	# shellcheck disable=SC2162	# a backslash joins two lines
	while IFS= read line; do
		echo "# $line"
		system --net="/proc/$$/ns/net" sh -c "cd /root/pop3d && $line" \
		    </dev/null >"$work/out" 2>&1 || {
			cat "$work/out"
			exit 1
		}
	done <"$work/block"
}

system() {
	nsenter --target "$number" --mount --pid --uts --ipc --cgroup "$@"
}

# From the client's network: read a mail, then delete it.
fetch() {
	printf '%s\n' 'From bob@example.org Thu Nov  5 10:00:00 2026' \
	    'Subject: hello' '' 'Hi.' '' |
	    system sh -c 'cat >/root/mail
		install -o p3dalice -g mail -m 660 /root/mail /var/mail/p3dalice'
	echo "# curl $*"
	set -- nsenter --target "$client" --net curl -sS -m 60 \
	    -u "p3dalice:$password" "$@"
	"$@" | grep '^Subject: hello'
	"$@" -l -X DELE
	# The journal hears of it a moment later.
	tries=0
	until system journalctl --no-pager -t pop3d --cursor-file=/run/seen |
	    tee "$work/log" | grep 'logout: user=<p3dalice> .* dele=1 left'; do
		[ $((tries += 1)) -lt 60 ] || exit 1
		sleep 1
	done
	grep 'login: user=<p3dalice> ip=192.0.2.7 .* tls=yes' "$work/log"
	system test ! -s /var/mail/p3dalice
	if grep 'not confined' "$work/log"; then
		exit 1
	fi
}

# A server has an init, which a minbase system lacks.
sh "$here/fresh.sh" ${release:+-r "$release"} ${tar:+-t "$tar"} "$root" \
    'apt-get update &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y \
	--no-install-recommends systemd-sysv' >"$work/out" 2>&1 || {
	cat "$work/out"
	exit 1
}

# In namespaces it can load no modules, and would call itself degraded.
ln -s /dev/null "$root/etc/systemd/system/systemd-modules-load.service"

mount -t cgroup2 none "$work/cgroup"
mkdir -p "$work/cgroup/pop3d-fresh"
# shellcheck disable=SC2016	# for the inner shells
sh -ec 'echo $$ >"$0/pop3d-fresh/cgroup.procs"
    umount "$0"
    exec unshare --mount --net --pid --uts --ipc --cgroup --fork --kill-child \
	sh -ec "$@"' "$work/cgroup" '
	read -r number _ </proc/self/stat
	mount --rbind "$0" "$0"
	cd "$0"
	mount -t proc proc proc
	mount -t sysfs sysfs sys
	mount -t cgroup2 cgroup sys/fs/cgroup
	mount -t tmpfs -o mode=755 dev dev
	for name in null zero full random urandom tty; do
		touch dev/$name
		mount --bind /dev/$name dev/$name
	done
	mkdir dev/pts dev/shm
	mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
	ln -s pts/ptmx dev/ptmx
	mount -t tmpfs -o mode=755 run run
	ip link set lo up
	echo "$number" >"$1"
	pivot_root . mnt
	umount -l /mnt
	exec env -i container=namespaces /sbin/init' "$root" "$work/number" \
    </dev/null >/dev/null 2>&1 &
init=$!
unshare --net sleep 3600 &
client=$!

tries=0
until number=$(cat "$work/number" 2>/dev/null) && [ -n "$number" ] &&
    [ "$(system systemctl is-system-running 2>&1)" = running ]; do
	[ $((tries += 1)) -lt 60 ] || exit 1
	sleep 1
done

ip link add eth0 netns "$number" type veth peer eth0 netns "$client"
nsenter --target "$number" --net ip addr add 192.0.2.1/24 dev eth0
nsenter --target "$number" --net ip link set eth0 up
nsenter --target "$client" --net ip addr add 192.0.2.7/24 dev eth0
nsenter --target "$client" --net ip link set eth0 up

password=$(od -An -N8 -tx1 /dev/urandom | tr -d ' ')
system useradd -m p3dalice
echo "p3dalice:$password" | system chpasswd
follow 'A compiler, make'
follow '^The spool should'
follow 'whether to trust'
follow '^Started by systemd'
fetch -k pop3s://192.0.2.1/1
follow '^tlswrapper in place'
fetch -k pop3s://192.0.2.1/1
follow '^STLS on port 110'
fetch -k --ssl-reqd pop3://192.0.2.1/1

# The ports are inetd's now.
system systemctl stop pop3s.socket pop3d.socket
follow '^or by inetd'
fetch -k pop3s://192.0.2.1/1
