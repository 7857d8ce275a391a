#!/bin/sh
# Install what the tests need, as root: see packages; or, with an argument NAME
# of "demo", "lint" or "vm", what packages.NAME names.  Servers among it are not
# started.  A name with a question mark is that of a package which not every
# release has: it is taken where it is.

here=$(dirname "$0")
guard=/usr/sbin/policy-rc.d
if [ ! -e $guard ]; then
	trap 'rm -f $guard' EXIT
	printf '#!/bin/sh\nexit 101\n' >$guard && chmod 755 $guard || exit
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update || exit
listed=$(sed 's/#.*//' "$here/packages${1:+.$1}") names=
for name in $listed; do
	case $name in
	*\?)	apt-cache show "${name%\?}" >/dev/null 2>&1 || {
			echo "This release has no ${name%\?}."
			continue
		} ;;
	esac
	names="$names ${name%\?}"
done
# shellcheck disable=SC2086	# a list
apt-get install -y --no-install-recommends $names
