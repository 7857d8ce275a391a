#!/bin/sh
# image.sh DIR: make DIR/vmlinuz and DIR/initrd, a whole Debian of this
# machine's release as initramfs: kernel modules, python3, NFS, popa3d.  As
# root; two minutes.

set -eu
mkdir -p "$1"
cd "$1"
# shellcheck source=/dev/null
. /etc/os-release
mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources | head -n 1)
packages=python3-minimal,libpython3-stdlib,kmod,iproute2,e2fsprogs,xfsprogs
packages=$packages,btrfs-progs,dmsetup,nfs-common,nfs-kernel-server,rpcbind
packages=$packages,netbase,libbsd0,libwrap0,procps,procmail
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH

rm -rf root debs unpacked
debootstrap --variant=minbase --include=$packages "$VERSION_CODENAME" root \
    "$mirror" >debootstrap.log
kernel=$(apt-cache depends linux-image-amd64 |
    sed -n 's/.*Depends: \(linux-image-[0-9]\)/\1/p' | head -n 1)
mkdir debs
(cd debs && apt-get -q download "$kernel" popa3d)
# Not into root: its /lib is a link.
for deb in debs/*.deb; do
	dpkg -x "$deb" unpacked
done
cp unpacked/boot/vmlinuz-* vmlinuz
for modules in unpacked/lib/modules unpacked/usr/lib/modules; do
	[ ! -d $modules ] || cp -a $modules root/usr/lib/
done
cp unpacked/usr/sbin/popa3d root/usr/sbin/
cp unpacked/etc/pam.d/popa3d root/etc/pam.d/
chroot root useradd -r -s /usr/sbin/nologin -d /nonexistent popa3d
mkdir -p root/var/lib/popa3d

# All that is here must fit into a machine's memory.
(cd root/var && rm -rf cache/apt/* lib/apt/lists/*)
(cd root/usr/share && rm -rf doc man locale info)
version=$(ls root/usr/lib/modules)
(cd "root/usr/lib/modules/$version/kernel" &&
    rm -rf sound drivers/gpu drivers/media drivers/infiniband drivers/staging \
	drivers/net/wireless drivers/net/ethernet drivers/usb drivers/iio \
	drivers/scsi/qla* drivers/hid drivers/input drivers/platform \
	drivers/hwmon drivers/mtd drivers/edac drivers/isdn drivers/bluetooth \
	net/bluetooth net/wireless net/mac80211 fs/ceph fs/ocfs2 fs/gfs2 fs/f2fs)
chroot root depmod "$version"

cat >root/init <<'INIT'
#!/bin/sh
# Run /host/JOB, of the folder that the host shares, and power off.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /run /tmp /host
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t tmpfs shm /dev/shm
ip link set lo up
modprobe -a virtio_pci 9pnet_virtio 9p
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none host /host
for word in $(cat /proc/cmdline); do
	case $word in job=*) job=${word#job=} ;; esac
done
IFS=,
set -- $job
unset IFS
echo "init: up"
"/host/$@" </dev/null
echo "init: $1 ended: $?"
sync
echo o >/proc/sysrq-trigger
sleep 60
INIT
chmod +x root/init
(cd root && find . -xdev -path ./var/lib/dpkg -prune -o -print0 |
    cpio --null -o -H newc --quiet) >initrd.tmp
rm -rf root debs unpacked
mv initrd.tmp initrd
