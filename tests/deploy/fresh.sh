#!/bin/sh
# Run a command line in a fresh Debian, in a copy of this checkout.
#
# usage: fresh.sh [-u] [-r release] [-t tar] folder command
#
# As root, on Debian.  The folder is made if it is not there: a system as small
# as debootstrap makes it (minbase, and sudo), with this host's sources of
# packages.
#	-r release	not this host's own, but bookworm, trixie, ...
#	-t tar		keeps the bare system: made if it is not there, else used
#	-u		as an ordinary user who may use sudo, instead of root

set -eu

usage() {
	echo "usage: $0 [-u] [-r release] [-t tar] folder command" >&2
	exit 64
}

own=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
release=$own tar='' user=root home=/root
while getopts r:t:u option; do
	case $option in
	r) release=$OPTARG ;;
	t) tar=$OPTARG ;;
	u) user=user home=/home/user ;;
	*) usage ;;
	esac
done
shift $((OPTIND - 1))
[ $# = 2 ] || usage
root=$1
checkout=$(cd "$(dirname "$0")/../.." && pwd)

# In the folder, with its own mounts and processes: nothing is left of them.
# shellcheck disable=SC2016	# for the inner shell
inside() {
	unshare --mount --pid --fork --kill-child sh -ec '
		mount --rbind "$0" "$0"
		cd "$0"
		mount -t proc proc proc
		mount --rbind /dev dev
		mount -t tmpfs tmp tmp
		pivot_root . mnt
		umount -l /mnt
		exec "$@"' "$root" env -i HOME="$home" TERM=dumb LANG=C.UTF-8 \
	    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	    "$@"
}

# shellcheck disable=SC2016	# apt replaces these, not sh
sources() {
	apt-get indextargets 'Created-By: Packages' 'Origin: Debian' \
	    --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' |
	    sed "s/ $own\([ -]\)/ $release\1/"
}

if [ ! -d "$root" ]; then
	mkdir -p "$root"
	if [ -n "$tar" ] && [ -e "$tar" ]; then
		tar -C "$root" -xpf "$tar"
	else
		mirror=$(sources |
		    sed -n "s/^deb \(.*\) $release main\$/\1/p;T;q")
		debootstrap --variant=minbase --include=sudo "$release" "$root" \
		    "$mirror"
		[ -z "$tar" ] || {
			tar -C "$root" -cpf "$tar.new" .
			mv "$tar.new" "$tar"
		}
	fi
	sources >"$root/etc/apt/sources.list"
	apt-config dump | sed -n '/^Acquire::http.*Proxy/p' \
	    >"$root/etc/apt/apt.conf.d/proxy"
fi
cp /etc/resolv.conf /etc/hosts "$root/etc"

if [ $user != root ] && [ ! -d "$root$home" ]; then
	inside sh -ec 'useradd -m user
		echo "user ALL=(ALL) NOPASSWD: ALL" >/etc/sudoers.d/user'
fi
rm -rf "$root$home/pop3d"
mkdir "$root$home/pop3d"
(cd "$checkout" && git ls-files -coz --exclude-standard |
    tar --null -T - -cf -) | tar -C "$root$home/pop3d" --no-same-owner -xf -
inside chown -R $user: "$home/pop3d"
inside runuser -u $user -- sh -c "cd $home/pop3d && $2"
